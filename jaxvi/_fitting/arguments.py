"""Checks of a call's arguments before anything is compiled."""

import contextlib
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxvi import _arguments
from jaxvi._engine import Setup
from jaxvi._fitting.request import Layout
from jaxvi._status import Status
from jaxvi._types import Data
from jaxvi.data import Minibatch, Stream, is_spread, regular
from jaxvi.families import Family
from jaxvi.noise import NoiseSource
from jaxvi.objectives import Objective
from jaxvi.solvers import Solver, Stochastic
from jaxvi.target import Target, check_additive, num_rows

_MAX_ROW_EVALUATIONS = 2**31  # of a default ranking: rows times draws of all lanes
_MIN_EVAL_DRAWS, _MAX_EVAL_DRAWS = 64, 2_000


def check_parts(family: Any, objective: Any, solver: Any, noise: Any) -> None:
    """Check the kinds of family, objective, solver and noise; classes are not instances."""
    for name, value, kind, example in (
        ("family", family, Family, "a variational family such as jaxvi.MeanField()"),
        ("objective", objective, Objective, "an objective such as jaxvi.ELBO()"),
        ("solver", solver, Solver, "a solver such as jaxvi.Stochastic(optax.adam)"),
        ("noise", noise, NoiseSource, "a noise source such as jaxvi.Fresh()"),
    ):
        if value is not None:
            _arguments.instance(name, value, kind, example)


def check_hashable(setup: Setup) -> None:
    """Check that a setup hashes, since compiled programs are looked up by it."""
    try:
        hash(setup)
    except TypeError as error:
        raise TypeError(
            "expected a family, objective, solver and noise of plain hashable numbers, so that "
            f"equal ones share compiled programs; got {setup!r:.300} ({error})."
        ) from error


def check_reporter(name: str, value: Any) -> None:
    """Check a `progress` argument: None, a bool or a function."""
    if not (value is None or isinstance(value, bool) or callable(value)):
        raise TypeError(
            f"{name}: expected None, True, False or a function of a jaxvi.Progress; got "
            f"{value!r:.80}; try {name}=print."
        )


def check_concrete(data: Data) -> None:
    """Check that data hold numbers, not only shapes."""
    for leaf in jax.tree.leaves(data):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            raise TypeError(f"data: expected arrays; got {leaf}, which holds no numbers.")


def checked_start_scales(value: Any, num_restarts: int, dtype: jnp.dtype) -> Float[Array, "*each"]:
    """`start_scale` as an array: a finite number above zero, or one for each restart."""
    given = np.zeros(())
    with contextlib.suppress(TypeError, ValueError, OverflowError):  # random keys, ragged lists
        given = np.asarray(value)
    numbers = given.dtype.kind in "iuf" and given.shape in ((), (num_restarts,))
    if not (numbers and np.isfinite(given).all() and (given > 0).all()):
        raise ValueError(
            "start_scale: expected a finite number above 0, or one for each of the "
            f"{num_restarts} restarts; got {value!r}; try start_scale=1.0."
        )
    return jnp.asarray(given, dtype)


class Unconstrained(NamedTuple):
    """Starts of all lanes that are unconstrained already, in place of parameters."""

    z: Float[Array, "lanes dim"]


class NoStart(ValueError):
    """The log density or its gradient is not finite at any start that was tried."""


def unconstrained_starts(
    target: Target, start: Any, num_restarts: int, dtype: jnp.dtype
) -> Float[Array, "*lanes dim"] | None:
    """The `start` argument as unconstrained points: None, one point, or one for each lane."""
    if start is None:
        return None
    if isinstance(start, Unconstrained):
        return start.z
    leaves = jax.tree.leaves(start)
    for leaf in leaves:
        array = isinstance(leaf, jax.Array | np.ndarray | np.generic)
        if not array or not jnp.issubdtype(leaf.dtype, jnp.floating):
            continue
        if jax.dtypes.canonicalize_dtype(leaf.dtype) != dtype:
            raise TypeError(
                f"start: expected {dtype} like the data; got {leaf.dtype}; try casting one of "
                "them with astype."
            )
    if _has_lane_axis(target, start, num_restarts):
        # together, since thousands one by one take long; then the first bad one by itself, for
        # its error message
        z, good = jax.vmap(partial(_unconstrain_start, target, dtype))(start)
        for bad in np.flatnonzero(~np.asarray(good))[:1]:
            target.unconstrain(jax.tree.map(partial(np.take, indices=bad, axis=0), start))
        return z
    return target.unconstrain(start).astype(dtype)


