"""Checkpoints: a run goes on bit for bit, others are refused, and what goes wrong costs little."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxvi
from jaxvi._engine import WarmStart, history, limits, make_setup, start_lanes
from jaxvi._fitting import Request, RunOptions, checked, fit_restarts
from jaxvi._numerics import split_key
from jaxvi._persistence import checkpoints, npz_files, pytree_json, spec_json
from jaxvi._persistence.fingerprints import fingerprint
from jaxvi.supports import Positive, Real

KEY = jax.random.key(7)
X = jnp.array([0.3, -1.2, 2.0, 0.4])


def log_density(params: Any, data: Any) -> Any:
    scaled = (data - params["mu"]) / params["scale"]
    return -0.5 * jnp.sum(scaled**2) - (data.size + 1) * jnp.log(params["scale"])


SUPPORTS = {"mu": Real(), "scale": Positive()}
TARGET = jaxvi.Target(log_density, SUPPORTS)
STOCHASTIC = jaxvi.Stochastic(tolerance=None)
SMALL: dict[str, Any] = {"data": X, "num_restarts": 3, "num_eval_draws": 64}
COARSE: dict[str, Any] = SMALL | {"solver": STOCHASTIC, "max_steps": 1_000}


class Rows(NamedTuple):
    """A container of a user's own."""

    y: Any


def numbers(fit: jaxvi.Fit) -> list[np.ndarray]:
    """All numbers of a fit but its times."""
    kept = (fit.phi, fit.status, fit.steps, fit.bounds, fit.log_weights, fit.history, fit.best)
    stock = (
        None
        if fit.corrected_draws is None
        else (fit.corrected_draws.z, fit.corrected_draws.log_weights)
    )
    return [np.asarray(leaf) for leaf in jax.tree.leaves((kept, stock, fit.q.phi))]


def assert_same(left: jaxvi.Fit, right: jaxvi.Fit) -> None:
    """Bit for bit."""
    for a, b in zip(numbers(left), numbers(right), strict=True):
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()


def after(reports: int) -> Callable[[jaxvi.Progress], None]:
    """A reporter that stops the run at so many reports, as Ctrl-C in it would."""
    seen = []

    def report(progress: jaxvi.Progress) -> None:
        seen.append(progress)
        if len(seen) == reports:
            raise KeyboardInterrupt

    return report


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of one block each."""
    monkeypatch.setattr(limits, "_CHUNK_SECONDS", 0.0)


def cut(folder: Path, reports: int = 2, **arguments: Any) -> jaxvi.Fit:
    """A run that is stopped after some chunks."""
    arguments = COARSE | arguments
    return jaxvi.fit(KEY, TARGET, checkpoint=folder, progress=after(reports), **arguments)


resume = partial(jaxvi.resume, progress=False)


# As if it had never stopped


@pytest.mark.parametrize("patience", [None, 1.5])
def test_how_a_run_is_cut_leaves_no_trace(
    patience: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks of one block and of all blocks: the same bits, in parameters, limits and history."""

    def run(seconds: float) -> jaxvi.Fit:
        monkeypatch.setattr(limits, "_CHUNK_SECONDS", seconds)
        solver = jaxvi.Stochastic(tolerance=0.3)
        options: dict[str, Any] = SMALL | {"num_restarts": 6, "solver": solver}
        request = checked(Request(KEY, TARGET, max_steps=20_000, **options))
        return fit_restarts(request, RunOptions(patience=patience, progress=False))

    monkeypatch.setattr(history, "_MAX_ROWS", 9)  # thinned to stretches of 4 and more
    one, all_at_once = run(0.0), run(1e9)
    assert one.steps.max() > 1_000
    assert_same(one, all_at_once)


