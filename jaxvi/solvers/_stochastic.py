"""Stochastic gradient ascent on the bound with any optax optimiser."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxvi._arguments import flag, number
from jaxvi._numerics import pytrees
from jaxvi._status import Status
from jaxvi._types import Noise, Phi, Scalar
from jaxvi.solvers._base import BlockTrace, Problem, Solver, StepInfo

_MAX_ANNEALS = 10
_MAX_PENALTY = 10.0  # failed blocks beyond the good ones' credit
_BACK_OFF_FACTOR = 0.25  # of the step size after a failed block
_BLOCK_STEPS = 50
_FIRST_WINDOW_STEPS = 400
_WINDOW_GROWTH = 1.25


class Averages(NamedTuple):
    """Averages of iterates over two successive windows: `older` is a mean, `newer` still a sum."""

    older: Phi
    older_steps: Int[Array, ""]
    newer: Phi
    newer_steps: Int[Array, ""]


class StochasticState(NamedTuple):
    """State of a lane: phi, the optimiser's state, averages, and adaptation of the step size."""

    phi: Phi
    opt: Any
    scale: Scalar  # multiplies every update
    averages: Averages | None  # None where the last iterate is wanted
    anneals: Int[Array, ""]
    penalty: Scalar  # grows with failed blocks, shrinks with good ones
    last_gain: Scalar  # of the newer window over the older when last compared
    use_last: Bool[Array, ""]  # the bound still rose when last compared, and averages lagged


class Comparison(NamedTuple):
    """Comparison of two windows' averages on common draws, in nats, with standard errors.

    `gain` is the newer average's bound minus the older's. `noise` is the gain of averaging both
    windows over one, bound(mean) - mean(bounds): near an optimum it equals the cost of the Monte
    Carlo error that the mean of both still has.
    """

    gain: Scalar
    gain_se: Scalar
    noise: Scalar
    noise_se: Scalar
    newer_is_best: Bool[Array, ""]  # of the two averages and their mean
    # the last iterate, of all four; it was fitted to these draws, and so seems better than it is
    last_is_best: Bool[Array, ""]


