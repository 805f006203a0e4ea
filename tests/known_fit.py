"""A fit whose numbers are known, for pictures and reports."""

import dataclasses

import jax
import numpy as np

import jaxvi
import jaxvi.models
from jaxvi._engine import History, Setup
from jaxvi.results import Fit, Timing

NUM_LANES = 6


def known_fit(**changes):
    """Six lanes: three at -10, two at -30, one that failed; they ended at different steps."""
    bounds = np.array([-10.05, -30.0, -10.0, np.nan, -10.1, -30.02])
    steps = np.array([400, 200, 300, 100, 400, 400])
    history = np.stack(
        [b - 1e4 * np.exp(-2.0 * np.arange(1, 9)) for b in np.nan_to_num(bounds)], axis=1
    )
    fit = Fit(
        setup=Setup(
            jaxvi.models.gaussian_mixture(2, 1),
            jaxvi.MeanField(),
            jaxvi.ELBO(),
            jaxvi.Stochastic(),
            jaxvi.Fresh(),
        ),
        phi=None,
        status=np.array([1, 1, 1, 3, 1, 2]),
        steps=steps,
        bounds=bounds,
        bounds_mcse=np.full(NUM_LANES, 0.01),
        difference_mcse=np.zeros(NUM_LANES),
        best=2,
        num_bad_draws=np.zeros(NUM_LANES, int),
        log_weights=np.zeros(100),
        history=History(np.arange(50, 401, 50), history),
        timing=Timing(2.0, 0.5, 3.0),
        interrupted=False,
        key=jax.random.key(0),
    )
    return dataclasses.replace(fit, **changes)
