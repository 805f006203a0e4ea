"""One block of steps: its noise, its trace for the solver's review, and the block itself."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxvi._engine import Lane, Setup, advance_block, draw_block, trace_block
from jaxvi._types import Data
from jaxvi.solvers import BlockTrace


def block_noise(
    key: Key[Array, ""], setup: Setup, step: int | Int[Array, ""], dtype: jnp.dtype
) -> Float[Array, "steps draws noise"]:
    """The noise of the block of steps that begins at `step`, one row a step.

    There are `solver.block_steps` of them, fewer, but at least 8, where they would hold more than
    2^20 numbers. Noise is drawn ahead of the steps because XLA may evaluate a generator inside a
    differentiated step many times over.

    Args:
        key: a random key; `noise_key(key, setup)` gives the noise of a run.
        setup: the parts.
        step: number of the block's first step, counted from the start of the run.
        dtype: that of phi, `target.dtype(data)`.

    Example:
        >>> setup = jaxvi.engine.make_setup(target, jaxvi.MeanField())
        >>> jaxvi.engine.block_noise(key, setup, 0, target.dtype()).shape
        (50, 8, 4)
    """
    return draw_block(setup, key, jnp.asarray(step, jnp.int32), dtype)


def block_trace(
    setup: Setup,
    noise: Float[Array, "steps draws noise"],
    step: int | Int[Array, ""],
    data: Data = None,
) -> BlockTrace:
    """What a solver's `review` takes after a block of steps, one step for each row of `noise`.

    `trace.failed` is False: where you undo a block, pass `trace._replace(failed=True)`.

    Args:
        setup: the parts.
        noise: the block's.
        step: steps that the run has taken, this block's included.
        data: handed to the log density.

    Example:
        >>> setup = jaxvi.engine.make_setup(target, jaxvi.MeanField())
        >>> state = setup.solver.init(setup.family.init(key, target.dim), setup.problem(None))
        >>> noise = jaxvi.engine.block_noise(key, setup, 0, target.dtype())
        >>> for row in noise:
        ...     state, info = setup.solver.step(state, row, setup.problem(None))
        >>> trace = jaxvi.engine.block_trace(setup, noise, len(noise))
        >>> state, status = setup.solver.review(state, trace)
        >>> int(status) == jaxvi.Status.RUNNING
        True
    """
    count, step = jnp.asarray(len(noise), jnp.int32), jnp.asarray(step, jnp.int32)
    return trace_block(setup, noise, count, step, data)


def run_block(
    setup: Setup, lane: Lane, noise: Float[Array, "steps draws noise"], data: Data = None
) -> Lane:
    """Take a step of the lane for each row of `noise`, then let the solver review.

    Where the block's mean bound or anything in the state is not finite, or the bound falls far
    below the lane's first one, the state from before the block is returned and the solver's review
    is told that the block failed. A lane whose status is not `RUNNING` is returned unchanged.
    `lane.bound` is the mean bound over the last good block, in nats.

    Args:
        setup: the parts.
        lane: from `begin_lane`, or from the block before.
        noise: of as many steps as are to be taken.
        data: handed to the log density; they may differ from block to block.

    Example:
        >>> setup = jaxvi.engine.make_setup(target, jaxvi.MeanField())
        >>> lane = jaxvi.engine.begin_lane(key, setup)
        >>> noise = jaxvi.engine.block_noise(key, setup, lane.step, target.dtype())
        >>> int(jaxvi.engine.run_block(setup, lane, noise).step)
        50
    """
    return advance_block(setup, lane, noise, jnp.asarray(len(noise), jnp.int32), lane.step, data)
