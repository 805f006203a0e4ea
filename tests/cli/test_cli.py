"""The command line: every mistake one sentence and status 2; good runs and what they write."""

import csv
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

import jaxvi
from jaxvi.cli import _main as cli
from jaxvi.cli._table import read_table

ROWS = 120


@pytest.fixture(autouse=True)
def no_progress(monkeypatch):
    """Progress is the engine's, and tested there; here standard error is for mistakes."""
    monkeypatch.setattr(cli, "_progress", lambda: False)


def run(capsys, *argv):
    """Exit status, standard output and standard error of one call."""
    status = cli.main([str(arg) for arg in argv])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def rejected(capsys, *argv):
    """The one sentence with which a call ends in status 2."""
    status, out, err = run(capsys, *argv)
    assert status == 2
    assert out == ""
    assert err.startswith("jaxvi: ")
    assert err.count("\n") == 1
    return err


def two_clusters():
    rng = np.random.default_rng(5)
    truth = np.repeat([0, 1], [30, 90])
    rows = np.array([[10.0, -300.0], [20.0, 500.0]])[truth] + rng.normal(size=(ROWS, 2)) * [1, 50]
    return rows, np.array(["small", "large"])[truth]


def write(path, rows, *columns, header=None, delimiter=","):
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, delimiter=delimiter)
        writer.writerows([header] if header else [])
        writer.writerows([*row, *rest] for row, *rest in zip(rows, *columns, strict=True))
    return path


QUICK = ("--restarts", 3, "--max-steps", 300, "--family", "mean-field", "--components", 2)


# Mistakes


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "an empty file"),
        ("\n \n", "an empty file"),
        ("a,b\n", "a header alone"),
        ("a,b\n1,2\n3,4\n5,x\n", "in line 4, column 'b', of .*got 'x'; .*--label 2"),
        ("1,2\n3,\n5,6\n", "line 2, column 'column 2', .* an empty cell"),
        ("1,\n3,4\n5,6\n", "line 1, column 'column 2', .* an empty cell"),
        ("a,b\n1,2\nnan,4\n5,6\n", "finite number in line 3, column 'a', .* got nan"),
        ("a,b\n1,2\n3,inf\n5,6\n", "finite number in line 3, column 'b', .* got inf"),
        ("a,b\n1,2\n3,4,5\n5,6\n", "expected 2 cells .* got 3 in line 3"),
        ("a,b\n1,2\n3\n5,6\n", "expected 2 cells .* got 1 in line 3"),
        ("a,b\n1,7\n3,7\n5,7\n", "columns that vary .* got 7 in every row of 'b'"),
        ("a,b,a\n1,2,3\n", "different column names .* 'a' twice"),
        ("a,b\n1,2\n", "columns that vary"),
        ('a,b\n1,"2\n3,4\n', "number in|cells in every row|as CSV"),
    ],
)
def test_a_table_that_cannot_be_used(tmp_path, capsys, text, sentence):
    path = tmp_path / "table.csv"
    path.write_text(text)
    assert re.search(sentence, rejected(capsys, "fit", path, *QUICK, "--out", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_too_few_rows(tmp_path, capsys):
    path = write(tmp_path / "t.csv", [[1, 2], [3, 5]])
    said = rejected(capsys, "fit", path, "--components", 3)
    assert "at least 3 rows for 3 components; got 2" in said


def test_a_missing_file(tmp_path, capsys):
    assert "does not exist" in rejected(capsys, "fit", tmp_path / "no.csv", *QUICK)


def test_a_folder_for_a_file(tmp_path, capsys):
    assert "which is a folder" in rejected(capsys, "fit", tmp_path, *QUICK)


def test_bytes_that_are_no_text(tmp_path, capsys):
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\x00\x80")
    assert "UTF-8" in rejected(capsys, "fit", tmp_path / "t.csv", *QUICK)


def test_an_unknown_label_names_the_columns(tmp_path, capsys):
    path = write(tmp_path / "t.csv", [[1, 2], [3, 5], [4, 4]], header=["a", "b"])
    assert "got 'c'; it has a, b" in rejected(capsys, "fit", path, *QUICK, "--label", "c")
    path = write(tmp_path / "u.csv", [[1, 2], [3, 5], [4, 4]])
    assert "no header, and 2 columns" in rejected(capsys, "fit", path, *QUICK, "--label", "c")


def test_a_label_that_is_the_only_column(tmp_path, capsys):
    path = write(tmp_path / "t.csv", [[1], [3], [4]], header=["a"])
    assert "a column besides --label a" in rejected(capsys, "fit", path, *QUICK, "--label", "a")


def test_an_out_that_is_a_file(tmp_path, capsys):
    path = write(tmp_path / "t.csv", two_clusters()[0])
    assert "folder that can be written to" in rejected(capsys, "fit", path, *QUICK, "--out", path)
    inside = path / "deeper"
    assert "folder that can be written to" in rejected(capsys, "fit", path, *QUICK, "--out", inside)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["fit", "t.csv", "--components", "0"], "at least 1; got '0'"),
        (["fit", "t.csv", "--components", "two"], "at least 1; got 'two'"),
        (["fit", "t.csv"], "--components"),
        (["fit", "--components", "2"], "FILE.csv"),
        (["demo", "--restarts", "0"], "at least 1; got '0'"),
        (["demo", "--seed", "-1"], "at least 0; got '-1'"),
        (["demo", "--family", "round"], "'round'"),
        (["fit", "t.csv", "--components", "2", "--model", "x"], "gaussian-mixture"),
        ([], "COMMAND"),
        (["dmeo"], "dmeo"),
    ],
)
def test_arguments_that_cannot_be_used(capsys, argv, sentence):
    assert sentence in rejected(capsys, *argv)


