"""Checkpoints of pools and races: the same bits however chunks were cut, and after every stop."""

import importlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_checkpoint as plain

import jaxvi
from jaxvi._engine import history, limits, pool
from jaxvi._persistence import npz_files

SMALL: dict[str, Any] = {"data": plain.X, "num_restarts": 14, "num_eval_draws": 64, "pool": 5}
CASES: dict[str, dict[str, Any]] = {
    "pool": {"solver": jaxvi.Stochastic(tolerance=0.3), "max_steps": 2_000},
    "own noise": {
        "noise": jaxvi.Fresh(shared=False),
        "solver": jaxvi.Stochastic(tolerance=0.3),
        "max_steps": 2_000,
    },
    "race": {"solver": jaxvi.Stochastic(tolerance=0.3), "max_steps": 2_000, "race": True},
    "ends within a block": {"solver": jaxvi.Stochastic(tolerance=None), "max_steps": 130},
    "other lengths": {"solver": jaxvi.FrozenNoise(), "max_steps": 60},
}
STARTS: dict[str, Any] = {
    "of each": {"mu": jnp.linspace(-3.0, 3.0, 14), "scale": jnp.linspace(0.5, 5.0, 14)},
    "same family": jaxvi.MeanField(),
    "other family": jaxvi.FullRank(),
}


def assert_same(left: jaxvi.Fit, right: jaxvi.Fit) -> None:
    """Bit for bit, and the pool was used alike."""
    plain.assert_same(left, right)
    assert left.pool == right.pool


