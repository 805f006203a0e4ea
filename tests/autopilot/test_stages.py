"""Each stage of the default call by itself, on a made-up state; and the loop over them."""

import dataclasses
import inspect
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvi
from jaxvi import autopilot
from jaxvi._compilation import CompileClock
from jaxvi._fitting import Request, checked
from jaxvi._sampling import Approximation
from jaxvi.autopilot import Context, Stage, State, default_stages
from jaxvi.diagnostics import importance_weights
from jaxvi.results import CorrectedDraws, Errors

KEY = jax.random.key(4)
LOC, SD = np.array([3.0, -20.0]), np.array([0.5, 4.0])


@pytest.fixture(autouse=True)
def _float64(x64):
    """What is meant here is the method, not rounding."""


def normal(z):
    return 2.0 - 0.5 * jnp.sum(((z - LOC) / SD) ** 2)


def banana(z):
    return -0.5 * z[0] ** 2 - 0.5 * ((z[1] - z[0] ** 2) / 0.5) ** 2


def two_modes(z):
    near, far = -0.5 * jnp.sum(z**2), -0.5 * jnp.sum((z - 40.0) ** 2)
    return jnp.logaddexp(near + math.log(0.7), far + math.log(0.3))


def funnel(z):
    return -0.5 * (z[0] / 2.0) ** 2 - 0.5 * jnp.sum(z[1:] ** 2) * jnp.exp(-z[0]) - 2.0 * z[0]


def context_of(density, dim=2, max_seconds=None, **request) -> Context:
    """A context whose log is empty, for a target of independent coordinates."""
    target = jaxvi.Target(density, jaxvi.Real(dim))
    asked = autopilot.with_default_numbers(checked(Request(KEY, target, **request)))
    began = time.perf_counter()
    return Context(asked, default_stages(), [], CompileClock(), began, max_seconds, False)


def restarts_of(context, num=2, **options):
    """Restarts that ended in one place, made without any stage."""
    solver, target = jaxvi.NaturalGradient(), context.target
    options = {"num_restarts": num, "start_scale": 0.5, **options}
    return jaxvi.fit(KEY, target, solver=solver, progress=False, **options)


def gaussian_at(context, loc, scale_tril) -> Approximation:
    """A Gaussian that is given, as q."""
    family = jaxvi.FullRank()
    loc, scale_tril = jnp.asarray(loc, float), jnp.asarray(scale_tril, float)
    phi = family.init_gaussian(KEY, loc, scale_tril)
    return Approximation(context.target, family, phi)


def state_with(context, fit, q=None, **fields) -> State:
    """A state after the weights of q, or of the fit's best lane."""
    at = q or fit.q
    weights = importance_weights(KEY, context.target, at.family, at.phi)
    return State(restarts=fit, fits=(fit,), modes=((0, fit.best),), q=q, weights=weights, **fields)


def test_gaussian_leaves_restarts_and_a_line():
    """The best lane is the known posterior; another run finds nothing to do."""
    context = context_of(normal, num_restarts=4)
    stage = autopilot.Gaussian()
    state = stage.run(context, State())
    assert [line.name for line in context.log] == ["gaussian"]
    assert state.fits == (state.restarts,)
    assert state.fit.num_restarts == 4
    np.testing.assert_allclose(state.fit.lane(state.fit.best).phi.loc, LOC, atol=1e-3)
    assert stage.applies(State())
    assert not stage.applies(state)


def test_line_searches_find_a_mode_that_no_restart_has():
    """And leave restarts that began there; with two modes known there is nothing to look for."""
    context = context_of(two_modes, dim=1, num_restarts=4)
    fit = restarts_of(context, 4)
    state, stage = State(restarts=fit, fits=(fit,)), autopilot.LineSearches()
    assert stage.applies(state)
    found = stage.run(context, state)
    assert len(found.fits) == 2
    assert len(found.modes) == 2
    assert abs(float(found.fits[1].lane(found.fits[1].best).phi.loc[0]) - 40.0) < 0.1
    assert not stage.applies(found)
    assert not autopilot.LineSearches(max_dim=0).applies(state)
    assert not autopilot.LineSearches(min_restarts=5).applies(state)


def test_line_searches_are_left_where_a_start_is_given():
    context = context_of(two_modes, dim=1, num_restarts=4, start=jnp.zeros(1))
    fit = restarts_of(context, 4)
    found = autopilot.LineSearches().run(context, State(restarts=fit, fits=(fit,)))
    assert len(found.fits) == 1
    assert context.log == []


def test_modes_become_a_mixture_with_shares_by_bounds():
    context = context_of(two_modes, dim=1)
    starts = jnp.array([[0.0], [40.0]])
    fit = restarts_of(context, start=starts)
    found = autopilot.Modes().run(context, State(restarts=fit, fits=(fit,)))
    assert found.num_modes == 2
    assert isinstance(found.q.family, jaxvi.Mixture)
    draws = np.asarray(found.q.sample_unconstrained(KEY, 4_000))
    assert abs((draws > 20.0).mean() - 0.3) < 0.05
    one = State(restarts=fit, fits=(fit,), modes=((0, fit.best),))
    assert autopilot.Modes().run(context, one) is not found
    assert autopilot.Modes().run(context, one).q is None


