"""Checkpoints of fits to streams: going on at the step where it was left, with the same rows."""

import inspect
import os
import shutil

import jax
import numpy as np
import pytest
import test_checkpoint as plain
from regression import TARGET, Blocks, rows

import jaxvi
from jaxvi._engine import data_sources, limits
from jaxvi.data import ShuffledRows

NUM = 1_100  # 11 steps an epoch
SOLVER = jaxvi.Stochastic(tolerance=None)
KEY = jax.random.key(6)
plain_fit = inspect.unwrap(jaxvi.fit)
resume = inspect.unwrap(jaxvi.resume)


def stream(source, window=300):
    return jaxvi.Stream(source, NUM, window=window)


def memmap(folder):
    """Rows in files."""
    folder.mkdir(exist_ok=True)
    for name, leaf in zip("xy", rows(NUM), strict=True):
        np.save(folder / f"{name}.npy", leaf)
    return mapped(folder)


def mapped(folder):
    return tuple(np.load(folder / f"{name}.npy", mmap_mode="r") for name in "xy")


def fit(data, **options):
    given = {"minibatch": jaxvi.Minibatch(100), "num_restarts": 2, "max_steps": 700, **options}
    return plain_fit(KEY, TARGET, data=data, solver=SOLVER, num_eval_draws=64, **given)


@pytest.fixture
def short(monkeypatch):
    """Two blocks to a chunk of the stream, one to a chunk of the run."""
    monkeypatch.setattr(data_sources, "_CHUNK_BYTES", 100 * 16 * 100)
    monkeypatch.setattr(limits, "_CHUNK_SECONDS", 0.0)


@pytest.mark.parametrize("kind", ["array", "blocks", "list", "memmap"])
@pytest.mark.parametrize("reports", [1, 5, 8])
def test_a_fit_to_a_stream_goes_on_bit_for_bit(kind, reports, tmp_path, short):
    """Stopped in the middle of a chunk of the stream and at its end, in its first and later."""
    data = rows(NUM)
    x, y = data
    make = {
        "array": lambda: data,
        "blocks": lambda: Blocks(data, 130),
        "list": lambda: [(x[:500], y[:500]), (x[500:], y[500:])],
        "memmap": lambda: memmap(tmp_path / "rows"),
    }[kind]
    whole = fit(stream(make()), progress=False)
    stop = plain.after(reports)
    cut = fit(stream(make()), checkpoint=tmp_path / "kept", progress=stop)
    assert cut.interrupted
    assert cut.steps.max() == 50 * reports
    again = stream(mapped(tmp_path / "rows") if kind == "memmap" else make())
    for _ in range(2):  # and what has ended gives its result again
        found = resume(tmp_path / "kept", TARGET, data=again, progress=False)
        plain.assert_same(found, whole)


def test_a_source_that_broke_off_is_gone_on_with(tmp_path, short):
    """What there was is on the disk; once the source is whole again the fit is the whole one."""
    whole = fit(stream(Blocks(rows(NUM), 100)), progress=False)
    broken = Blocks(rows(NUM), 100, breaks_after=350)
    with pytest.warns(RuntimeWarning, match="disk is gone"):
        cut = fit(stream(broken), checkpoint=tmp_path, progress=False)
    assert cut.interrupted
    assert 0 < cut.steps.max() < 700
    again = stream(Blocks(rows(NUM), 100))
    plain.assert_same(resume(tmp_path, TARGET, data=again, progress=False), whole)


def test_rows_before_the_first_are_read_by_the_thread():
    """Making the reader of a later step takes no time; a stop ends its search, too."""
    read = []

    class Watched(Blocks):
        def __iter__(self):
            for block in super().__iter__():
                read.append(len(block))
                yield block

    late = ShuffledRows(stream(Watched(np.arange(NUM), 100)), 3, NUM, skip=NUM + 900)
    assert not read
    late.stopped.set()
    with pytest.raises(InterruptedError):
        late.take(1)
    assert len(read) == 1


def test_other_streams_are_refused(tmp_path, short):
    """No stream, arrays, another window, other rows, a file that was written anew."""
    folder = tmp_path / "rows"
    fit(stream(memmap(folder)), checkpoint=tmp_path / "kept", progress=plain.after(1))
    x, y = rows(NUM)
    changed = np.array(y)
    changed[0] += 1.0
    for data, words in (
        (None, "no copy, since they are a Stream"),
        ((x, y), "kind of data of the checkpoint, a Stream; got arrays"),
        (stream(mapped(folder), window=301), "a stream of another window"),
        (stream((x, changed)), "others of the same shapes"),
        (jaxvi.Stream((x[1:], y[1:]), window=300), r"float32\[1100, 3\].*got.*\[1099, 3\]"),
    ):
        with pytest.raises(ValueError, match=words):
            resume(tmp_path / "kept", TARGET, data=data)
    shutil.move(folder, tmp_path / "moved")  # where the files are makes no difference
    found = resume(tmp_path / "kept", TARGET, data=stream(mapped(tmp_path / "moved")))
    assert not found.interrupted
    os.utime(tmp_path / "moved" / "x.npy", (1.0, 1.0))
    with pytest.raises(ValueError, match="files that were changed since"):
        resume(tmp_path / "kept", TARGET, data=stream(mapped(tmp_path / "moved")))


def test_files_of_columns_are_told_apart(tmp_path, short):
    """By their size, time, and first rows."""
    pyarrow, parquet = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
    x, y = rows(NUM)
    target = jaxvi.Target(
        log_prior=TARGET.log_prior, log_likelihood=of_columns, supports=jaxvi.Real(3)
    )
    lists = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(x.ravel()), 3)
    path = tmp_path / "table.parquet"
    parquet.write_table(pyarrow.table({"x": lists, "y": pyarrow.array(y)}), path, row_group_size=64)
    options = {"minibatch": jaxvi.Minibatch(100), "solver": SOLVER, "num_restarts": 2}
    options |= {"max_steps": 300, "num_eval_draws": 64}
    data = jaxvi.Stream(path, window=200)
    whole = plain_fit(KEY, target, data=data, progress=False, **options)
    stop, kept = plain.after(2), tmp_path / "kept"
    plain_fit(KEY, target, data=data, checkpoint=kept, progress=stop, **options)
    plain.assert_same(resume(kept, target, data=data, progress=False), whole)
    os.utime(path, (1.0, 1.0))
    with pytest.raises(ValueError, match="files that were changed since"):
        resume(kept, target, data=jaxvi.Stream(path, window=200))


def of_columns(slopes, data):
    return TARGET.log_likelihood(slopes, (data["x"], data["y"]))


def test_doubles_stay_doubles(tmp_path, short, x64):
    data = rows(NUM, float)
    whole = fit(stream(data), progress=False)
    fit(stream(data), checkpoint=tmp_path, progress=plain.after(5))
    again = resume(tmp_path, TARGET, data=stream(data), progress=False)
    assert jax.tree.leaves(again.phi)[0].dtype == np.float64
    plain.assert_same(again, whole)
