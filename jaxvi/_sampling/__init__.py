"""Draws of q with log weights, from heavy-tailed proposals, and by Hamiltonian Monte Carlo."""

from jaxvi._sampling.approximation import (
    Approximation,
    constrain_rows,
    lower_sampling,
    noncentered,
    sampling_rows,
)
from jaxvi._sampling.evaluate import features, values_of, values_of_block
from jaxvi._sampling.heavy_tailed_draws import has_heavy_tailed_draws, heavy_tailed_noise
from jaxvi._sampling.hmc import (
    MAX_LEAPFROG_STEPS,
    MAX_STEP_FACTOR,
    MIN_STEP_FACTOR,
    acceptance_probability,
    adapted_log_step,
    advance_chains,
    leapfrog,
    min_leapfrog_steps,
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
    "MAX_LEAPFROG_STEPS",
    "MAX_STEP_FACTOR",
    "MIN_STEP_FACTOR",
    "Approximation",
    "acceptance_probability",
    "adapted_log_step",
    "advance_chains",
    "constrain_rows",
    "draw_noise",
    "draw_with_log_weights",
    "draws_each",
    "features",
    "has_heavy_tailed_draws",
    "heavy_tailed_noise",
    "leapfrog",
    "lower_draws",
    "lower_sampling",
    "min_leapfrog_steps",
    "noncentered",
    "sampling_rows",
    "start_chains",
    "tiled",
    "values_of",
    "values_of_block",
    "weigh_draws",
]
