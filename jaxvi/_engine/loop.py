"""The only step loop in the package.

Steps run in blocks. Noise for a whole block is drawn before the block's inner loop: drawn inside
the differentiated step, the generator would be fused into the gradient and run many times over.
Whatever is decided (stopping, backing off) is decided between blocks, so that a step does nothing
but its arithmetic.
"""

from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from jaxvi._engine.setup import AnySetup
from jaxvi._numerics import pytrees
from jaxvi._status import Status
from jaxvi._types import Data, Phi, Scalar
from jaxvi.data import at_block, at_blocks, at_comparison, at_step, num_compared
from jaxvi.solvers import (
    BlockTrace,
)

# of a block, drawn ahead: 4 MiB of float32, so that it stays in cache
_MAX_BLOCK_NOISE_NUMBERS = 2**20
_MIN_BLOCK_STEPS = 8  # even so: the spread over them is the standard error of comparisons
_MAX_COMPARISON_STEPS = 25  # of a block, whose noise serves to compare bounds


class Lane(NamedTuple):
    """One restart: the solver's state, a status code, and what the loop keeps about it.

    A pytree of arrays: carry it through `lax.scan`, map over it, save it. `status` is a code of
    `jaxvi.Status`; `solver.result(lane.state)` is the phi to report. Bounds are in nats.

    Example:
        >>> setup = jaxvi.engine.make_setup(target, jaxvi.MeanField())
        >>> lane = jaxvi.engine.begin_lane(key, setup)
        >>> int(lane.step), float(lane.bound)
        (0, nan)
    """

    state: Any
    status: Int[Array, ""]
    step: Int[Array, ""]  # steps taken, those undone included
    floor: Scalar  # bound below which a block has failed; -inf before the first step
    bound: Scalar  # mean bound over the last good block


def start_lane(setup: AnySetup, phi: Phi, usable: Bool[Array, ""], data: Data) -> Lane:
    """A lane before its first step; not `usable` where no finite start was found."""
    problem: Any = setup.problem(data)
    dtype = jax.tree.leaves(phi)[0].dtype
    return Lane(
        state=setup.solver.init(phi, problem),
        status=jnp.where(usable, Status.RUNNING, Status.NO_START).astype(jnp.int32),
        step=jnp.zeros((), jnp.int32),
        floor=jnp.full((), -jnp.inf, dtype),
        bound=jnp.full((), jnp.nan, dtype),
    )


