"""Figures of fits and mixtures, on matplotlib axes."""

from jaxvi.plotting._figures import new_figure as new_figure
from jaxvi.plotting._figures import plot_bounds, plot_mixture, telling_features

__all__ = ["plot_bounds", "plot_mixture", "telling_features"]