@dataclass(frozen=True, init=False)
class Stochastic(Solver):
    r"""Gradient ascent on a noisy bound, annealed in stages, with averaged iterates.

    Iterates are averaged over windows (Polyak and Juditsky 1992), each longer than the one
    before, and the bounds of two successive averages are compared on common draws. Where the
    newer one is not better beyond the noise, the step size is multiplied by `anneal`. A lane has
    converged when two averages with an annealing between them agree: what the newer gains, and
    what the Monte Carlo error of their mean costs, are both below `tolerance` nats with 95 %
    confidence, and so is what the slowing of the gains says is still to come. That mean is what
    is reported. (Welandawe et al. 2022 stop on the same idea, by
    the divergence between averages.) A block of steps that is not finite, or falls far below
    the lane's first bound, is undone, and the steps after it are smaller.

    Cost: one gradient of the objective a step, and at ever rarer times four evaluations on a
    block's noise for the comparison. Memory: the optimiser's state and two copies of phi more.

    Args:
        optimizer: an optax factory such as `optax.adam`, not what it returns: factories and
            their numbers compare by value, so that an equal solver does not compile again.
        clip_norm: clip the gradient's global norm, per lane.
        tolerance: nats; None never stops before the step limit.
        anneal: factor of the step size from stage to stage, in (0, 1]; 1 keeps it constant. A
            `learning_rate` that is an optax schedule is never annealed besides.
        average: whether iterates are averaged and compared. False reports the last one, at the
            step limit, and suits schedules that end near 0; it takes half as long to compile.
        **numbers: arguments of the factory, such as `learning_rate` (0.02 if the factory has no
            default of its own).

    Raises:
        TypeError: an optax transformation instead of a factory, or numbers that it doesn't take.
        ValueError: a number out of range.

    Example:
        >>> solver = jaxvi.Stochastic(optax.adam, learning_rate=0.05)
    """

    optimizer: Callable[..., optax.GradientTransformation]
    numbers: tuple[tuple[str, Any], ...]
    clip_norm: float | None
    tolerance: float | None
    anneal: float
    average: bool

    def __init__(
        self,
        optimizer: Callable[..., optax.GradientTransformation] = optax.adam,
        *,
        clip_norm: float | None = None,
        tolerance: float | None = 0.03,
        anneal: float = 0.5,
        average: bool = True,
        **numbers: Any,
    ) -> None:
        if not callable(optimizer) or isinstance(optimizer, tuple):
            raise TypeError(
                "Stochastic: expected an optax factory such as optax.adam; got "
                f"{type(optimizer).__name__}; try Stochastic(optax.adam, learning_rate=0.02)."
            )
        if clip_norm is not None:
            clip_norm = number("Stochastic.clip_norm", clip_norm, above=0.0)
        if tolerance is not None:
            tolerance = number("Stochastic.tolerance", tolerance, above=0.0, example=0.03)
        anneal = number("Stochastic.anneal", anneal, above=0.0, at_most=1.0, example=0.5)
        average = flag("Stochastic.average", average)
        if not average and tolerance is not None:
            raise ValueError(
                "Stochastic: expected tolerance=None with average=False, since averages are what "
                f"is compared; got {tolerance}."
            )
        rate = numbers.get("learning_rate", 1.0)
        if not callable(rate):
            rate = number("Stochastic.learning_rate", rate, above=0.0, example=0.02)
            numbers |= {"learning_rate": rate} if "learning_rate" in numbers else {}
        numbers = _with_learning_rate(optimizer, numbers)
        fields: dict[str, Any] = {
            "optimizer": optimizer,
            "numbers": tuple(sorted(numbers.items())),
            "clip_norm": clip_norm,
            "tolerance": tolerance,
            "anneal": anneal,
            "average": average,
        }
        for field, setting in fields.items():
            object.__setattr__(self, field, setting)  # frozen: there is no other way in
        try:
            hash(self)
        except TypeError as error:
            raise TypeError(
                f"Stochastic: expected plain numbers or functions as arguments of the optimiser; "
                f"got {numbers}; try float(...)."
            ) from error

    def __repr__(self) -> str:
        name = getattr(self.optimizer, "__name__", repr(self.optimizer))
        parts = [name] + [f"{key}={value!r}" for key, value in self.numbers]
        if self.clip_norm is not None:
            parts.append(f"clip_norm={self.clip_norm!r}")
        return f"Stochastic({', '.join(parts)})"

    @property
    def block_steps(self) -> int:
        """Fifty: enough that reviews cost little, few enough to undo."""
        return _BLOCK_STEPS

    @property
    def _anneals(self) -> bool:
        """Whether the step size is annealed from stage to stage."""
        return self.anneal < 1 and not callable(dict(self.numbers).get("learning_rate"))

    def transformation(self) -> optax.GradientTransformationExtraArgs:
        """The optax transformation that computes a step, gradient clipping included."""
        inner = self.optimizer(**dict(self.numbers))
        if self.clip_norm is not None:
            inner = optax.chain(optax.clip_by_global_norm(self.clip_norm), inner)
        return optax.with_extra_args_support(inner)

    def init(self, phi: Phi, problem: Problem) -> StochasticState:
        """A state with a fresh optimiser and empty averages."""
        dtype = jax.tree.leaves(phi)[0].dtype
        zero, count = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
        zeros = jax.tree.map(jnp.zeros_like, phi)
        return StochasticState(
            phi=phi,
            opt=self.transformation().init(phi),
            scale=zero + 1.0,
            averages=Averages(zeros, count, zeros, count) if self.average else None,
            anneals=count,
            penalty=zero,
            last_gain=zero,
            use_last=jnp.ones((), bool),
        )

    def step(
        self, state: StochasticState, noise: Noise, problem: Problem
    ) -> tuple[StochasticState, StepInfo]:
        """One update by the optimiser, times the lane's scale."""

        def loss(phi: Phi) -> tuple[Scalar, Scalar]:
            estimate = problem.loss(phi, noise)
            return estimate.loss, estimate.bound

        (value, bound), grad = jax.value_and_grad(loss, has_aux=True)(state.phi)
        updates, opt = self.transformation().update(
            grad,
            state.opt,
            state.phi,
            value=value,
            grad=grad,
            value_fn=lambda phi: problem.loss(phi, noise).loss,
        )
        phi = jax.tree.map(lambda p, u: p + state.scale * u, state.phi, updates)
        averages = state.averages
        if averages is not None:
            averages = averages._replace(newer=jax.tree.map(jnp.add, averages.newer, phi))
        return state._replace(phi=phi, opt=opt, averages=averages), StepInfo(bound)

    def review(
        self, state: StochasticState, trace: BlockTrace
    ) -> tuple[StochasticState, Int[Array, ""]]:
        """Back off after a failed block; compare, anneal and stop at the end of a window."""
        good = jnp.maximum(state.penalty - 0.25, 0.0)
        penalty = jnp.where(trace.failed, state.penalty + 1.0, good)
        state = state._replace(penalty=penalty)
        status = jnp.full((), Status.RUNNING, jnp.int32)
        if state.averages is not None:
            state = state._replace(averages=_count_steps(state.averages, trace))
            ends = _window_ends()
            due = jnp.any((ends <= trace.step) & (ends > trace.step - trace.num_steps))
            # a loop of at most one turn: unlike a `cond`, it stays a branch under `vmap`
            _, state, status = lax.while_loop(
                lambda carry: carry[0],
                lambda carry: (jnp.zeros((), bool), *self._test(carry[1], trace)),
                (due, state, status),
            )
        scale = self.anneal ** state.anneals.astype(penalty.dtype) * _BACK_OFF_FACTOR**penalty
        lost = penalty >= _MAX_PENALTY
        return state._replace(scale=scale), jnp.where(lost, Status.NOT_FINITE, status)

    def result(self, state: StochasticState) -> Phi:
        """The mean of both windows; the last iterate while the bound still rises."""
        averages = state.averages
        if averages is None:
            return state.phi
        steps = averages.older_steps + averages.newer_steps
        use_last = state.use_last | (steps == 0)

        def choose(last: Array, older: Array, newer: Array) -> Array:
            total = newer + older * averages.older_steps.astype(older.dtype)
            return jnp.where(use_last, last, total / jnp.maximum(steps, 1).astype(newer.dtype))

        return jax.tree.map(choose, state.phi, averages.older, averages.newer)

    def _test(
        self, state: StochasticState, trace: BlockTrace
    ) -> tuple[StochasticState, Int[Array, ""]]:
        """Compare two windows; anneal if the bound no longer rises; stop if they agree."""
        averages = state.averages
        assert averages is not None
        comparable = (averages.older_steps > 0) & (averages.newer_steps > 0)
        newer = _mean(averages)
        seen = _compare(averages.older, newer, state.phi, trace)
        tolerance = 0.0 if self.tolerance is None else self.tolerance
        rising = seen.gain > jnp.maximum(2.0 * seen.gain_se, tolerance)
        agree = jnp.abs(seen.gain) + 2.0 * seen.gain_se < tolerance
        agree &= seen.noise + 2.0 * seen.noise_se < tolerance
        agree &= _remaining_gain(seen, state.last_gain) < tolerance
        annealed = (state.anneals > 0) | (not self._anneals)
        converged = comparable & agree & annealed
        anneal = comparable & ~rising & ~converged & self._anneals
        stalled = anneal & (state.anneals >= _MAX_ANNEALS) & (self.tolerance is not None)
        keep_older = comparable & ~seen.newer_is_best
        final = averages._replace(older_steps=jnp.where(keep_older, averages.older_steps, 0))
        turned = pytrees.where(averages.newer_steps > 0, _turn(averages, newer), averages)
        state = state._replace(
            averages=pytrees.where(converged, final, turned),
            anneals=state.anneals + anneal,
            last_gain=jnp.where(comparable, seen.gain, 0.0),
            use_last=~comparable | (rising & seen.last_is_best),
        )
        status = jnp.where(converged, Status.CONVERGED, Status.RUNNING)
        return state, jnp.where(stalled, Status.STALLED, status).astype(jnp.int32)


