#!/usr/bin/env python3
"""Work on jaxvi: one command that makes the environment it needs and runs the rest inside it.

    python3 dev.py demo [ARGS]         fit a real data set and draw the result (jaxvi demo)
    python3 dev.py test [ARGS]         run the tests; ARGS go to pytest, --long leaves nothing out
    python3 dev.py check [--fix]       formatting, lint and types; --fix repairs what it can
    python3 dev.py bench NAME [ARGS]   run a benchmark
    python3 dev.py env                 make the environment and print its interpreter

The first run makes .venv beside this file (with uv where there is one, otherwise with venv and pip)
and installs jaxvi, editable, with every development extra as pinned in constraints.txt. Later runs
reuse it until the project's metadata, constraints.txt, this folder's place or the version of the
Python that runs this file changes. It is always safe to delete .venv and .cache.
"""

# Python 3.6 and later must be able to parse this file, to be told what is missing: no newer syntax.

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

OLDEST: tuple = (3, 11)  # jaxvi needs Python 3.11 or newer: run this file with "python3 dev.py"


def stop(message: str) -> None:
    """Leave with one message on stderr and exit status 1."""
    sys.stdout.flush()
    sys.exit("dev.py: " + message)


def run(command: list, env: dict, cwd: str) -> int:
    """Run a command to its end and return its exit status; Ctrl-C is the command's to answer."""
    process = subprocess.Popen(command, env=env, cwd=cwd)
    while True:
        try:
            status = process.wait()
            return status if status >= 0 else 128 - status
        except KeyboardInterrupt:
            continue


def become(command: list, env: dict, cwd: str) -> int:
    """Replace this process by a command, so that signals and its exit status are its own."""
    sys.stdout.flush()
    sys.stderr.flush()
    if os.name != "posix":
        return run(command, env, cwd)
    os.chdir(cwd)
    return os.execve(command[0], command, env)


def find_newer_python() -> str:
    """The path of an interpreter that is new enough, or an empty string."""
    probe = "import sys; sys.exit(1) if sys.version_info < (3, 11) else print(sys.executable)"
    for name in ("python3.13", "python3.12", "python3.11", "python3.14", "python3"):
        path = shutil.which(name)
        if path is None:
            continue
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            found = subprocess.check_output([path, "-c", probe], stderr=subprocess.DEVNULL)
            return found.decode().strip()
    return ""


def hand_over_to_newer_python() -> None:
    """Start again with a Python that is new enough, or say what to install."""
    version = "{}.{}".format(*sys.version_info)
    newer = find_newer_python()
    if not newer:
        stop(
            "jaxvi needs Python 3.11 or newer, this is Python " + version + " and there is no "
            "python3.11, python3.12 or python3.13 on PATH: install one of them (Debian and Ubuntu: "
            "sudo apt install python3.13 python3.13-venv, or python3.11, python3.12 where the "
            "release has those), then run this again."
        )
    print("dev.py: Python " + version + " is too old, going on with " + newer, file=sys.stderr)
    command = [newer, os.path.abspath(__file__), *sys.argv[1:]]
    sys.exit(become(command, dict(os.environ), os.getcwd()))


if sys.version_info < OLDEST:
    hand_over_to_newer_python()

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
SCRIPTS = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = SCRIPTS / ("python.exe" if os.name == "nt" else "python")
STAMP = VENV / "jaxvi-stamp"  # written last: an environment without it is half-finished
CACHE = ROOT / ".cache"
CONSTRAINTS = ROOT / "constraints.txt"
EXTRAS = "dev,plot,bench"
MOST_WORKERS = 4  # each test worker holds its own copy of JAX and of the programs it compiles