def test_weights_of_the_posterior_itself_are_uniform():
    context = context_of(normal)
    fit = restarts_of(context)
    state = State(restarts=fit, fits=(fit,))
    found = autopilot.Weights().run(context, state)
    assert found.weights.relative_ess > 0.999
    assert not autopilot.Weights().applies(found)
    assert not autopilot.Weights().applies(State())


@pytest.mark.parametrize(
    ("narrow", "vouches", "weighted"),
    [(1.0, True, False), (0.8, True, True), (0.3, False, False)],
)
def test_weight_check_vouches_for_what_weights_can_tell(narrow, vouches, weighted):
    """Of q as it should be, of one whose sds are 0.8 of those, and of one that sees too little."""
    context = context_of(normal)
    fit, stage = restarts_of(context), autopilot.WeightCheck()
    state = state_with(context, fit, gaussian_at(context, LOC, np.diag(narrow * SD)))
    assert stage.applies(state)
    found = stage.run(context, state)
    assert found.checked
    assert not stage.applies(found)
    assert (found.errors is not None) == vouches
    assert (found.draws is not None) == weighted


def test_nested_laplace_integrates_a_funnel():
    """Its bound is the log evidence, which a Gaussian misses by much."""
    context = context_of(funnel, dim=5)
    fit = restarts_of(context)
    stage = autopilot.NestedLaplaceStage(flow_max_dim=0)
    state = state_with(context, fit, checked=True)
    assert stage.applies(state)
    found = stage.run(context, state)
    evidence = 0.5 * math.log(2 * math.pi * 4.0) + 2.0 * math.log(2 * math.pi)
    assert abs(found.weights.bound - evidence) < 0.05
    assert fit.bound < evidence - 0.1
    assert found.nested is not None
    assert found.draws.by == "q"
    assert not found.checked
    assert not stage.applies(dataclasses.replace(state, errors=Errors((0, 0), (0, 0), "weights")))


def test_noncentering_names_the_hyperparameter():
    context = context_of(funnel, dim=5)
    fit, stage = restarts_of(context), autopilot.NoncenteringStage()
    found = stage.run(context, state_with(context, fit, checked=True))
    assert found.hyperparameters == (context.target.coordinate_names()[0],)
    assert isinstance(found.q.family, jaxvi.Transformed)
    assert found.weights.relative_ess > 0.95
    normal_context = context_of(normal)
    state = state_with(normal_context, restarts_of(normal_context), checked=True)
    assert stage.run(normal_context, state) is state
    assert "no coordinate" in normal_context.log[0].note


def test_flow_bends_to_a_banana():
    context = context_of(banana)
    fit, stage = restarts_of(context), autopilot.Flow()
    state = state_with(context, fit, checked=True)
    assert stage.applies(state)
    found = stage.run(context, state)
    assert isinstance(found.q.family, jaxvi.CouplingFlow)
    assert found.weights.relative_ess > 0.9 > state.weights.relative_ess
    assert not autopilot.Flow(max_cycles=0).applies(state)
    assert not autopilot.Flow(max_dim=1).applies(state)


def test_chains_mend_a_q_that_is_too_narrow():
    context = context_of(normal)
    fit = restarts_of(context)
    state = state_with(context, fit, gaussian_at(context, LOC, np.diag(0.3 * SD)), checked=True)
    stage = autopilot.Chains(num_chains=250)
    assert stage.applies(state)
    found = stage.run(context, state)
    assert found.draws.by == "chains"
    np.testing.assert_allclose(np.asarray(found.draws.z).std(axis=0) / SD, 1.0, atol=0.08)
    assert found.errors.by == "chains"
    assert not stage.applies(found)
    looked = autopilot.Chains(num_chains=250, polish=False).run(context, state)
    assert looked.draws is None
    assert looked.errors.log_sd[0] > 0.5


# The loop


@dataclasses.dataclass(frozen=True)
class Press(Stage):
    """Presses Ctrl-C."""

    name: ClassVar[str] = "press"

    def applies(self, state: State) -> bool:
        return True

    def run(self, context: Context, state: State) -> State:
        raise KeyboardInterrupt


def test_an_interrupt_keeps_what_there_was():
    """Brief stages still look at it; the others are skipped, and the verdict says so."""
    target = jaxvi.Target(banana, jaxvi.Real(2))
    first, *others = default_stages()
    fit = jaxvi.fit(KEY, target, stages=[first, Press(), *others], progress=False)
    assert fit.interrupted
    assert [line.name for line in fit.log] == ["gaussian", "weights"]
    assert "interrupted" in " ".join(fit.reasons)
    with pytest.raises(KeyboardInterrupt):
        jaxvi.fit(KEY, target, stages=[Press(), *others], progress=False)