@pytest.mark.parametrize("name", CASES)
def test_neither_chunks_nor_stops_leave_a_trace(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks as long as can be; of one block each; stopped after every one of the first, and then
    with chunks as long as can be again."""

    def pace(seconds: float) -> None:
        monkeypatch.setattr(limits, "_CHUNK_SECONDS", seconds)

    monkeypatch.setattr(history, "_MAX_NUMBERS", 14 * 16)
    arguments: dict[str, Any] = SMALL | CASES[name]
    pace(1e9)
    whole = jaxvi.fit(plain.KEY, plain.TARGET, progress=False, **arguments)
    assert len(set(whole.steps)) > 1 or "block" in name
    assert whole.pool.cohorts > 2
    pace(0.0)
    assert_same(jaxvi.fit(plain.KEY, plain.TARGET, progress=False, **arguments), whole)
    none = {"max_seconds": 1e-9, "progress": False}
    fit = jaxvi.fit(plain.KEY, plain.TARGET, checkpoint=tmp_path, **none, **arguments)
    assert fit.interrupted
    for _ in range(8):
        fit = jaxvi.resume(tmp_path, plain.TARGET, **none)
    pace(1e9)
    assert_same(plain.resume(tmp_path, plain.TARGET), whole)
    assert_same(plain.resume(tmp_path, plain.TARGET), whole)  # which has ended


@pytest.mark.parametrize("name", STARTS)
def test_restarts_that_had_not_begun_begin_where_they_were_to(name: str, tmp_path: Path) -> None:
    """Starts and their scales are kept: a resumed run is not given them."""
    start, short = STARTS[name], {"max_steps": 60, "progress": False}
    if name != "of each":
        start = jaxvi.fit(plain.KEY, plain.TARGET, start, data=plain.X, **short)
    arguments: dict[str, Any] = SMALL | {
        "start": start, "start_scale": np.linspace(0.5, 2.0, 14), "max_steps": 60,
        "solver": jaxvi.Stochastic(tolerance=None),
    }  # fmt: skip
    family = jaxvi.MeanField()
    whole = jaxvi.fit(plain.KEY, plain.TARGET, family, progress=False, **arguments)
    stop = plain.after(1)
    jaxvi.fit(plain.KEY, plain.TARGET, family, progress=stop, checkpoint=tmp_path, **arguments)
    assert_same(plain.resume(tmp_path, plain.TARGET), whole)


def test_many_restarts_are_pooled_with_a_checkpoint_too(tmp_path: Path) -> None:
    """As many at once as without one; and a resumed run keeps the width of the file."""
    arguments = {"data": plain.X, "max_steps": 100, "num_restarts": 300, "num_eval_draws": 64}
    solver = jaxvi.Stochastic(tolerance=None)
    whole = jaxvi.fit(plain.KEY, plain.TARGET, solver=solver, progress=False, **arguments)
    stop = plain.after(1)
    jaxvi.fit(
        plain.KEY, plain.TARGET, solver=solver, progress=stop, checkpoint=tmp_path, **arguments
    )
    again = plain.resume(tmp_path, plain.TARGET)
    assert again.pool.width == 64
    assert_same(again, whole)


@pytest.mark.parametrize("width", [None, 8])
def test_a_pool_that_is_halved_is_kept(
    width: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the width that fits, which a resumed run begins with."""
    real = pool.advance_pool

    def full(*_: Any, **__: Any) -> Any:
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory allocating 9 bytes")

    def some(keys: Any, lanes: Any, *others: Any, **choices: Any) -> Any:
        if len(lanes.status) > 4:
            full()
        return real(keys, lanes, *others, **choices)

    placement = importlib.import_module("jaxvi._engine.placement")
    monkeypatch.setattr(placement, "advance_lanes", full)
    monkeypatch.setattr(pool, "advance_pool", some)
    arguments = SMALL | {"num_restarts": 8, "pool": width, "max_steps": 300}
    arguments["solver"] = jaxvi.Stochastic(tolerance=None)
    with pytest.warns(RuntimeWarning, match="they run in a pool of 4 lanes"):
        whole = jaxvi.fit(plain.KEY, plain.TARGET, progress=False, **arguments)
    with pytest.warns(RuntimeWarning, match="they run in a pool of 4 lanes"):
        jaxvi.fit(
            plain.KEY, plain.TARGET, progress=plain.after(2), checkpoint=tmp_path, **arguments
        )
    again = plain.resume(tmp_path, plain.TARGET)
    assert again.pool.width == 4
    assert_same(again, whole)


def test_a_damaged_pool_is_refused(tmp_path: Path) -> None:
    """Cut short anywhere, or with any one byte altered."""
    arguments: dict[str, Any] = SMALL | CASES["race"]
    stop = plain.after(2)
    jaxvi.fit(plain.KEY, plain.TARGET, progress=stop, checkpoint=tmp_path, **arguments)
    path = tmp_path / "lanes-000.npz"
    content = path.read_bytes()
    for place in np.linspace(0, len(content) - 1, 40).astype(int):
        altered = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        for damaged in (content[:place], altered):
            path.write_bytes(damaged)
            with pytest.raises(npz_files.DamagedFile, match="cut short or altered"):
                plain.resume(tmp_path, plain.TARGET)


def test_restarts_that_never_start_are_kept(tmp_path: Path) -> None:
    """A pool in which whole cohorts end before they move."""

    def half(z: Any, data: Any) -> Any:
        return jnp.where(z[0] > 0.0, -0.5 * jnp.sum((z - data) ** 2), jnp.nan)

    target = jaxvi.Target(half, jaxvi.Real((2,)))
    starts = jnp.asarray([[1.0, 0.0]] * 3 + [[-1.0, 0.0]] * 9 + [[1.0, 0.0]])
    choices: dict[str, Any] = {
        "data": jnp.asarray([8.0, 8.0]), "start": starts, "num_restarts": 13, "pool": 3,
        "solver": jaxvi.Stochastic(tolerance=None), "max_steps": 200,
    }  # fmt: skip
    whole = jaxvi.fit(jax.random.key(0), target, progress=False, **choices)
    assert (whole.status == jaxvi.Status.NO_START).sum() == 9
    jaxvi.fit(jax.random.key(0), target, checkpoint=tmp_path, progress=plain.after(1), **choices)
    assert_same(plain.resume(tmp_path, target), whole)