@lru_cache(maxsize=16)
def block_length(setup: AnySetup) -> int:
    """Number of steps of a block: the solver's, but fewer if their noise would be large."""
    row = jax.eval_shape(lambda: setup.draw(jax.random.key(0), 0, jnp.dtype("float32")))
    ahead = max(_MIN_BLOCK_STEPS, _MAX_BLOCK_NOISE_NUMBERS // max(row.size, 1))
    return min(setup.solver.block_steps, ahead)


def draw_block(
    setup: AnySetup, key: Key[Array, ""], first_step: Int[Array, ""], dtype: jnp.dtype
) -> Array:
    """Noise for the block that begins at `first_step`, one row a step."""
    steps = first_step + jnp.arange(block_length(setup), dtype=jnp.int32)
    return jax.vmap(lambda step: setup.draw(key, step, dtype))(steps)


class LaneAxes(NamedTuple):
    """The axis over lanes of a block's noise, first step and data, as `vmap`'s `in_axes`."""

    noise: int | None
    step: int | None
    data: Any


def advance_block(
    setup: AnySetup,
    lane: Lane,
    noise: Array,
    num_steps: Int[Array, ""],
    first_step: Int[Array, "*lanes"],
    data: Data,
    lanes: LaneAxes | None = None,
) -> Lane:
    """Take `num_steps` steps of one lane, then the solver's review; an ended lane is unchanged.

    `data` are those of the block, as `at_block` has them. With `lanes`, many lanes at
    once: mapped here and not by the caller, since mapping a traced loop takes longer.
    """
    step, end = partial(_take_step, setup), partial(_end_block, setup)
    if lanes is not None:
        step = jax.vmap(step, (0, lanes.noise, lanes.data, None))
        end = jax.vmap(end, (0, 0, 0, 0, lanes.noise, None, lanes.step, lanes.data))

    def one_step(i: Array, carry: tuple[Any, Array, Array]) -> tuple[Any, Array, Array]:
        state, total, first = carry
        state, bound = step(state, noise, data, i)
        return state, total + bound, jnp.where(i == 0, bound, first)

    zero = jnp.zeros_like(lane.bound)
    state, total, first = lax.fori_loop(0, num_steps, one_step, (lane.state, zero, zero))
    return end(lane, state, total, first, noise, num_steps, first_step, data)


def _take_step(
    setup: AnySetup, state: Any, noise: Array, data: Data, i: Int[Array, ""]
) -> tuple[Any, Scalar]:
    """Take step `i` of the block; returns the new state and the step's bound."""
    problem: Any = setup.problem(at_step(data, i))
    state, info = setup.solver.step(state, noise[i], problem)
    return state, info.bound


def _end_block(
    setup: AnySetup,
    lane: Lane,
    state: Any,
    total: Scalar,
    first: Scalar,
    noise: Array,
    num_steps: Int[Array, ""],
    first_step: Int[Array, ""],
    data: Data,
) -> Lane:
    """End a block: undo it if it failed, then let the solver review."""
    trace = trace_block(setup, noise, num_steps, first_step + num_steps, data)
    return _review_block(setup, lane, state, total / num_steps.astype(total.dtype), first, trace)


def trace_block(
    setup: AnySetup, noise: Array, num_steps: Int[Array, ""], step: Int[Array, ""], data: Data
) -> BlockTrace:
    """What the solver's `review` may ask about a block that ended at `step`.

    `data` are those of the block, as `at_block` has them.
    """

    def problem(i: int | Array) -> Any:
        return setup.problem(at_step(data, i))

    def bound_at(phi: Phi, i: Array) -> Scalar:
        turns = num_compared(data)
        if isinstance(turns, int):
            return problem(i).loss(phi, noise[i]).bound

        def add(turn: Array, total: Array) -> Array:
            here: Any = setup.problem(at_comparison(data, i, turn))
            return total + here.loss(phi, noise[i]).bound

        zero = jnp.zeros((), noise.dtype)
        return lax.fori_loop(0, turns, add, zero) / turns.astype(noise.dtype)

    def bounds(phi: Phi) -> Array:
        steps = jnp.arange(0, len(noise), -(-len(noise) // _MAX_COMPARISON_STEPS))
        return lax.map(partial(bound_at, phi), steps)

    return BlockTrace(num_steps, jnp.zeros((), bool), step, bounds, problem(0), noise)


def _review_block(
    setup: AnySetup, lane: Lane, state: Any, bound: Scalar, first: Scalar, trace: BlockTrace
) -> Lane:
    """Undo a failed block, let the solver review, keep a lane that had ended as it was."""
    # a sane ascent doesn't fall this far below where it began; a diverging one does on its way
    # to infinity, and must not be resumed from there
    floor = jnp.where(
        jnp.isfinite(lane.floor) | ~jnp.isfinite(first),
        lane.floor,
        first - 100.0 - jnp.abs(first),
    )
    if setup.solver.guards_itself:
        failed, kept = jnp.zeros((), bool), state
    else:
        sane = jnp.isfinite(bound) & (bound >= floor)
        failed = ~(pytrees.all_finite(state) & sane)
        kept = pytrees.where(failed, lane.state, state)
    reviewed, status = setup.solver.review(kept, trace._replace(failed=failed))
    moved = Lane(
        state=reviewed,
        status=status,
        step=lane.step + trace.num_steps,
        floor=floor,
        bound=jnp.where(failed, lane.bound, bound),
    )
    return pytrees.where(lane.status == Status.RUNNING, moved, lane)


def run_lane(
    setup: AnySetup, key: Key[Array, ""], lane: Lane, max_steps: Int[Array, ""], data: Data
) -> Lane:
    """Run blocks until the lane ends or has taken `max_steps` steps; one compiled loop."""
    length = block_length(setup)
    dtype = lane.bound.dtype

    def body(lane: Lane) -> Lane:
        noise = draw_block(setup, key, lane.step, dtype)
        count = jnp.minimum(length, max_steps - lane.step)
        block = at_block(data, lane.step, length)
        return advance_block(setup, lane, noise, count, lane.step, block)

    def unfinished(lane: Lane) -> Array:
        return (lane.status == Status.RUNNING) & (lane.step < max_steps)

    return lax.while_loop(unfinished, body, lane)


def run_lanes(
    setup: AnySetup,
    keys: Key[Array, "..."],
    lanes: Lane,
    first_step: Int[Array, ""],
    last_step: Int[Array, ""],
    rows: int,
    data: Data,
) -> tuple[Lane, Float[Array, "rows lanes"], Int[Array, ""]]:
    """Run blocks of all lanes together from `first_step` up to `last_step`, at most `rows`.

    `keys` is one key where lanes share their noise, else one a lane. Returns the lanes, the mean
    bound of every lane by block (rows that were not reached are NaN), and the next step. Ends
    early when every lane has ended.
    """
    length = block_length(setup)
    dtype = lanes.bound.dtype
    shared = setup.shared
    axes = LaneAxes(None if shared else 0, None, None)

    def draw(step: Array) -> Array:
        if shared:
            return draw_block(setup, keys, step, dtype)
        return jax.vmap(lambda key: draw_block(setup, key, step, dtype))(keys)

    def body(carry: tuple[Lane, Array, Array, Array]) -> tuple[Lane, Array, Array, Array]:
        lanes, history, row, step = carry
        count = jnp.minimum(length, last_step - step)
        block = at_block(data, step, length)
        lanes = advance_block(setup, lanes, draw(step), count, step, block, axes)
        history = lax.dynamic_update_index_in_dim(history, lanes.bound, row, 0)
        return lanes, history, row + 1, step + count

    def unfinished(carry: tuple[Lane, Array, Array, Array]) -> Array:
        lanes, _, row, step = carry
        return (row < rows) & (step < last_step) & jnp.any(lanes.status == Status.RUNNING)

    history = jnp.full((rows, lanes.bound.shape[0]), jnp.nan, dtype)
    zero = jnp.zeros((), jnp.int32)
    lanes, history, _, step = lax.while_loop(
        unfinished, body, (lanes, history, zero, first_step.astype(jnp.int32))
    )
    return lanes, history, step


def run_cohorts(
    setup: AnySetup,
    keys: Key[Array, "..."],
    lanes: Lane,
    cohort: Int[Array, "lanes"],
    cohort_steps: Int[Array, "cohorts"],
    num_steps: Int[Array, ""],
    blocks: Int[Array, ""],
    least_running: Int[Array, ""],
    rows: int,
    data: Data,
) -> tuple[Lane, Float[Array, "rows lanes"], Int[Array, ""]]:
    """Run blocks of lanes that began at different times, each at the step of its cohort.

    Lanes of a cohort share their noise, if lanes do, and their steps are as if run alone. All take
    blocks of `num_steps` steps, at most `blocks` of them and only while `least_running` lanes run.
    Returns the lanes, the mean bound of every lane by block, and how many blocks there were.
    """
    dtype = lanes.bound.dtype
    length = block_length(setup)

    def draw(steps: Int[Array, "cohorts"]) -> Array:
        if setup.shared:
            noise = jax.vmap(lambda step: draw_block(setup, keys, step, dtype))(steps)
            return noise[cohort]
        return jax.vmap(lambda key, step: draw_block(setup, key, step, dtype))(keys, steps[cohort])

    def body(carry: tuple[Lane, Array, Array]) -> tuple[Lane, Array, Array]:
        lanes, history, row = carry
        steps = cohort_steps + row * num_steps
        block, axes = at_blocks(data, steps, cohort, length)
        at = LaneAxes(0, 0, axes)
        lanes = advance_block(setup, lanes, draw(steps), num_steps, steps[cohort], block, at)
        return lanes, lax.dynamic_update_index_in_dim(history, lanes.bound, row, 0), row + 1

    def unfinished(carry: tuple[Lane, Array, Array]) -> Array:
        running = jnp.sum(carry[0].status == Status.RUNNING)
        return (carry[2] < blocks) & (running >= least_running)

    history = jnp.full((rows, lanes.bound.shape[0]), jnp.nan, dtype)
    return lax.while_loop(unfinished, body, (lanes, history, jnp.zeros((), jnp.int32)))
