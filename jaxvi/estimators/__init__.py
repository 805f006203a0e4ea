"""Estimators with scikit-learn's interface, compiled and batched over restarts."""

from jaxvi.estimators._bayesian_mixture import BayesianGaussianMixture

__all__ = ["BayesianGaussianMixture"]
