"""Streams: every row once an epoch, what a chunk holds, ends that are unexpected."""

import inspect
import threading
import time

import jax
import numpy as np
import pytest
import regression
from regression import TARGET, Blocks, rows

import jaxvi
from jaxvi import Status
from jaxvi.data._stream import ShuffledRows, Stream, WrongCount, regular

KEY = jax.random.key(6)
plain_fit = inspect.unwrap(jaxvi.fit)


def fit(stream, **options):
    given = {"minibatch": jaxvi.Minibatch(100), "num_restarts": 2, "max_steps": 400, **options}
    return plain_fit(KEY, TARGET, data=stream, progress=False, **given)


@pytest.mark.parametrize("window", [1, 10, 64, 10_000])
@pytest.mark.parametrize("kind", ["array", "blocks", "list"])
def test_every_row_comes_once_an_epoch(kind, window):
    """In another order each time, where the window holds more than a block."""
    data = np.arange(1_000)
    source = {"array": data, "blocks": Blocks(data, 37), "list": [data[:400], data[400:]]}[kind]
    taken = ShuffledRows(Stream(source, window=window), 3, 1_000)
    epochs = np.stack([np.concatenate([taken.take(250) for _ in range(4)]) for _ in range(3)])
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(data, (3, 1)))
    assert (epochs[0] != epochs[1]).mean() > 0.9


def test_rows_are_a_function_of_seed_and_place():
    """However many are taken at a time, and from wherever one begins."""
    data = {"x": np.arange(600.0).reshape(300, 2), "y": np.arange(300)}
    stream = Stream(data, window=50)
    whole = ShuffledRows(stream, 1, 300).take(700)
    parts = ShuffledRows(stream, 1, 300)
    np.testing.assert_array_equal(
        whole["y"], np.concatenate([parts.take(num)["y"] for num in (1, 299, 17, 383)])
    )
    np.testing.assert_array_equal(whole["x"][:, 0], 2.0 * whole["y"])
    later = ShuffledRows(stream, 1, 300, skip=413).take(287)
    np.testing.assert_array_equal(whole["y"][413:], later["y"])
    other = ShuffledRows(stream, 2, 300).take(300)
    assert (other["y"] != whole["y"][:300]).mean() > 0.9


def test_blocks_are_made_regular():
    """The same rows in the same order."""
    data = np.arange(101)
    found = list(regular(Blocks(data, 7), 20))
    assert [len(block) for block in found] == [20, 20, 20, 20, 20, 1]
    np.testing.assert_array_equal(np.concatenate(found), data)


def test_a_stream_ends_at_the_exact_posterior(tmp_path):
    """From a memmap, 10,000 rows, 100 a step: within 0.03 sd and 3 %; the bound on all rows."""
    data = rows(10_000)
    paths = [tmp_path / name for name in ("x.npy", "y.npy")]
    for path, leaf in zip(paths, data, strict=True):
        np.save(path, leaf)
    maps = tuple(np.load(path, mmap_mode="r") for path in paths)
    exact = regression.posterior(data)
    found = fit(Stream(maps), num_restarts=4, max_steps=60_000)
    mean, sd = regression.errors(found, exact)
    assert mean < 0.03
    assert sd < 0.03
    assert abs(found.bound - exact.log_evidence) < 0.02
    assert (found.status == Status.CONVERGED).all()
    assert found.verdict == "ok", found.reasons


def test_the_same_stream_gives_the_same_fit():
    """Blocks or array, as long as rows come in the same order; and again."""
    data = rows(3_000)
    one, again = (fit(Stream(Blocks(data, 500), 3_000, window=1_000)) for _ in range(2))
    np.testing.assert_array_equal(one.phi.loc, again.phi.loc)
    np.testing.assert_array_equal(one.bounds, again.bounds)


def test_doubles_stay_doubles(x64):
    """The thread that reads has the caller's dtypes."""
    found = fit(Stream(rows(1_000, float)), max_steps=100)
    assert found.phi.loc.dtype == np.float64


@pytest.mark.parametrize("error", [OSError("the disk is gone"), KeyError("column")])
def test_a_source_that_raises_returns_what_there_is(error):
    """A fit marked as interrupted, usable, with the error's words in a warning."""
    data = rows(2_000)
    broken = Stream(Blocks(data, 500, 2 + 4 + 4 * 2_000, error), 2_000, window=1_000)
    # the chunk that holds 400,000 rows is read; what comes after breaks off
    with pytest.warns(RuntimeWarning, match=f"{type(error).__name__}.*(disk is gone|column)"):
        found = fit(broken, max_steps=100_000, solver=jaxvi.Stochastic(tolerance=None))
    assert found.interrupted
    assert (found.status == Status.INTERRUPTED).all()
    assert found.steps[0] >= 3_200
    assert np.isfinite(found.bound)
    exact = regression.posterior(data)
    assert regression.errors(found, exact)[0] < 1.0
    with pytest.raises(jaxvi.FitError, match="interrupted"):
        found.check()


