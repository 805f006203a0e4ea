"""Where the density rises again on lines from a mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvi
from jaxvi.autopilot._line_searches import peaks_on_lines

KEY = jax.random.key(0)


def two_modes(z, far):
    """Shares 0.7 and 0.3, unit sds, one at the origin."""
    away = jnp.zeros_like(z).at[0].set(far)
    near = jnp.log(0.7) - 0.5 * jnp.sum(z**2)
    return jnp.logaddexp(near, jnp.log(0.3) - 0.5 * jnp.sum((z - away) ** 2))


def places(target, dim, data=None, most=16):
    return peaks_on_lines(KEY, target, np.zeros(dim), np.eye(dim), data, most)


@pytest.mark.parametrize("dim", [1, 2, 3, 5])
def test_another_mode_is_seen(dim):
    """The best place is nearer to it than to the mode where rays begin, and not twice."""
    target = jaxvi.Target(two_modes, jaxvi.Real(dim))
    found = places(target, dim, jnp.asarray(12.0))
    assert 1 <= len(found) <= 16
    assert found[0, 0] > 6.0
    assert len(places(target, dim, jnp.asarray(12.0), most=1)) == 1


@pytest.mark.parametrize(
    "density",
    [
        lambda z: -0.5 * jnp.sum(z**2),
        lambda z: -3.0 * jnp.sum(jnp.log1p(z**2 / 5.0)),
        lambda z: jnp.where(jnp.abs(z).max() < 4.0, -0.5 * jnp.sum(z**2), jnp.nan),
    ],
)
def test_one_mode_has_none_beyond(density):
    """Neither of a Gaussian, nor of heavy tails, nor where there is no density."""
    assert len(places(jaxvi.Target(density, jaxvi.Real(3)), 3)) == 0


def test_the_default_call_finds_a_mode_that_no_start_reaches():
    """60 sds away: line searches see it, restarts go there, and the verdict says so."""
    target = jaxvi.Target(two_modes, jaxvi.Real(1))
    fit = jaxvi.fit(KEY, target, data=jnp.asarray(60.0), progress=False)
    assert "line_searches" in [stage.name for stage in fit.log]
    assert fit.verdict == "caution"
    assert "2 separate modes" in fit.reasons[0]
    share = np.mean(np.asarray(fit.sample(jax.random.key(1), 4_000)) > 30.0)
    assert abs(share - 0.3) < 0.03


def test_rays_are_left_where_starts_are_given():
    """Who says where to start is asked for no other place."""
    target = jaxvi.Target(two_modes, jaxvi.Real(1))
    fit = jaxvi.fit(
        KEY, target, data=jnp.asarray(60.0), start=jnp.zeros(1), start_scale=0.1, progress=False
    )
    assert "line_searches" not in [stage.name for stage in fit.log]


def test_places_without_a_gradient_are_passed_over():
    """The rise is there, but no restart can begin on it."""

    def density(z):
        bump = 0.3 * jnp.exp(-0.5 * jnp.sum((z - 20.0) ** 2))
        there = z[0] > 10.0
        broken = jnp.where(there, jnp.sqrt(jnp.where(there, 0.0 * z[0], 1.0)), 0.0)  # no slope
        return jnp.log(jnp.exp(-0.5 * jnp.sum(z**2)) + bump + 1e-300) + broken

    fit = jaxvi.fit(KEY, jaxvi.Target(density, jaxvi.Real(1)), progress=False, start_scale=1.0)
    assert [stage.name for stage in fit.log][:2] == ["gaussian", "weights"]
    assert fit.findings.modes == 1