def _window_ends() -> Int[np.ndarray, "tests"]:
    """Steps at which windows end, for all lanes; each window is longer than the last."""
    ends, window = [_FIRST_WINDOW_STEPS], _FIRST_WINDOW_STEPS * _WINDOW_GROWTH
    while ends[-1] < 2**30:
        ends.append(ends[-1] + _BLOCK_STEPS * round(window / _BLOCK_STEPS))
        window *= _WINDOW_GROWTH
    return np.asarray(ends, np.int32)


def _with_learning_rate(
    optimizer: Callable[..., optax.GradientTransformation], numbers: dict[str, Any]
) -> dict[str, Any]:
    """`numbers` checked against the factory's signature, with a learning rate if it needs one."""
    try:
        signature = inspect.signature(optimizer)
    except ValueError:  # some builtins have none; the call itself will say what is wrong
        return numbers
    rate = signature.parameters.get("learning_rate")
    if rate is not None and rate.default is inspect.Parameter.empty:
        numbers = {"learning_rate": 0.02, **numbers}
    try:
        signature.bind(**numbers)
    except TypeError as error:
        name = getattr(optimizer, "__name__", repr(optimizer))
        raise TypeError(
            f"Stochastic: expected arguments that {name}{signature} takes; got {numbers} ({error})."
        ) from error
    return numbers