PARTS: dict[str, dict[str, Any]] = {
    "stochastic": {"solver": jaxvi.Stochastic(), "max_steps": 600},
    "independent noise": {"noise": jaxvi.Fresh(shared=False), "max_steps": 300},
    "other optimiser": {"solver": jaxvi.Stochastic(optax.sgd, momentum=0.9), "max_steps": 300},
    "natural gradient": {"solver": jaxvi.NaturalGradient(), "max_steps": 100},
    "batch and match": {"solver": jaxvi.BatchAndMatch(), "max_steps": 60},
    "frozen noise": {"solver": jaxvi.FrozenNoise(), "max_steps": 20},
    "laplace": {"solver": jaxvi.Laplace(tolerance=1e-30), "max_steps": 100},
    "pathfinder": {"solver": jaxvi.Pathfinder(), "max_steps": 40},
    "student": {"family": jaxvi.StudentT(), "max_steps": 300},
    "started": {"family": jaxvi.MeanField(), "start": {"mu": 0.3, "scale": 2.0}, "max_steps": 300},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_a_stopped_run_goes_on_bit_for_bit(
    name: str, tmp_path: Path, short: None, long: bool
) -> None:
    """With jaxvi's own parts, the folder and the target are enough."""
    whole = jaxvi.fit(KEY, TARGET, progress=False, **(SMALL | PARTS[name]))
    stopped = jaxvi.fit(
        KEY, TARGET, checkpoint=tmp_path, progress=after(1), **(SMALL | PARTS[name])
    )
    assert stopped.interrupted
    assert stopped.steps.max() < whole.steps.max()
    if long or name == "stochastic":  # programs made anew, as in another process
        jax.clear_caches()
    again = resume(tmp_path, TARGET)
    assert_same(again, whole)
    assert not again.interrupted
    assert_same(resume(tmp_path, TARGET), whole)  # what has ended gives its result again


FAMILIES = [
    jaxvi.MeanField(),
    jaxvi.FullRank(),
    jaxvi.LowRank(rank=1),
    jaxvi.StudentT(),
    jaxvi.CouplingFlow(),
    jaxvi.AutoregressiveFlow(),
]


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_lanes_have_one_structure_whatever_they_start_from(family: Any) -> None:
    """A file of lanes is read without knowing how they had started."""
    setup = make_setup(TARGET, family, None, STOCHASTIC, None)

    def lanes(z: Any, warm: Any) -> Any:
        start = partial(start_lanes, setup=setup, num_lanes=3)
        return jax.eval_shape(start, split_key(KEY), z, jnp.float32(1.0), X, warm)

    loc = jnp.zeros(2)
    phi = family.init(KEY, 2, start=loc)
    warm = [WarmStart(loc, phi, None), WarmStart(loc, None, jnp.eye(2))]
    drawn = lanes(None, None)
    for other in (
        *(lanes(z, None) for z in (loc, jnp.zeros((3, 2)))),
        *(lanes(None, w) for w in warm),
    ):
        assert jax.tree.structure(other) == jax.tree.structure(drawn)
        for a, b in zip(jax.tree.leaves(other), jax.tree.leaves(drawn), strict=True):
            assert (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, False)


def test_float64_goes_on_bit_for_bit(tmp_path: Path, short: None, x64: None) -> None:
    """In the other precision, which is refused once 64-bit types are off."""
    data = {"data": jnp.asarray(X, jnp.float64)}
    whole = jaxvi.fit(KEY, TARGET, progress=False, **(COARSE | data))
    cut(tmp_path, **data)
    assert_same(resume(tmp_path, TARGET), whole)
    with jax.enable_x64(False), pytest.raises(ValueError, match=r"data: .*float64.*float32"):
        resume(tmp_path, TARGET)


def test_a_budget_leaves_a_checkpoint_and_is_not_part_of_the_run(
    tmp_path: Path, short: None
) -> None:
    """Small budgets one after the other end where one run without a budget does."""
    whole = jaxvi.fit(KEY, TARGET, progress=False, **COARSE)
    fit = jaxvi.fit(KEY, TARGET, checkpoint=tmp_path, max_seconds=1e-6, progress=False, **COARSE)
    assert fit.interrupted
    tries = 0
    while fit.interrupted:
        fit, tries = resume(tmp_path, TARGET, max_seconds=1e-6), tries + 1
    assert tries > 5
    assert_same(fit, whole)


def test_the_same_seed_gives_the_same_result(key: jax.Array) -> None:
    """On one machine, bit for bit; and another seed another."""
    one, two = (jaxvi.fit(key, TARGET, progress=False, **COARSE) for _ in range(2))
    assert_same(one, two)
    other = jaxvi.fit(jax.random.fold_in(key, 1), TARGET, progress=False, **COARSE)
    assert not np.array_equal(one.bounds, other.bounds)


def banana(z: Any, data: Any) -> Any:
    return -0.5 * (z[0] / 2.0) ** 2 - 0.5 * ((z[1] - z[0] ** 2) / data) ** 2


@pytest.mark.slow
@pytest.mark.parametrize("reports", [1, 12])
def test_the_autopilot_goes_on_bit_for_bit(reports: int, tmp_path: Path, short: None) -> None:
    """Stopped in its first stage, and while a flow is fitted."""
    target, data = jaxvi.Target(banana, Real((2,))), jnp.float32(0.5)
    told: list[jaxvi.Progress] = []
    options: dict[str, Any] = {"data": data, "polish": False}
    whole = jaxvi.fit(KEY, target, progress=told.append, **options)
    assert "flow" in [stage.name for stage in whole.log]
    first_flow = next(i for i in range(1, len(told)) if told[i].step < told[i - 1].step)
    stop = after(1 if reports == 1 else first_flow + 3)
    stopped = jaxvi.fit(KEY, target, checkpoint=tmp_path, progress=stop, **options)
    files = sorted(path.name for path in tmp_path.glob("lanes-*"))
    assert stopped.interrupted
    assert (len(files) == 1) == (reports == 1)
    again = resume(tmp_path, target)
    assert_same(again, whole)
    assert [stage.note for stage in again.log] == [stage.note for stage in whole.log]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kills", "lanes"), [(6, []), pytest.param(20, [], marks=pytest.mark.long), (6, [7])]
)
def test_killed_at_random_moments_nothing_is_lost(
    kills: int, lanes: list[int], tmp_path: Path
) -> None:
    """Kill -9, while steps are taken and while the disk is written to; together and in a pool."""
    environment = os.environ | {
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "programs"),
    }
    script = Path(__file__).with_name("killing.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "run"), *map(str, [kills, *lanes])],
        capture_output=True,
        text=True,
        env=environment,
        cwd=script.parents[2],
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert len(told["expected"]) == 64, told["expected"]
    assert told["found"] == [told["expected"]]
    assert told["kills"] == kills
    assert told["in_writing"] > 0


# What is refused


def altered(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """The run's file with another header, as another version or machine would have written it."""
    header, arrays = npz_files.unpack(folder / "run.npz")
    change(header)
    npz_files.write(folder / "run.npz", npz_files.pack(header, arrays))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint, for those who only look."""
    folder = tmp_path_factory.mktemp("stopped")
    cut(folder)
    return folder


def other_density(params: Any, data: Any) -> Any:
    return log_density(params, data) - 1e-3 * params["mu"] ** 2


def test_another_target_is_refused(stopped: Path) -> None:
    """Another function, a constant changed, other supports, another start."""
    for target, word in (
        (jaxvi.Target(other_density, SUPPORTS), "code or constants"),
        (jaxvi.Target(partial(log_density), SUPPORTS), "code or constants"),
        (jaxvi.Target(log_density, SUPPORTS, start=lambda key, data: {}), "code or constants"),
        (jaxvi.Target(log_density, {"mu": Real((2,)), "scale": Positive()}), "dimension"),
        (jaxvi.Target(log_density, {"mu": Positive(), "scale": Positive()}), "supports"),
    ):
        with pytest.raises(ValueError, match=word):
            resume(stopped, target)


def test_other_data_are_refused(stopped: Path) -> None:
    """By value and by shape; the same are welcome."""
    for data, word in ((X + 1e-6, "others of the same"), (X[:3], r"float32\[4\]; got")):
        with pytest.raises(ValueError, match=word):
            resume(stopped, TARGET, data=data)
    assert resume(stopped, TARGET, data=X, max_seconds=1e-6).interrupted


def test_other_parts_are_refused(stopped: Path) -> None:
    """What is given must be what was given."""
    with pytest.raises(ValueError, match="solver: expected that of the checkpoint, Stochastic"):
        resume(stopped, TARGET, solver=jaxvi.Stochastic())
    with pytest.raises(ValueError, match="family: expected that of the checkpoint, None"):
        resume(stopped, TARGET, family=jaxvi.MeanField())


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda header: header.update(format=0), "format"),
        (lambda header: header["versions"].update(jax="0.1"), "environment with jax 0.1"),
        (lambda header: header["versions"].update(jaxvi="0.0"), "the jaxvi of"),
        (lambda header: header.update(device="tpu, v9"), "tpu, v9; got cpu"),
        (lambda header: header.update(dtype="float64"), "the dtype of"),
        (lambda header: header["numbers"].update(num_restarts=4), "data.npz of the run"),
    ],
)
def test_another_version_device_or_dtype_is_refused(
    change: Callable[[dict[str, Any]], None], word: str, tmp_path: Path
) -> None:
    """In the header as it would stand there."""
    cut(tmp_path)
    altered(tmp_path, change)
    data = X if word == "the dtype of" else None
    with pytest.raises(ValueError, match=word):
        resume(tmp_path, TARGET, data=data)


def test_lanes_of_another_run_are_refused(stopped: Path, tmp_path: Path) -> None:
    """Files of two folders don't mix."""
    cut(tmp_path, num_restarts=4)
    (tmp_path / "lanes-000.npz").write_bytes((stopped / "lanes-000.npz").read_bytes())
    with pytest.raises(ValueError, match="another run or of other shapes"):
        resume(tmp_path, TARGET)


def test_a_damaged_file_is_refused(stopped: Path, tmp_path: Path) -> None:
    """Cut short anywhere, or with any one byte altered."""
    for name in ("run.npz", "data.npz", "lanes-000.npz"):
        content = (stopped / name).read_bytes()
        path = tmp_path / name
        for place in np.linspace(0, len(content) - 1, 60).astype(int):
            path.write_bytes(content[:place])
            with pytest.raises(npz_files.DamagedFile, match="cut short or altered"):
                npz_files.unpack(path)
            other = bytes([content[place] ^ 1])
            path.write_bytes(content[:place] + other + content[place + 1 :])
            with pytest.raises(npz_files.DamagedFile, match="cut short or altered"):
                npz_files.unpack(path)
    for name in ("run.npz", "data.npz", "lanes-000.npz"):
        folder = tmp_path / f"without {name}"
        folder.mkdir()
        for path in stopped.glob("*.npz"):
            (folder / path.name).write_bytes(path.read_bytes()[: -1 if path.name == name else None])
        with pytest.raises(ValueError, match=f"{name} as jaxvi wrote it"):
            resume(folder, TARGET)


class Bomb:
    """Would make a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_loading_executes_nothing(tmp_path: Path) -> None:
    """A pickle with a right digest is refused, and a header makes only what is listed."""
    bomb = np.array([Bomb(tmp_path / "exploded")], object)
    buffer = io.BytesIO()
    np.savez(buffer, bomb=bomb)
    path = tmp_path / "run.npz"
    packed = npz_files.pack({}, {"bomb": np.zeros(1)})
    assert npz_files.pack({}, {"bomb": np.zeros(1)})[-64:] == packed[-64:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "savez", lambda file, **arrays: file.write(buffer.getvalue()))
        path.write_bytes(npz_files.pack({}, {}))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        npz_files.unpack(path)
    assert not (tmp_path / "exploded").exists()
    for found in ({"spec": "Popen", "fields": {}}, {"optimiser": "__import__"}):
        with pytest.raises(ValueError, match=r"expected (one of|a specification)"):
            spec_json.decode([found])


def test_a_folder_in_use_or_without_a_checkpoint_is_refused(stopped: Path, tmp_path: Path) -> None:
    """A new run does not overwrite one, be it another's or its own."""
    with pytest.raises(ValueError, match=r"this very run; try jaxvi.resume"):
        cut(stopped)
    with pytest.raises(ValueError, match="another run; try another folder"):
        cut(stopped, num_restarts=5)
    with pytest.raises(ValueError, match=r"there is no run.npz; try jaxvi.fit"):
        resume(tmp_path, TARGET)
    with pytest.raises(ValueError, match=r"there is no run.npz"):
        resume(stopped / "run.npz", TARGET)
    with pytest.raises(ValueError, match="a folder that can be written to"):
        cut(stopped / "run.npz" / "inside")
    with pytest.raises(TypeError, match="checkpoint: expected the path of a folder; got 3"):
        checkpoints.as_folder("checkpoint", 3)
    with pytest.raises(ValueError, match="checkpoint_seconds: expected a finite number above 0"):
        cut(tmp_path / "new", checkpoint_seconds=0.0)


# What the folder can't hold


def test_parts_of_a_users_own_are_asked_for(tmp_path: Path) -> None:
    """A schedule is a function: it must be given again, and is recognised."""

    def solver(steps: int) -> jaxvi.Stochastic:
        rate = optax.cosine_decay_schedule(0.05, steps)
        return jaxvi.Stochastic(optax.adam, learning_rate=rate, tolerance=None, average=False)

    whole = jaxvi.fit(KEY, TARGET, progress=False, **(COARSE | {"solver": solver(1_000)}))
    cut(tmp_path, solver=solver(1_000))
    with pytest.raises(ValueError, match=r"solver: .* try jaxvi.resume\(folder, target, solver="):
        resume(tmp_path, TARGET)
    with pytest.raises(ValueError, match="solver: expected that of the checkpoint"):
        resume(tmp_path, TARGET, solver=solver(2_000))
    assert_same(resume(tmp_path, TARGET, solver=solver(1_000)), whole)


def test_data_that_are_not_kept_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large ones, and containers that only their own code could make."""
    monkeypatch.setattr(checkpoints, "_MAX_DATA_BYTES", 8)
    cut(tmp_path / "large")
    monkeypatch.undo()
    own = jaxvi.Target(lambda params, data: log_density(params, data.y), SUPPORTS)
    arguments: dict[str, Any] = COARSE | {"data": Rows(X)}
    jaxvi.fit(KEY, own, checkpoint=tmp_path / "own", progress=after(1), **arguments)
    for folder, target, data in (("large", TARGET, X), ("own", own, Rows(X))):
        assert not (tmp_path / folder / "data.npz").exists()
        with pytest.raises(ValueError, match="data: expected the data of the checkpoint"):
            resume(tmp_path / folder, target)
        assert not resume(tmp_path / folder, target, data=data).interrupted


@pytest.mark.parametrize(
    "tree",
    [None, X, 2.0, {"b": X, "a": [X, (X, None)]}, {2: X, 1: 3}, [], ({"x": 1.5},)],
)
def test_plain_trees_come_back_from_json(tree: Any) -> None:
    """The same structure and leaves; numbers stay plain numbers."""
    leaves = list(range(100, 100 + len(jax.tree.leaves(tree))))
    found = json.loads(json.dumps(pytree_json.encode(tree)))
    made = pytree_json.decode(found, leaves)
    assert jax.tree.structure(made) == jax.tree.structure(tree)
    for i, (a, b) in enumerate(zip(jax.tree.leaves(made), jax.tree.leaves(tree), strict=True)):
        assert a == (b if type(b) in (int, float) else 100 + i)


# Fingerprints

SCALE = 2.0


def _helper(x: Any) -> Any:
    return x * SCALE


def uses_helper(x: Any, _data: Any) -> Any:
    return _helper(x) if {"a", "b"} else x  # a set of words has no fixed order


def test_fingerprints_see_what_a_function_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closed-over numbers, defaults, helpers, constants of the module; not its place in memory."""

    def make(scale: Any, default: float = 1.0) -> Callable[..., Any]:
        def density(x: Any, other: float = default) -> Any:
            return x * scale + other

        return density

    assert fingerprint(make(1.0)) == fingerprint(make(1.0))
    assert fingerprint(jax.jit(make(X))) == fingerprint(jax.jit(make(X)))
    different = [make(1.0), make(2.0), make(1.0, 2.0), make(X), make(X + 1.0), make(1)]
    different += [partial(make(1.0), other=3.0), jax.jit(make(1.0)), uses_helper]
    assert len({fingerprint(each) for each in different}) == len(different)
    before = fingerprint(uses_helper)
    monkeypatch.setitem(uses_helper.__globals__, "SCALE", 3.0)
    assert fingerprint(uses_helper) != before


def test_fingerprints_are_the_same_in_every_process() -> None:
    """Whatever the seed of Python's hashes."""
    program = (
        "import optax, jaxvi, test_checkpoint as t; from jaxvi._persistence import fingerprint; "
        "mixture = jaxvi.models.gaussian_mixture(2, 3); "
        "things = (t.uses_helper, t.TARGET, jaxvi.Stochastic(), optax.cosine_decay_schedule(1, 9),"
        " mixture.log_density, mixture.leaves); "
        "print(*map(fingerprint, things))"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
            cwd=Path(__file__).parent,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(told) == 1


# Faults and costs


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("what", [(np, "savez"), (os, "fsync"), (os, "replace")])
def test_a_full_disk_stops_nothing(
    what: tuple[Any, str], tmp_path: Path, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One warning; the result is that of a run without checkpoints, and nothing is left lying."""
    whole = jaxvi.fit(KEY, TARGET, progress=False, **COARSE)
    claim = checkpoints.Checkpoints._claim

    def fills_up(checkpoints: checkpoints.Checkpoints) -> None:
        claim(checkpoints)
        monkeypatch.setattr(*what, full_disk)

    monkeypatch.setattr(checkpoints.Checkpoints, "_claim", fills_up)
    with pytest.warns(RuntimeWarning, match="could not be written.*No space left") as caught:
        fit = jaxvi.fit(
            *(KEY, TARGET), checkpoint=tmp_path, checkpoint_seconds=1e-6, progress=False, **COARSE
        )
    assert len(caught) == 1
    assert_same(fit, whole)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_in_between_keeps_the_last_checkpoint(
    tmp_path: Path, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written before is whole, and writing goes on when there is room again."""
    whole = jaxvi.fit(KEY, TARGET, progress=False, **COARSE)
    cut(tmp_path, reports=3)
    before = (tmp_path / "lanes-000.npz").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.warns(RuntimeWarning, match="could not be written"):
            resume(tmp_path, TARGET, max_seconds=1e-6)
    assert (tmp_path / "lanes-000.npz").read_bytes() == before
    assert_same(resume(tmp_path, TARGET), whole)


def test_interrupted_twice_the_last_checkpoint_is_whole(
    tmp_path: Path, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first Ctrl-C ends the run with a checkpoint; one in the middle of that raises."""
    whole = jaxvi.fit(KEY, TARGET, progress=False, **COARSE)
    sync = os.fsync

    def second(descriptor: int) -> None:
        signal.raise_signal(signal.SIGINT)
        sync(descriptor)

    def first(progress: jaxvi.Progress) -> None:
        if progress.step >= 150:
            signal.raise_signal(signal.SIGINT)
            monkeypatch.setattr(os, "fsync", second)

    with pytest.raises(KeyboardInterrupt):
        jaxvi.fit(KEY, TARGET, checkpoint=tmp_path, progress=first, **COARSE)
    monkeypatch.setattr(os, "fsync", sync)
    assert not list(tmp_path.glob("*.unfinished"))
    header, _ = npz_files.unpack(tmp_path / "lanes-000.npz")
    assert header["numbers"]["step"] == 0  # from the beginning of the run
    assert_same(resume(tmp_path, TARGET), whole)


def test_one_interrupt_keeps_what_there_is(tmp_path: Path, short: None) -> None:
    """On the disk as in the result."""

    def report(progress: jaxvi.Progress) -> None:
        if progress.step == 150:
            signal.raise_signal(signal.SIGINT)

    fit = jaxvi.fit(KEY, TARGET, checkpoint=tmp_path, progress=report, **COARSE)
    header, arrays = npz_files.unpack(tmp_path / "lanes-000.npz")
    assert fit.interrupted
    assert header["numbers"]["step"] == 150 == fit.steps.max()
    assert_array_in(fit.phi, arrays)


def assert_array_in(tree: Any, arrays: dict[str, np.ndarray]) -> None:
    """The first leaf is among the arrays."""
    leaf = np.asarray(jax.tree.leaves(tree)[0])
    assert any(np.array_equal(leaf, array) for array in arrays.values())


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.mark.parametrize(("cost", "seconds"), [(0.001, 10.0), (1.0, 10.0), (1.0, 0.001)])
def test_writing_takes_two_percent_at_most(
    cost: float, seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, long: bool
) -> None:
    """And comes as often as it was asked for where that allows it."""
    clock, writes = Clock(), []

    def write(path: Path, content: bytes) -> None:
        writes.append(clock.now)
        clock.now += cost

    monkeypatch.setattr(checkpoints, "time", clock)
    monkeypatch.setattr(npz_files, "write", write)
    kept = checkpoints.Checkpoints(tmp_path, seconds, dict, None, "run")
    kept.open()
    while clock.now < (10_000.0 if long else 1_000.0):
        clock.now += 0.01
        if kept.is_due():
            kept.write("lanes-000.npz", {}, {})
    assert len(writes) * cost <= 0.02 * clock.now
    gaps = np.diff(writes)
    assert gaps.max() <= max(seconds + cost, cost / 0.02) + 0.011


def test_leftovers_of_the_killed_are_removed(tmp_path: Path) -> None:
    """Files that were not finished don't pile up."""
    (tmp_path / "lanes-000.npz.123.unfinished").write_bytes(b"half")
    cut(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "data.npz",
        "lanes-000.npz",
        "run.npz",
    ]


def test_without_a_checkpoint_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is warned of."""
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jaxvi.fit(KEY, TARGET, progress=False, **COARSE)
    assert not list(tmp_path.iterdir())