def child_environment() -> dict[str, str]:
    """This process's environment with .venv activated and any other one left."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONHOME", "__PYVENV_LAUNCHER__")}
    env["VIRTUAL_ENV"] = str(VENV)
    env["PATH"] = str(SCRIPTS) + os.pathsep + env.get("PATH", os.defpath)
    return env


def current_stamp() -> str:
    """A digest of all that the installed environment depends on."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    hatch = project.pop("tool", {}).get("hatch")  # settings of the other tools install nothing
    python = [sys.implementation.cache_tag, sys.abiflags if os.name == "posix" else ""]
    parts = [python, sysconfig.get_platform(), str(ROOT), EXTRAS, project, hatch]
    text = json.dumps(parts, sort_keys=True) + CONSTRAINTS.read_text(encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()


def environment_is_current() -> bool:
    """Whether .venv was finished for this project and this Python, and still starts."""
    try:
        if STAMP.read_text(encoding="utf-8") != current_stamp():
            return False
        subprocess.run([PYTHON, "-I", "-S", "-c", ""], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Hold a lock, so that two commands started together do not build .venv together."""
    CACHE.mkdir(exist_ok=True)
    with open(CACHE / "environment.lock", "w", encoding="utf-8") as lock:
        if sys.platform != "win32":
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def quietly(command: list[str]) -> str:
    """Run a command without its output; return its last lines if it failed, otherwise nothing."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=child_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode == 0:
        return ""
    return "\n".join(done.stdout.strip().splitlines()[-12:]) or f"exit status {done.returncode}"


def base_python() -> str:
    """The interpreter behind this one: .venv may be the very environment that we run in."""
    return getattr(sys, "_base_executable", "") or sys.executable


def build_with_uv(uv: str) -> str:
    """Make and fill .venv with uv; return the last lines of what failed, if anything did."""
    made = quietly([uv, "venv", "--python", base_python(), str(VENV)])
    install = [uv, "pip", "install", "--python", str(PYTHON), "-c", str(CONSTRAINTS)]
    return made or quietly([*install, "-e", f".[{EXTRAS}]"])


def build_with_pip() -> str:
    """Make and fill .venv with venv and pip; return the last lines of pip if it failed."""
    version = "{}.{}".format(*sys.version_info)
    missing = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
    if missing:
        stop(
            f"this Python {version} comes without its module {' and '.join(missing)}, needed to "
            f"make .venv: install it (Debian and Ubuntu: sudo apt install python{version}-venv) "
            "or install uv, then run this again."
        )
    failed = quietly([base_python(), "-m", "venv", str(VENV)])
    if failed:
        stop(f"python -m venv could not make {VENV}; its last lines:\n{failed}")
    install = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check"]
    return quietly([*install, "-c", str(CONSTRAINTS), "-e", f".[{EXTRAS}]"])


def build_environment() -> None:
    """Make .venv from nothing and install into it; the stamp comes last."""
    version = "{}.{}.{}".format(*sys.version_info)
    print(f"dev.py: making .venv with Python {version} (a minute or two)", file=sys.stderr)
    uv = shutil.which("uv")
    builders = [lambda: build_with_uv(uv)] if uv else []
    for build in [*builders, build_with_pip]:
        if VENV.is_symlink() or VENV.is_file():
            VENV.unlink()
        elif VENV.exists():
            shutil.rmtree(VENV)
        failed = build()
        if not failed:
            STAMP.write_text(current_stamp(), encoding="utf-8")
            return
        print(failed, file=sys.stderr)
        if build is not build_with_pip:
            print("dev.py: uv failed (its last lines are above), trying pip", file=sys.stderr)
    stop("pip could not install the packages (its last lines are above): is the network there?")


def ensure_environment() -> None:
    """Make .venv unless it is there, finished and current."""
    if environment_is_current():
        return
    with one_at_a_time():
        if not environment_is_current():
            build_environment()


def num_cpus() -> int:
    """How many processors this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def test_environment() -> dict[str, str]:
    """The environment of the tests: workers, their threads, and one compilation cache for all."""
    workers = min(num_cpus(), MOST_WORKERS)
    threads = str(max(1, num_cpus() // workers))
    defaults = {
        "JAX_COMPILATION_CACHE_DIR": str(CACHE / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "PYTEST_XDIST_AUTO_NUM_WORKERS": str(workers),
    }
    env = {**defaults, **child_environment()}
    # without its bytecode every process of a test run would compile the package and JAX anew
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    return env


def demo(args: list[str]) -> int:
    """Run jaxvi's demonstration in the caller's folder."""
    return become([str(PYTHON), "-m", "jaxvi", "demo", *args], child_environment(), os.getcwd())


def test(args: list[str]) -> int:
    """Run pytest over several workers; "-n 0" in the arguments brings it back to one process.

    "--long" among them runs every law with all repetitions (tests/conftest.py has the option).
    """
    # "auto" (its number set above) rather than a number, so that --pdb still works
    pytest = [str(PYTHON), "-m", "pytest", "-n", "auto", "--dist", "worksteal"]
    return become([*pytest, *args], test_environment(), str(ROOT))


def check(args: list[str]) -> int:
    """Run the formatter, the linter and the type checker, all three whatever they say."""
    if args not in ([], ["--fix"]):
        stop(f"check takes --fix or nothing, got {' '.join(args)}")
    fix = bool(args)
    tools = {
        "ruff check": ["ruff", "check", *(["--fix"] if fix else []), "."],
        "ruff format": ["ruff", "format", *([] if fix else ["--check"]), "."],
        "mypy": ["mypy"],
    }
    statuses = {}
    for name, command in tools.items():
        print(f"== {name}", flush=True)
        command = [str(PYTHON), "-m", *command]
        statuses[name] = run(command, child_environment(), str(ROOT))
    words = [f"{name} {'FAILED' if status else 'passed'}" for name, status in statuses.items()]
    print("== " + ", ".join(words), flush=True)
    return max(statuses.values())


def bench(args: list[str]) -> int:
    """Run a benchmark by its name."""
    return become([str(PYTHON), "-m", "benchmarks", *args], child_environment(), str(ROOT))


def env(args: list[str]) -> int:
    """Print the path of the environment's interpreter."""
    if args:
        stop(f"env takes no arguments, got {' '.join(args)}")
    print(PYTHON)
    return 0


COMMANDS = {"demo": demo, "test": test, "check": check, "bench": bench, "env": env}


def main(argv: list[str]) -> int:
    """Make sure of the environment, then run the named command."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(__doc__.strip() if __doc__ else "")
        return 0 if argv else 2
    if argv[0] not in COMMANDS:
        stop(f"no command {argv[0]!r}; there are {', '.join(COMMANDS)}")
    ensure_environment()
    return COMMANDS[argv[0]](argv[1:])


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