def test_a_source_that_raises_in_the_last_pass_says_so():
    """The optimisation is whole; the bound is that of the rows that came, scaled up."""
    data = rows(2_000)
    whole = fit(Stream(Blocks(data, 500), 2_000, window=1_000))

    class Cut(Blocks):
        """The main thread looks at two blocks first, and gets two more of the last pass."""

        def __iter__(self):
            for block in super().__iter__():
                if threading.current_thread() is threading.main_thread():
                    self.seen += 1
                    if self.seen > 4:
                        raise OSError("the disk is gone")
                yield block

        seen = 0

    with pytest.warns(RuntimeWarning, match=r"disk is gone.*while lanes were ranked"):
        found = fit(Stream(Cut(data, 500), 2_000, window=1_000))
    np.testing.assert_array_equal(found.phi.loc, whole.phi.loc)
    assert not found.interrupted
    assert abs(found.bound / whole.bound - 1.0) < 0.1


def test_what_needs_data_in_memory_says_so():
    found = fit(Stream(rows(500)), max_steps=50)
    for ask in (
        lambda: found.khats,
        lambda: jaxvi.importance_resample(KEY, found, 10),
        lambda: jaxvi.linear_response(found, lambda slopes: slopes),
    ):
        with pytest.raises(TypeError, match="data in memory; got one to a Stream"):
            ask()


def test_a_source_that_raises_at_once_raises():
    """There is nothing to return yet."""
    with pytest.raises(OSError, match="disk is gone"):
        fit(Stream(Blocks(rows(500), 100, 3), 500))


def test_an_epoch_of_another_length_is_an_error():
    """The scale of the likelihood would be wrong, so that there is no fit."""
    for promised, words in ((900, "got more 900"), (1_100, "got only 1000")):
        with pytest.raises(WrongCount, match=words):
            fit(Stream(Blocks(rows(1_000), 100), promised))


def test_rows_are_counted_where_no_number_is_given():
    assert Stream(Blocks(np.zeros((70, 3)), 8)).count() == 70
    assert Stream((np.zeros((70, 3)), np.zeros(70))).count() == 70
    with pytest.raises(ValueError, match="got 71 for 70"):
        Stream(np.zeros(70), 71).count()


def test_reading_goes_ahead_of_computing():
    """In a thread of its own, the rows of the next chunk come before any step asks for them."""
    data, read, threads = rows(3_000), [0], set()

    class Watched(Blocks):
        def __iter__(self):
            for block in super().__iter__():
                threads.add(threading.current_thread().name.split("_")[0])
                read[0] += len(block[1])
                yield block

    def observe(state):
        # of the first chunk's 3,200 steps: 320,000 rows, and 6,000 looked at before
        until = time.monotonic() + 60.0
        while state.step < 1_000 and read[0] < 400_000 and time.monotonic() < until:
            time.sleep(0.01)
        assert state.step >= 1_000 or read[0] >= 400_000

    stream = Stream(Watched(data, 500), 3_000, window=1_000)
    solver = jaxvi.Stochastic(tolerance=None)
    plain_fit(
        KEY, TARGET, data=stream, minibatch=jaxvi.Minibatch(100), solver=solver,
        num_restarts=2, max_steps=4_000, progress=observe,
    )  # fmt: skip
    assert "jaxvi-stream" in threads


BAD = {
    "without minibatch": (lambda: fit(Stream(rows(200)), minibatch=None), "a Stream alone"),
    "an iterator": (lambda: Stream(iter([np.zeros(3)])), "gone through once"),
    "a number": (lambda: Stream(3), "got 3"),
    "text": (lambda: Stream("table.csv"), "parquet"),
    "lists in a tuple": (lambda: Stream(([1.0], [2.0])), "expected arrays"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_has_its_sentence(case):
    make, words = BAD[case]
    with pytest.raises(TypeError, match=words):
        make()


def test_a_window_is_above_zero():
    with pytest.raises(ValueError, match="window"):
        Stream(np.zeros(3), window=0)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_files_of_columns(suffix, tmp_path):
    """Row groups in shuffled order; lists of a fixed length are rows of a matrix."""
    pyarrow, parquet = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
    x, y = rows(1_000)
    lists = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(x.ravel()), 3)
    table = pyarrow.table({"x": lists, "y": pyarrow.array(y), "row": np.arange(1_000)})
    path = tmp_path / f"table{suffix}"
    if suffix == ".parquet":
        parquet.write_table(table, path, row_group_size=128)
    else:
        with (
            pyarrow.OSFile(str(path), "wb") as file,
            pyarrow.ipc.new_file(file, table.schema) as writer,
        ):
            writer.write_table(table, max_chunksize=128)
    stream = Stream(path, window=300)
    assert stream.count() == 1_000
    taken = ShuffledRows(stream, 5, 1_000).take(1_000)
    assert (np.diff(taken["row"]) == 1).mean() < 0.1
    back = np.argsort(taken["row"])
    np.testing.assert_array_equal(taken["x"][back], x)
    np.testing.assert_array_equal(taken["y"][back], y)
    whole = np.concatenate([block["row"] for block in stream.blocks()])
    np.testing.assert_array_equal(whole, np.arange(1_000))


def test_a_file_without_pyarrow_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ImportError, match="pip install pyarrow"):
        Stream("table.parquet")
