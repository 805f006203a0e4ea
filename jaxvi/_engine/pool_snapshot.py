"""Snapshots of a pool: its state as arrays and numbers, and its restoration."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxvi._engine.pool import Places, Pool, no_results
from jaxvi._engine.snapshot import Snapshot
from jaxvi._engine.starts import Starts, WarmStart
from jaxvi._types import Data


def snapshot(pool: Pool) -> Snapshot:
    """A snapshot of a pool between two chunks, to resume from."""
    assert pool.results is not None
    kept = jax.tree.leaves(pool.results)
    arrays = {f"result{i}": leaf[: pool.begun] for i, leaf in enumerate(kept)}
    restart, cohort, _, step = pool.places
    arrays |= {"restart": restart, "cohort": cohort, "cohort_step": step}
    arrays |= _starts_as_arrays(pool.starts)
    numbers: dict[str, int | float] = {
        "step": pool.lane_steps,
        "begun": pool.begun,
        "cohorts": pool.cohorts,
        "seconds": pool.seconds,
    }
    for part in (pool.history, pool.race):
        if part is not None:
            more, also = part.to_arrays(pool.begun)
            arrays, numbers = arrays | more, numbers | also
    return Snapshot(pool.lanes, arrays, numbers)


def restore(pool: Pool, found: Snapshot) -> None:
    """Set a pool of the same width to a snapshot; starts of later restarts come from it, too."""
    arrays, numbers = found.arrays, found.numbers
    pool.lanes, pool.status = found.lanes, np.array(found.lanes.status)
    pool.begun, pool.cohorts = int(numbers["begun"]), int(numbers["cohorts"])
    pool.lane_steps, pool.seconds = int(numbers["step"]), float(numbers["seconds"])
    moves = np.zeros(pool.width, bool)
    pool.places = Places(arrays["restart"], arrays["cohort"], moves, arrays["cohort_step"])
    pool.results = no_results(found.lanes, pool.setup, pool.num_restarts)
    for i, leaf in enumerate(jax.tree.leaves(pool.results)):
        leaf[: pool.begun] = arrays[f"result{i}"]
    phi = jax.tree.structure(pool.results.phi)
    pool.starts = _starts_of_arrays(arrays, phi, pool.starts.data)
    for part in (pool.history, pool.race):
        if part is not None:
            part.restore(arrays, numbers)


def _starts_as_arrays(starts: Starts) -> dict[str, np.ndarray]:
    """Arrays of the starts by name, without the data."""
    named = {"start_z": starts.z, "start_scale": starts.scale}
    if starts.warm is not None:
        named |= {"warm_loc": starts.warm.loc, "warm_scale_tril": starts.warm.scale_tril}
        phi = jax.tree.leaves(starts.warm.phi)
        named |= {f"warm_phi{i}": leaf for i, leaf in enumerate(phi)}
    return {name: np.asarray(leaf) for name, leaf in named.items() if leaf is not None}


def _starts_of_arrays(arrays: dict[str, np.ndarray], phi: Any, data: Data) -> Starts:
    """Starts from arrays by name; `phi` is the tree structure of the family's parameters."""
    names = [name for name in arrays if name.startswith(("start_", "warm_"))]
    here = {name: jnp.array(arrays[name]) for name in names}
    warm = None
    if "warm_loc" in here:
        leaves = [here[f"warm_phi{i}"] for i in range(phi.num_leaves) if "warm_phi0" in here]
        known = jax.tree.unflatten(phi, leaves) if leaves else None
        warm = WarmStart(here["warm_loc"], known, here.get("warm_scale_tril"))
    return Starts(here.get("start_z"), here["start_scale"], data, warm)