def _unconstrain_start(target: Target, dtype: Any, start: Any) -> tuple[Array, Array]:
    """z at a start, and whether the start is inside its supports."""
    z = target.unconstrain(start, dtype=dtype)
    leaves = zip(target.leaves, jax.tree.leaves(start), strict=True)
    inside = [support.contains(jnp.asarray(leaf, dtype)) for support, leaf in leaves]
    return z, jnp.isfinite(z).all() & jnp.stack(inside).all()


def _has_lane_axis(target: Target, start: Any, num_restarts: int) -> bool:
    """Whether every leaf of `start` has a leading axis of lanes."""
    shapes = [support.shape for support in target.leaves]
    leaves = jax.tree.leaves(start)
    return len(leaves) == len(shapes) and all(
        np.shape(leaf) == (num_restarts, *shape) for leaf, shape in zip(leaves, shapes, strict=True)
    )


def check_some_start(status: np.ndarray, data: Data) -> None:
    """Check that at least one lane has a start where the log density is finite."""
    if (status != Status.NO_START).any():
        return
    bad = sum(
        int((~np.isfinite(leaf)).sum())
        for leaf in map(np.asarray, (x for x in jax.tree.leaves(data) if not is_spread(x)))
        if np.issubdtype(leaf.dtype, np.floating)
    )
    cause = f" The data hold {bad} entries that are not finite." if bad else ""
    raise NoStart(
        "expected a log density that is finite, with a finite gradient, at some start; got none in "
        f"{len(status)} restarts with 20 tries each.{cause} {Status.NO_START.remedy}"
    )


def check_data(target: Target, data: Data, minibatch: Any) -> np.dtype:
    """The dtype of the fit; raises where target, data and minibatch don't go together."""
    stream = isinstance(data, Stream)
    if minibatch is None:
        if stream:
            raise TypeError(
                "data: expected arrays, or a Stream with a minibatch; got a Stream alone; try "
                "minibatch=jaxvi.Minibatch(256)."
            )
        dtype = target.check(data)
        if target.has_rows:
            check_additive(target, data, dtype)
        return dtype
    if not isinstance(minibatch, Minibatch):
        raise TypeError(f"minibatch: expected jaxvi.Minibatch(256); got {minibatch!r:.80}.")
    if not target.has_rows:
        raise TypeError(
            "minibatch: expected a target whose log likelihood is apart, so that it can be "
            f"scaled; got {target!r:.80}; try Target(log_prior=..., log_likelihood=..., "
            "supports=...)."
        )
    total = data.count() if stream else num_rows(data)
    if not minibatch.size <= total < 2**31:
        raise ValueError(
            f"minibatch: expected a size of at most the number of rows, below 2**31; got "
            f"{minibatch.size} for {total} rows; try Minibatch({min(total, 256)})."
        )
    rows = next(regular(data.blocks(), minibatch.size)) if stream else data
    dtype = target.check(rows)
    check_additive(target, rows, dtype)
    return dtype


def check_solver(setup: Setup, minibatch: Minibatch | None) -> None:
    """Check that minibatches meet a solver that follows noisy gradients."""
    if minibatch is not None and not isinstance(setup.solver, Stochastic):
        raise TypeError(
            "minibatch: expected solver=jaxvi.Stochastic(...), which follows noisy gradients; got "
            f"{setup.solver!r:.80}, which needs the exact density; try it without minibatch."
        )


def default_draws(data: Data, num_lanes: int) -> int:
    """Default number of draws that rank lanes by rows: the fewer, the more rows and lanes."""
    total = data.count() if isinstance(data, Stream) else num_rows(data)
    return min(max(_MAX_ROW_EVALUATIONS // (total * num_lanes), _MIN_EVAL_DRAWS), _MAX_EVAL_DRAWS)


def check_layout(asked: Layout, minibatch: Any, data: Data) -> None:
    """Check that pool, race, mesh, minibatch and data go together."""
    pool, race, mesh = asked
    pooled = pool is not None or race
    if minibatch is not None and (race or mesh is not None):
        raise ValueError(
            "minibatch: expected race=False and mesh=None with it, since a race is decided on all "
            f"rows, and batches are picked on one device; got race={race} and mesh={mesh}; try one "
            "of the two."
        )
    if pooled and isinstance(data, Stream):
        raise ValueError(
            "pool: expected None with a Stream, whose batches come in order, since lanes of a pool "
            f"are at steps of their own; got {pool}; try rows in memory, or pool=None."
        )
    if pooled and mesh is not None:
        raise ValueError(
            "pool: expected None, and race=False, with a mesh, whose devices each have a loop of "
            f"their own; got pool={pool} and race={race}; try one of the two."
        )