def test_a_key_depends_on_the_name_alone():
    """Other stages before a stage change nothing in it."""
    context = context_of(normal)
    keys = {stage.name: context.key(stage.name) for stage in default_stages("thorough")}
    numbers = {name: tuple(jax.random.key_data(key).tolist()) for name, key in keys.items()}
    assert len(set(numbers.values())) == len(numbers) == 9
    target = context.target
    plain = jaxvi.fit(KEY, target, stages=default_stages()[:1], progress=False)
    more = jaxvi.fit(KEY, target, stages=default_stages()[:5], progress=False)
    np.testing.assert_array_equal(plain.phi.loc, more.phi.loc)


def test_stages_are_equal_by_value_and_keep_nothing():
    assert default_stages() == default_stages()
    assert default_stages() != default_stages("quick")
    for stage in default_stages():
        assert dataclasses.is_dataclass(stage)
        with pytest.raises(dataclasses.FrozenInstanceError):
            stage.name = "other"


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"stages": []}, TypeError, "expected a sequence of jaxvi.autopilot.Stage"),
        ({"stages": [autopilot.Weights]}, TypeError, "try jaxvi.autopilot.default_stages"),
        ({"stages": 3}, TypeError, "got 3"),
        (
            {"stages": default_stages(), "family": jaxvi.FullRank()},
            ValueError,
            "stages: expected None with a family",
        ),
    ],
)
def test_what_are_no_stages_is_told(options, error, words):
    target = jaxvi.Target(normal, jaxvi.Real(2))
    with pytest.raises(error, match=words):
        inspect.unwrap(jaxvi.fit)(KEY, target, progress=False, **options)


def test_an_unknown_effort_is_told():
    with pytest.raises(ValueError, match="effort: expected one of 'quick'"):
        default_stages("high")


def test_stages_without_restarts_give_no_fit():
    target = jaxvi.Target(normal, jaxvi.Real(2))
    with pytest.raises(RuntimeError, match="expected one that gives restarts"):
        jaxvi.fit(KEY, target, stages=[autopilot.Weights()], progress=False)


def test_a_resumed_run_has_the_same_stages(tmp_path):
    """Given again, they are compared; left out, they are asked for."""
    target = jaxvi.Target(normal, jaxvi.Real(2))
    stages = default_stages()[:5]
    fit = jaxvi.fit(KEY, target, stages=stages, checkpoint=tmp_path, progress=False)
    again = jaxvi.resume(tmp_path, target, stages=stages, progress=False)
    np.testing.assert_array_equal(fit.phi.loc, again.phi.loc)
    for other in (None, default_stages()):
        with pytest.raises(ValueError, match="stages: expected those of the checkpoint, gaussian"):
            jaxvi.resume(tmp_path, target, stages=other, progress=False)


def test_draws_of_a_custom_stage_are_handed_out():
    """What a user's stage leaves is what `sample` gives, and its name is in the log."""

    @dataclasses.dataclass(frozen=True)
    class Exact(Stage):
        name: ClassVar[str] = "exact"

        def applies(self, state: State) -> bool:
            return state.usable and state.errors is None

        def run(self, context: Context, state: State) -> State:
            z = LOC[None] + SD[None] * jax.random.normal(context.key(self.name), (512, 2))
            context.record(self.name, state.fit, "drawn by hand")
            draws = CorrectedDraws(z, None, "chains")
            errors = Errors((0.0, 0.05), (0.0, 0.05), "chains")
            return dataclasses.replace(state, draws=draws, errors=errors)

    target = jaxvi.Target(normal, jaxvi.Real(2))
    stages = [*default_stages()[:1], Exact(), autopilot.Weights()]
    fit = jaxvi.fit(KEY, target, stages=stages, progress=False)
    assert [line.name for line in fit.log] == ["gaussian", "exact", "weights"]
    assert fit.verdict == "ok"
    assert set(np.asarray(fit.sample(KEY, 100))[:, 0]) <= set(
        np.asarray(fit.corrected_draws.z)[:, 0]
    )


# Threads


def test_two_fits_in_two_threads_give_what_they_give_one_after_the_other():
    """To the bit; and each tells its own compile time, the second time next to none."""
    targets = [jaxvi.Target(density, jaxvi.Real(2)) for density in (normal, banana)]
    solver = jaxvi.NaturalGradient()
    both = threading.Barrier(2)

    def fit(target):
        with jax.enable_x64(True):
            both.wait(60.0)
            return jaxvi.fit(KEY, target, solver=solver, num_restarts=3, progress=False)

    with ThreadPoolExecutor(2) as threads:
        first = list(threads.map(fit, targets))
        again = list(threads.map(fit, targets))
    alone = [
        jaxvi.fit(KEY, target, solver=solver, num_restarts=3, progress=False) for target in targets
    ]
    for one, two, three in zip(first, again, alone, strict=True):
        for other in (two, three):
            for a, b in zip(jax.tree.leaves(one.phi), jax.tree.leaves(other.phi), strict=True):
                np.testing.assert_array_equal(a, b)
        assert 0.0 < one.timing.compile_seconds <= one.timing.total_seconds
        assert two.timing.compile_seconds < 0.5 * one.timing.compile_seconds
