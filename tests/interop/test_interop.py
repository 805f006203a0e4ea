"""Families from other packages: flowjax's flows are fitted, evaluated and compared like our own."""

import builtins
import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvi
from jaxvi.families import HasMirror, HasUniform, transform_and_log_prob
from jaxvi.interop import flowjax as as_family


@pytest.fixture
def flowjax() -> Iterator[Any]:
    """The package flowjax, with its flows and distributions; it counts on promoted ranks."""
    package = pytest.importorskip("flowjax")
    pytest.importorskip("flowjax.flows")
    with jax.numpy_rank_promotion("allow"):
        yield package


def coupling(flowjax: Any, dim: int, seed: int = 0, **options: Any) -> Any:
    base = flowjax.distributions.Normal(jnp.zeros(dim))
    made: Any = {"flow_layers": 2, "nn_width": 8, "invert": False, **options}
    return flowjax.flows.coupling_flow(jax.random.key(seed), base_dist=base, **made)


def autoregressive(flowjax: Any, dim: int, seed: int = 0, **options: Any) -> Any:
    base = flowjax.distributions.StandardNormal((dim,))
    made: Any = {"flow_layers": 2, "nn_width": 8, "invert": False, **options}
    return flowjax.flows.masked_autoregressive_flow(jax.random.key(seed), base_dist=base, **made)


def block(flowjax: Any, dim: int, seed: int = 0) -> Any:
    base = flowjax.distributions.Normal(jnp.zeros(dim))
    make = flowjax.flows.block_neural_autoregressive_flow
    return make(jax.random.key(seed), base_dist=base, invert=False)


@pytest.mark.parametrize(
    ("make", "dtype"),
    [(coupling, "float64"), (autoregressive, "float32"), (block, "float32")],
    indirect=["dtype"],
)
def test_a_flow_of_flowjax_is_a_family(flowjax: Any, make: Any, dtype: np.dtype) -> None:
    """Draws and densities are flowjax's own, and the log-determinant that of the Jacobian."""
    flow = make(flowjax, 3)
    family = as_family(flow, init_scale=1.0)
    assert isinstance(family, HasMirror)
    assert isinstance(family, HasUniform)
    start = jnp.asarray([0.5, -3.0, 2.0], dtype)
    phi = family.init(jax.random.key(1), 3, start=start)
    assert {leaf.dtype for leaf in jax.tree.leaves(phi)} == {dtype}
    noise = family.draw_noise(jax.random.key(2), 20, 3, dtype)
    z, log_q = jax.jit(jax.vmap(functools.partial(transform_and_log_prob, family, phi)))(noise)
    assert z.dtype == log_q.dtype == dtype
    own = jax.jit(jax.vmap(flow.merge_transforms().bijection.transform))(noise)
    np.testing.assert_allclose(z - start[None], own, rtol=1e-4, atol=1e-4)
    jacobian = jax.jit(jax.vmap(jax.jacfwd(functools.partial(family.transform, phi))))(noise)
    base = -0.5 * np.sum(noise**2, axis=-1) - 1.5 * math.log(2.0 * math.pi)
    np.testing.assert_allclose(log_q, base - np.linalg.slogdet(jacobian)[1], rtol=1e-4, atol=1e-4)
    back = jax.jit(jax.vmap(functools.partial(family.log_prob, phi)))(z)
    np.testing.assert_allclose(back, log_q, rtol=1e-3, atol=1e-3)


def test_one_flow_makes_equal_families(flowjax: Any) -> None:
    """Equal by value, with equal hashes; other weights, shapes or maps make other families."""
    flow = coupling(flowjax, 3)
    first, second = as_family(flow), as_family(flow)
    assert first == second
    assert hash(first) == hash(second)
    others = [
        as_family(coupling(flowjax, 3, seed=1)),
        as_family(coupling(flowjax, 3, nn_width=9)),
        as_family(coupling(flowjax, 2)),
        as_family(coupling(flowjax, 3), affine="diagonal"),
        as_family(autoregressive(flowjax, 3)),
    ]
    assert len({first, *others}) == 1 + len(others)


def test_what_flowjax_keeps_stays(flowjax: Any) -> None:
    """Arrays marked as not trainable have no gradient; all others may have one."""
    paramax = pytest.importorskip("paramax")
    distributions = flowjax.distributions
    normal = distributions.Normal(jnp.asarray([1.0, -2.0]), jnp.asarray([0.5, 3.0]))
    for frozen in (False, True):
        flow = paramax.non_trainable(normal) if frozen else normal
        family = as_family(flow)
        phi = family.init(jax.random.key(0), 2, start=jnp.zeros(2))

        def bound(phi: Any, family: Any = family) -> Any:
            z, log_q = transform_and_log_prob(family, phi, jnp.asarray([0.3, -0.7]))
            return jnp.sum(z**2) - log_q

        gradient = jax.grad(bound)(phi)
        assert all(bool(leaf.any()) != frozen for leaf in jax.tree.leaves(gradient.inner))
        assert all(bool(leaf.any()) for leaf in (gradient.bijector.loc, gradient.bijector.log_diag))


def test_a_flow_of_flowjax_is_fitted(flowjax: Any) -> None:
    """On a correlated Gaussian, off-centre, a fitted flow reaches the evidence."""
    precision = np.linalg.inv(np.array([[1.0, 0.8], [0.8, 2.0]]))

    def log_density(z: Any) -> Any:
        white = z - jnp.asarray([4.0, -3.0])
        return 2.5 - 0.5 * white @ jnp.asarray(precision, z.dtype) @ white

    evidence = 2.5 + math.log(2.0 * math.pi) - 0.5 * np.linalg.slogdet(precision)[1]
    fit = jaxvi.fit(
        jax.random.key(0),
        jaxvi.Target(log_density, jaxvi.Real(2)),
        as_family(coupling(flowjax, 2)),
        solver=jaxvi.Stochastic(learning_rate=0.02),
        num_restarts=2,
        max_steps=1_500,
    )
    assert abs(fit.bound - evidence) < 0.1
    z = fit.sample(jax.random.key(1), 4000)
    np.testing.assert_allclose(z.mean(axis=0), [4.0, -3.0], atol=0.15)


def test_distributions_that_will_not_do_are_refused(flowjax: Any) -> None:
    """Words say what was given, and what to give."""
    distributions = flowjax.distributions
    with pytest.raises(TypeError, match=r"transforms standard normals; got int; try a flow"):
        as_family(3)
    with pytest.raises(TypeError, match=r"got StudentT of _StandardStudentT"):
        as_family(distributions.StudentT(jnp.full(2, 5.0)))
    with pytest.raises(TypeError, match=r"got shape \(2, 3\)"):
        as_family(distributions.Normal(jnp.zeros((2, 3))))
    with pytest.raises(TypeError, match=r"cond_shape \(4,\); try cond_dim=None"):
        as_family(coupling(flowjax, 3, cond_dim=4))
    with pytest.raises(ValueError, match=r"flow of dimension 2, the target's; got 3"):
        as_family(coupling(flowjax, 3)).init(jax.random.key(0), 2)


def test_without_flowjax_the_words_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ImportError names the package and the extra that brings it."""
    real = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.split(".")[0] == "flowjax":
            raise ModuleNotFoundError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"package flowjax.*try pip install 'jaxvi\[flows\]'"):
        as_family(object())
