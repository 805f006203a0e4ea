"""Ranking by blocks of rows: the bounds of all rows, by the same draws."""

import jax
import jax.numpy as jnp
import numpy as np
from regression import TARGET, rows

import jaxvi
from jaxvi._engine import Setup, lane_results, start_lanes
from jaxvi._engine.ranking import rank_phis
from jaxvi._engine.ranking_by_rows import rank_by_rows, slices
from jaxvi._numerics import split_key

KEY = jax.random.key(4)
SOLVER = jaxvi.Stochastic(learning_rate=0.02)


def test_ranking_by_blocks_of_rows_is_ranking(x64):
    """The same draws, the sum over rows taken a block at a time."""
    data = jax.tree.map(jnp.asarray, rows(150, float))
    setup = Setup(TARGET, jaxvi.FullRank(), jaxvi.ELBO(), SOLVER, jaxvi.Fresh())
    keys = split_key(KEY)
    lanes = start_lanes(keys, None, jnp.asarray(1.0), data, setup=setup, num_lanes=3)
    phis, status = lane_results(lanes, setup=setup), np.full(3, jaxvi.Status.STEP_LIMIT)
    blocks = slices(data, 64)
    ranking = rank_by_rows(keys, phis, status, blocks, TARGET, setup, 500)
    whole = rank_phis(keys, phis, status, data, setup=setup, num_draws=500)
    assert ranking.best == whole.best
    # other draws of the same q: bounds agree to within their errors
    error = np.hypot(ranking.mcse, whole.mcse)
    assert (np.abs(ranking.bound - whole.bound) < 4 * error).all()
    z = jnp.asarray(ranking.draws.z)
    log_p = jax.vmap(TARGET.log_prob, (0, None))(z, data)
    log_q = jax.vmap(setup.family.log_prob, (None, 0))(
        jax.tree.map(lambda leaf: leaf[ranking.best], phis), z
    )
    np.testing.assert_allclose(ranking.log_weights, log_p - log_q, rtol=1e-10)
