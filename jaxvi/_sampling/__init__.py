"""Draws: weighted, from heavy-tailed proposals, by Hamiltonian Monte Carlo."""

from jaxvi._sampling.approximation import (
    Approximation,
    constrain_rows,
    lower_sampling,
    noncentered,
    sampling_rows,
)
from jaxvi._sampling.evaluate import _values, features, values_of
from jaxvi._sampling.heavy_tailed_draws import has_heavy_tailed_draws, widened
from jaxvi._sampling.hmc import (
    LONGEST,
    MOST_LEAPS,
    SHORTEST,
    adapted,
    advance_chains,
    chance_of,
    fewest_leaps,
    start_chains,
)
from jaxvi._sampling.weighted_draws import (
    draw_noise,
    draw_with_log_weights,
    draws_each,
    lower_draws,
    tiled,
    weigh_draws,
)

__all__ = [
    "LONGEST",
    "MOST_LEAPS",
    "SHORTEST",
    "Approximation",
    "_values",
    "adapted",
    "advance_chains",
    "chance_of",
    "constrain_rows",
    "draw_noise",
    "draw_with_log_weights",
    "draws_each",
    "features",
    "fewest_leaps",
    "has_heavy_tailed_draws",
    "lower_draws",
    "lower_sampling",
    "noncentered",
    "sampling_rows",
    "start_chains",
    "tiled",
    "values_of",
    "weigh_draws",
    "widened",
]
