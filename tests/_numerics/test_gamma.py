"""Special functions of positive arguments, against scipy's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxvi._numerics import gamma

POINTS = np.concatenate([np.logspace(-8, 8, 400), np.linspace(0.5, 20.0, 200)])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("name", "reference"), [("gammaln", scipy.special.gammaln), ("digamma", scipy.special.digamma)]
)
def test_functions_are_scipys(name, reference, dtype):
    with jax.enable_x64(dtype == np.float64):
        points = POINTS.astype(dtype)
        found = getattr(gamma, name)(jnp.asarray(points))
        assert found.dtype == dtype
    exact = reference(points.astype(np.float64))
    eps = np.finfo(dtype).eps
    # near their zeros the error is of the terms that cancel
    np.testing.assert_allclose(found, exact, rtol=40 * eps, atol=40 * eps)


def test_beta_is_scipys():
    with jax.enable_x64(True):
        others = np.asarray([0.1, 1.0, 3.0, 1e3])[None]
        points, parts = np.broadcast_arrays(POINTS[:, None], others)
        found = np.asarray(gamma.betaln(jnp.asarray(points), jnp.asarray(parts)))
    exact = scipy.special.betaln(POINTS[:, None], others)
    scale = np.abs(scipy.special.gammaln(POINTS + 1e3))[:, None]
    assert np.max(np.abs(found - exact) / (1.0 + scale)) < 1e-13