def _count_steps(averages: Averages, trace: BlockTrace) -> Averages:
    """Averages with the block's steps counted, unless the block failed and was undone."""
    steps = averages.newer_steps + jnp.where(trace.failed, 0, trace.num_steps)
    return averages._replace(newer_steps=steps.astype(jnp.int32))


def _mean(averages: Averages) -> Phi:
    """Average of the newer window."""
    steps = jnp.maximum(averages.newer_steps, 1)
    return jax.tree.map(lambda total: total / steps.astype(total.dtype), averages.newer)


def _turn(averages: Averages, newer: Phi) -> Averages:
    """Averages at the start of a window: the newer one has become the older."""
    zeros = jax.tree.map(jnp.zeros_like, newer)
    return Averages(newer, averages.newer_steps, zeros, jnp.zeros((), jnp.int32))


def _compare(older: Phi, newer: Phi, last: Phi, trace: BlockTrace) -> Comparison:
    """Bounds of both averages, their mean and the last iterate, on the block's noise."""
    middle = jax.tree.map(lambda a, b: 0.5 * (a + b), older, newer)
    candidates = jax.tree.map(lambda *leaves: jnp.stack(leaves), older, newer, middle, last)
    bounds = lax.map(trace.bounds, candidates)
    at_older, at_newer, at_middle, _ = bounds
    gain, gain_se = _mean_and_se(at_newer - at_older)
    noise, noise_se = _mean_and_se(at_middle - 0.5 * (at_newer + at_older))
    mean = bounds.mean(axis=-1)
    return Comparison(
        gain, gain_se, noise, noise_se, jnp.argmax(mean[:3]) == 1, jnp.argmax(mean) == 3
    )


def _remaining_gain(seen: Comparison, last_gain: Scalar) -> Scalar:
    """Remaining gain of a bound that rises exponentially to a limit; 0 if it is not rising.

    While windows grow by g and the remaining gain R shrinks by e^-x a window, successive gains
    have the ratio g e^-x, and R = gain / (e^x - 1) = gain^2 / (g last_gain - gain). It is infinite
    if gains do not slow down, and for a first gain.
    """
    slowing = _WINDOW_GROWTH * last_gain - seen.gain
    left = jnp.where(slowing > 0.0, seen.gain**2 / jnp.where(slowing > 0.0, slowing, 1.0), jnp.inf)
    return jnp.where(seen.gain > 2.0 * seen.gain_se, left, 0.0)


def _mean_and_se(values: Float[Array, "steps"]) -> tuple[Scalar, Scalar]:
    """Mean and standard error over the block's steps, whose noise is independent."""
    return values.mean(), values.std() / max(values.size - 1, 1) ** 0.5
