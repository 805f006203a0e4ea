"""dev.py: its decisions and its messages, without making an environment."""

import ast
import contextlib
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FILE = Path(__file__).resolve().parent.parent / "dev.py"
PROJECT = """
[project]
name = "somewhere"
dependencies = ["one>=1"]
[tool.hatch.build]
sources = ["src"]
[tool.ruff]
line-length = 100
"""


@pytest.fixture
def dev() -> ModuleType:
    """A copy of dev.py as a module, so that a test may change it."""
    spec = importlib.util.spec_from_file_location("dev_under_test", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def project(dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """dev.py moved to a project of its own, with nothing installed."""
    root = tmp_path / "project"
    (root / ".venv").mkdir(parents=True)
    (root / "pyproject.toml").write_text(PROJECT)
    (root / "constraints.txt").write_text("one==1.2\n")
    monkeypatch.setattr(dev, "ROOT", root)
    monkeypatch.setattr(dev, "VENV", root / ".venv")
    monkeypatch.setattr(dev, "STAMP", root / ".venv" / "jaxvi-stamp")
    monkeypatch.setattr(dev, "CACHE", root / ".cache")
    monkeypatch.setattr(dev, "CONSTRAINTS", root / "constraints.txt")
    monkeypatch.setattr(dev, "PYTHON", Path(sys.executable))
    return root


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# Old interpreters


def test_old_interpreters_can_parse_it() -> None:
    ast.parse(FILE.read_text(), feature_version=(3, 7))


def test_old_interpreters_are_handed_over_before_newer_names_are_needed() -> None:
    """Nothing above the hand-over subscripts a builtin, which Python 3.8 can't."""
    tree = ast.parse(FILE.read_text())
    tests = [i for i, node in enumerate(tree.body) if isinstance(node, ast.If)]
    above = tree.body[: tests[0]]
    assert "hand_over_to_newer_python()" in ast.unparse(tree.body[tests[0]])
    for node in above:
        for part in ast.walk(node):
            if isinstance(part, ast.FunctionDef):
                hints = [*(argument.annotation for argument in part.args.args), part.returns]
                assert not any(isinstance(hint, ast.Subscript) for hint in hints), part.name


def test_versions_and_extras_are_those_of_the_project(dev: ModuleType) -> None:
    project = tomllib.loads((FILE.parent / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=" + ".".join(map(str, dev.OLDEST))
    assert set(dev.EXTRAS.split(",")) <= set(project["optional-dependencies"])


def which_of(names: dict[str, str]) -> Callable[[str], str | None]:
    return lambda name: names.get(name)


def test_the_first_python_that_is_new_enough_is_chosen(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def probe(command: list[str], **_: Any) -> bytes:
        asked.append(command[0])
        if command[0] == "broken":
            raise OSError("no such file")
        if command[0] == "old":
            raise subprocess.CalledProcessError(1, command)
        return b"found/python\n"

    names = {"python3.13": "broken", "python3.12": "old", "python3": "good", "python3.14": "old"}
    monkeypatch.setattr(dev.shutil, "which", which_of(names))
    monkeypatch.setattr(dev.subprocess, "check_output", probe)
    assert dev.find_newer_python() == "found/python"
    assert asked == ["broken", "old", "old", "good"]
    monkeypatch.setattr(dev.shutil, "which", which_of({}))
    assert dev.find_newer_python() == ""


def test_the_probe_tells_new_from_old(dev: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real probe on this Python, which is new enough."""
    monkeypatch.setattr(dev.shutil, "which", which_of({"python3": sys.executable}))
    assert os.path.samefile(dev.find_newer_python(), sys.executable)


def test_an_old_python_goes_on_with_a_newer_one_or_says_what_to_install(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started = []
    monkeypatch.setattr(dev, "find_newer_python", lambda: "newer/python3.13")
    monkeypatch.setattr(dev, "become", lambda command, env, cwd: started.append(command) or 7)
    monkeypatch.setattr(sys, "argv", ["dev.py", "test", "-x"])
    with pytest.raises(SystemExit) as stopped:
        dev.hand_over_to_newer_python()
    assert stopped.value.code == 7
    assert started == [["newer/python3.13", str(FILE), "test", "-x"]]
    assert "going on with newer/python3.13" in capsys.readouterr().err
    monkeypatch.setattr(dev, "find_newer_python", lambda: "")
    with pytest.raises(SystemExit, match=r"jaxvi needs Python 3\.11 or newer, this is Python"):
        dev.hand_over_to_newer_python()


# The stamp


def test_equal_projects_have_equal_stamps(dev: ModuleType, project: Path) -> None:
    before = dev.current_stamp()
    assert re.fullmatch(r"[0-9a-f]{64}", before)
    edit(project / "pyproject.toml", "line-length = 100", "line-length = 80")
    assert dev.current_stamp() == before, "a linter's setting installs nothing"


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("pyproject.toml", "one>=1", "one>=2"),
        ("pyproject.toml", '"src"', '"source"'),
        ("constraints.txt", "1.2", "1.3"),
    ],
)
def test_the_stamp_changes_with_what_is_installed(
    dev: ModuleType, project: Path, file: str, old: str, new: str
) -> None:
    before = dev.current_stamp()
    edit(project / file, old, new)
    assert dev.current_stamp() != before


def test_the_stamp_changes_with_the_place_the_extras_and_the_python(
    dev: ModuleType, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamps = {dev.current_stamp()}
    monkeypatch.setattr(dev, "EXTRAS", "dev")
    stamps.add(dev.current_stamp())
    monkeypatch.setattr(dev.sysconfig, "get_platform", lambda: "another-platform")
    stamps.add(dev.current_stamp())
    moved = project.rename(project.with_name("moved"))
    monkeypatch.setattr(dev, "ROOT", moved)
    monkeypatch.setattr(dev, "CONSTRAINTS", moved / "constraints.txt")
    stamps.add(dev.current_stamp())
    assert len(stamps) == 4


def test_an_environment_is_current_when_finished_up_to_date_and_able_to_start(
    dev: ModuleType, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not dev.environment_is_current(), "half-finished: no stamp"
    dev.STAMP.write_text("of another day")
    assert not dev.environment_is_current()
    dev.STAMP.write_text(dev.current_stamp())
    assert dev.environment_is_current()
    monkeypatch.setattr(dev, "PYTHON", project / "gone")
    assert not dev.environment_is_current()


# Making the environment, with the builders replaced


def test_pip_is_tried_where_uv_fails_and_the_stamp_comes_last(
    dev: ModuleType,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (project / ".venv" / "left-over").touch()

    def with_uv(uv: str) -> str:
        dev.VENV.mkdir()
        assert uv == "some/uv"
        return "uv's last words"

    def with_pip() -> str:
        assert not dev.VENV.exists(), "each builder starts from nothing"
        assert not dev.STAMP.exists()
        dev.VENV.mkdir()
        return ""

    monkeypatch.setattr(dev.shutil, "which", which_of({"uv": "some/uv"}))
    monkeypatch.setattr(dev, "build_with_uv", with_uv)
    monkeypatch.setattr(dev, "build_with_pip", with_pip)
    dev.ensure_environment()
    said = capsys.readouterr().err
    assert "uv's last words" in said
    assert "trying pip" in said
    assert dev.environment_is_current()
    dev.ensure_environment()
    assert capsys.readouterr().err == "", "nothing to do the second time"


def test_a_failed_installation_stops_without_a_stamp(
    dev: ModuleType, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dev.shutil, "which", which_of({}))
    monkeypatch.setattr(dev, "build_with_pip", lambda: "no network")
    with pytest.raises(SystemExit, match="pip could not install"):
        dev.ensure_environment()
    assert not dev.environment_is_current()


def test_a_python_without_venv_is_told_what_to_install(
    dev: ModuleType, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dev.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="without its module venv and ensurepip"):
        dev.build_with_pip()


def test_a_quiet_command_speaks_only_when_it_fails(dev: ModuleType, project: Path) -> None:
    say = "import sys; [print('line', i) for i in range(20)]; sys.exit({})"
    assert dev.quietly([sys.executable, "-c", say.format(0)]) == ""
    lines = dev.quietly([sys.executable, "-c", say.format(3)]).splitlines()
    assert lines == [f"line {i}" for i in range(8, 20)]
    assert dev.quietly([sys.executable, "-c", "import sys; sys.exit(3)"]) == "exit status 3"


def test_the_status_of_a_command_is_handed_on(dev: ModuleType, tmp_path: Path) -> None:
    def status(program: str) -> int:
        return dev.run([sys.executable, "-c", program], dict(os.environ), str(tmp_path))

    assert status("import sys; sys.exit(5)") == 5
    if os.name == "posix":
        assert status("import os, signal; os.kill(os.getpid(), signal.SIGTERM)") == 128 + 15


# Environment variables


def test_commands_run_in_the_environment_and_no_other(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHOME", "elsewhere")
    monkeypatch.setenv("PATH", "first")
    env = dev.child_environment()
    assert "PYTHONHOME" not in env
    assert env["VIRTUAL_ENV"] == str(dev.VENV)
    assert env["PATH"].split(os.pathsep) == [str(dev.SCRIPTS), "first"]


def test_settings_of_the_caller_win_in_tests(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_NUM_THREADS", "PYTEST_XDIST_AUTO_NUM_WORKERS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr(dev, "num_cpus", lambda: 16)
    env = dev.test_environment()
    assert "PYTHONDONTWRITEBYTECODE" not in env  # each process would compile all modules anew
    assert int(env["PYTEST_XDIST_AUTO_NUM_WORKERS"]) == dev.MOST_WORKERS
    assert int(env["OMP_NUM_THREADS"]) == 16 // dev.MOST_WORKERS
    monkeypatch.setattr(dev, "num_cpus", lambda: 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "9")
    env = dev.test_environment()
    assert env["PYTEST_XDIST_AUTO_NUM_WORKERS"] == "1"
    assert env["OMP_NUM_THREADS"] == "9"


# Commands


def test_every_command_is_in_the_help(dev: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert dev.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert set(re.findall(r"^ +python3 dev\.py (\w+)", shown, re.MULTILINE)) == set(dev.COMMANDS)
    assert dev.main([]) == 2


def test_an_unknown_command_makes_no_environment(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dev, "ensure_environment", lambda: pytest.fail("made an environment"))
    with pytest.raises(SystemExit, match=r"dev\.py: no command 'tset'; there are demo, test,"):
        dev.main(["tset"])


def test_commands_pass_their_arguments_on(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(dev, "ensure_environment", lambda: None)
    monkeypatch.setattr(dev, "become", lambda command, env, cwd: started.append(command) or 3)
    for name in ("demo", "test", "bench"):
        assert dev.main([name, "--some", "thing"]) == 3
        assert started[-1][0] == str(dev.PYTHON)
        assert started[-1][-2:] == ["--some", "thing"]
    assert dev.main(["env"]) == 0
    assert capsys.readouterr().out.strip() == str(dev.PYTHON)
    with pytest.raises(SystemExit, match="env takes no arguments, got more"):
        dev.main(["env", "more"])


@pytest.mark.parametrize("fix", [False, True])
def test_check_runs_all_tools_and_fails_if_one_does(
    dev: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fix: bool,
) -> None:
    started: list[list[str]] = []

    def run(command: list[str], env: dict[str, str], cwd: str) -> int:
        started.append(command[2:])
        return 1 if command[3:4] == ["check"] else 0

    monkeypatch.setattr(dev, "run", run)
    assert dev.check(["--fix"] if fix else []) == 1
    assert [command[0] for command in started] == ["ruff", "ruff", "mypy"]
    assert ("--fix" in started[0]) == fix
    assert ("--check" in started[1]) == (not fix)
    assert "ruff check FAILED, ruff format passed, mypy passed" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="check takes --fix or nothing, got --all"):
        dev.check(["--all"])


def test_stop_says_who_speaks(dev: ModuleType) -> None:
    with contextlib.suppress(AttributeError), pytest.raises(SystemExit, match=r"^dev\.py: enough$"):
        dev.stop("enough")