def test_without_matplotlib_a_sentence_before_the_fit(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    path = write(tmp_path / "t.csv", two_clusters()[0])
    said = rejected(capsys, "fit", path, *QUICK, "--out", tmp_path / "out")
    assert "pip install 'jaxvi[plot]', or --no-plot" in said


# Good runs


def check_files(folder, rows, truth):
    """The files hold what a mixture of the two clusters must be."""
    summary = json.loads((folder / "summary.json").read_text())
    fit = summary["fits"][0]
    sizes = [90, 30]
    assert fit["rows_per_component"] == sizes
    np.testing.assert_allclose(fit["weights"], [92 / 124, 32 / 124], atol=0.03)  # Dirichlet(2, 2)
    with np.load(folder / "draws.npz") as draws:
        assert draws["means"].shape == (4000, 2, 2)
        np.testing.assert_allclose(draws["means"].mean(0), fit["means"])
        np.testing.assert_allclose(draws["weights"].sum(1), 1.0, rtol=1e-5)
    for k, name in enumerate(("large", "small")):
        own = rows[truth == name]
        error = np.abs(np.array(fit["means"][k]) - own.mean(0))
        assert np.all(error < 2 * own.std(0) / np.sqrt(len(own)))
        np.testing.assert_allclose(fit["scales"][k], own.std(0), rtol=0.35)
    with (folder / "assignments.csv").open(newline="") as stream:
        assigned = list(csv.DictReader(stream))
    assert [int(line["row"]) for line in assigned] == list(range(1, ROWS + 1))
    assert [int(line["component"]) for line in assigned] == [1 + (t == "small") for t in truth]
    assert all(float(line["probability"]) > 0.99 for line in assigned)
    return summary


def test_a_table_with_header_and_label(tmp_path, capsys):
    rows, truth = two_clusters()
    header = ["length (m)", "kind", "height (m)"]
    lines = [(row[0], kind, row[1]) for row, kind in zip(rows, truth, strict=True)]
    path = write(tmp_path / "t.csv", lines, header=header, delimiter=";")
    out = tmp_path / "deep" / "out"
    status, text, _ = run(capsys, "fit", path, *QUICK, "--label", "kind", "--out", out)
    assert status == 0
    summary = check_files(out, rows, truth)
    assert summary["features"] == ["length (m)", "height (m)"]
    fit = summary["fits"][0]
    assert fit["adjusted_rand_index"] == 1.0
    assert f"{fit['bound']:.3f} +- {fit['bound_mcse']:.3f} nats" in text
    assert "adjusted Rand index 1.000" in text
    assert "lanes alive   3 of 3" in text
    shift = ROWS * np.log(rows.std(0)).sum()
    assert fit["bound_data_as_given"] == pytest.approx(fit["bound"] - shift)
    assert (out / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_a_table_without_header_and_a_label_by_number(tmp_path, capsys):
    rows, truth = two_clusters()
    path = write(tmp_path / "t.csv", rows, truth, delimiter="\t")
    out = tmp_path / "out"
    status, text, _ = run(capsys, "fit", path, *QUICK, "--label", 3, "--no-plot", "--out", out)
    assert status == 0
    summary = check_files(out, rows, truth)
    assert summary["features"] == ["column 1", "column 2"]
    assert summary["fits"][0]["adjusted_rand_index"] == 1.0
    assert "picture.png" not in text
    assert not (out / "picture.png").exists()


def test_without_label_there_is_no_index(tmp_path, capsys):
    rows, truth = two_clusters()
    out = tmp_path / "out"
    path = write(tmp_path / "t.csv", rows, header=["a", "b"])
    status, text, _ = run(capsys, "fit", path, *QUICK, "--no-plot", "--out", out)
    assert status == 0
    assert check_files(out, rows, truth)["fits"][0]["adjusted_rand_index"] is None
    assert "Rand" not in text


def test_the_same_seed_gives_the_same_numbers(tmp_path, capsys):
    path = write(tmp_path / "t.csv", two_clusters()[0])
    bounds = []
    for seed in (7, 7, 8):
        run(capsys, "fit", path, *QUICK, "--no-plot", "--seed", seed, "--out", tmp_path)
        bounds.append(json.loads((tmp_path / "summary.json").read_text())["fits"][0]["bound"])
    assert bounds[0] == bounds[1] != bounds[2]


def test_one_component_in_one_column(tmp_path, capsys):
    column = two_clusters()[0][:, :1]
    path = write(tmp_path / "t.csv", column, header=["x"])
    argv = ("--components", 1, "--restarts", 1, "--max-steps", 300, "--out", tmp_path)
    assert run(capsys, "fit", path, *argv)[0] == 0
    fit = json.loads((tmp_path / "summary.json").read_text())["fits"][0]
    assert fit["weights"] == [1.0]
    assert fit["means"][0][0] == pytest.approx(column.mean(), abs=0.3)
    assert fit["picture_features"] == ["x"]


def test_an_interrupt_keeps_and_marks_the_partial_result(tmp_path, capsys, monkeypatch):
    def interrupt(progress):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_progress", lambda: interrupt)
    path = write(tmp_path / "t.csv", two_clusters()[0])
    status, text, err = run(capsys, "fit", path, *QUICK, "--out", tmp_path)
    assert status == 130
    assert "INTERRUPTED" in text
    assert "partial" in err
    fit = json.loads((tmp_path / "summary.json").read_text())["fits"][0]
    assert fit["interrupted"] is True
    assert fit["max_steps_taken"] < 300


def test_an_interrupt_with_nothing_to_show(capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "read_table", interrupt)
    status, out, err = run(capsys, "fit", "t.csv", *QUICK)
    assert (status, out) == (130, "")
    assert "interrupted before there was a result" in err


def test_the_demo_fits_both_families(tmp_path, capsys):
    argv = ("--restarts", 6, "--max-steps", 1500, "--out", tmp_path)
    status, text, _ = run(capsys, "demo", *argv)
    assert status == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [fit["family"] for fit in summary["fits"]] == ["mean-field", "full-rank"]
    for fit in summary["fits"]:
        assert f"{fit['family']} Gaussian q, 6 restarts" in text
        assert fit["adjusted_rand_index"] > 0.7
        assert fit["picture_features"] == ["petal length (cm)", "petal width (cm)"]
        assert 50 in fit["rows_per_component"]  # setosa, which stands apart
    # the bound of the optimum that long runs of many restarts find
    assert summary["fits"][0]["bound"] == pytest.approx(-490.3, abs=0.5)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"picture.png", "mean-field-draws.npz", "full-rank-assignments.csv"} <= names


# Reading


@pytest.mark.parametrize(
    "text",
    ["a,b\n1,2.5\n3,4\n", "a;b\r\n1;2.5\r\n3;4\r\n", "\ufeffa\tb\n1\t2.5\n\n3\t4", "1,2.5\n3,4"],
)
def test_delimiters_line_ends_and_headers(tmp_path, text):
    (tmp_path / "t.csv").write_text(text, encoding="utf-8", newline="")
    table = read_table(tmp_path / "t.csv", None)
    np.testing.assert_array_equal(table.rows, [[1.0, 2.5], [3.0, 4.0]])
    assert table.names == (("column 1", "column 2") if text[0] == "1" else ("a", "b"))


def test_a_quoted_delimiter_is_no_delimiter(tmp_path):
    (tmp_path / "t.csv").write_text('"length, cm";kind\n1;x\n2;y\n')
    table = read_table(tmp_path / "t.csv", "kind")
    assert table.names == ("length, cm",)
    assert table.labels == ["x", "y"]


def test_a_number_as_a_label_in_a_table_with_header(tmp_path):
    path = write(tmp_path / "t.csv", [[1, 2, 0], [3, 5, 1]], header=["a", "b", "c"])
    assert read_table(path, "2").names == ("a", "c")
    assert read_table(path, "c").labels == ["0", "1"]


# The programme


def environment():
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def test_python_m_jaxvi_tells_its_version():
    done = subprocess.run(
        [sys.executable, "-m", "jaxvi", "--version"],
        capture_output=True,
        text=True,
        env=environment(),
        check=True,
    )
    assert done.stdout == f"jaxvi {jaxvi.__version__}\n"


def test_help_and_mistakes_do_not_load_jax():
    """The module itself; what the package's own import costs is not its doing."""
    code = (
        "import importlib.util, sys, types\n"
        f"package = types.ModuleType('jaxvi'); package.__path__ = {list(jaxvi.__path__)!r}\n"
        "sys.modules['jaxvi'] = package\n"
        "from jaxvi import cli\n"
        "assert cli.main(['fit', 'no-such-file.csv', '--components', '2']) == 2\n"
        "assert 'jax' not in sys.modules and 'sklearn' not in sys.modules\n"
        "cli.main(['--help'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
    assert "demo" in done.stdout
