"""The shape of the package: layers, light imports, documented names, short functions and files."""

import ast
import functools
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import jaxtyping
import pytest

import jaxvi
from jaxvi import families

ROOT = Path(jaxvi.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
SUBPACKAGES = sorted(
    path.parent.name for path in ROOT.glob("*/__init__.py") if not path.parent.name.startswith("_")
)
MOST_FUNCTION_LINES, MOST_FILE_LINES = 60, 400

# Packages and modules at the root. Each imports only from rows above its own (and from what stands
# to its left), and of another package only what its __init__ names. "jaxvi" is jaxvi/__init__.py:
# what stands after it is reached by a command or a user's own import. CONTRIBUTING.md has the same.
LAYERS = {
    "_types, _status, _arguments": "aliases, status codes with remedies, checks of arguments",
    "_compilation": "compiling quickly and ahead of time, the compile clock, LAPACK and BLAS",
    "_numerics": "pytrees, packed matrices, triangular algebra, random numbers, gamma",
    "supports": "bijectors, one a file",
    "families": "distributions q, one a file",
    "target": "a log density and its supports as one function of z",
    "noise": "sources of base noise, one a file",
    "mesh": "meshes of devices",
    "data": "minibatches, streams, column files, rows dealt out to devices",
    "objectives": "loss and bound, one a file",
    "models": "ready-made targets and conjugate models",
    "_sampling": "draws with weights, heavy-tailed proposals, Hamiltonian Monte Carlo",
    "solvers": "steps, adaptation, stopping, one solver a file",
    "diagnostics": "importance weights, short chains, drift, agreement, linear response",
    "_engine": "lanes: starting, advancing, ranking; the loop, the driver, the pool; run",
    "engine": "the pieces of jaxvi.run for a loop of one's own",
    "results": "the fit, its text and verdict, resampling, warm starts",
    "hierarchical": "hyperparameters, non-centring, nested Laplace",
    "_persistence": "files, fingerprints, checkpoints",
    "estimators": "scikit-learn's interface",
    "_fitting": "one solver, many restarts: request, compiling ahead, search for modes",
    "autopilot": "stages of the default call, one a file",
    "_fit, _resume": "the entries: jaxvi.fit, jaxvi.resume",
    "interop": "families and models of other packages",
    "plotting": "figures",
    "jaxvi": "public names",
    "cli, __main__": "the command line",
}
PLACES = {name: place for place, name in enumerate(", ".join(LAYERS).split(", "))}
MOST_ROOT_FILES = 10
MIN_DOCSTRING_CHARACTERS = 24
# Imported where they are used, never by `import jaxvi`.
OPTIONAL = [
    "arviz",
    "equinox",
    "flowjax",
    "matplotlib",
    "numpyro",
    "pandas",
    "pyarrow",
    "pymc",
    "scipy.stats",
    "sklearn",
]


def layer_of(path: Path) -> str:
    """The layer that a file belongs to."""
    first = path.relative_to(ROOT).parts[0]
    return "jaxvi" if first == "__init__.py" else first.removesuffix(".py")


def is_module(name: str) -> bool:
    return (ROOT / f"{name}.py").is_file() or (ROOT / name / "__init__.py").is_file()


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imported(path: Path) -> set[tuple[int, str]]:
    """(line, dotted name) of every import of jaxvi in a file, those inside functions too."""
    package = ["jaxvi", *path.relative_to(ROOT).parts[:-1]]
    found = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            names = [
                ".".join([*base, *([node.module] if node.module else []), alias.name])
                for alias in node.names
            ]
        else:
            continue
        found |= {(node.lineno, name) for name in names if name.split(".")[0] == "jaxvi"}
    return found


def layer_named(name: str) -> str:
    """The layer of a dotted name."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and is_module(parts[1]) else "jaxvi"


@functools.cache
def named_by(package: str) -> set[str]:
    """What a package's __init__ binds."""
    tree = parsed(ROOT / package / "__init__.py")
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name for node in imports for alias in node.names}


def test_annotations_are_enforced_in_tests() -> None:
    """A wrongly shaped array is refused by the annotation, though the arithmetic would take it."""
    normals = families.MeanField().noise_from_uniform(jnp.full((4, 3), 0.25))
    assert normals.shape == (4, 3)
    with pytest.raises(jaxtyping.TypeCheckError, match="noise_from_uniform"):
        families.MeanField().noise_from_uniform(jnp.full(3, 0.25))


def test_ranks_are_not_promoted_in_tests() -> None:
    """Adding a vector to a matrix is an error, not a guess."""
    with pytest.raises(ValueError, match="rank_promotion"):
        jnp.zeros((2, 3)) + jnp.zeros(3)


def test_each_layer_imports_only_from_rows_above() -> None:
    """No import runs against the table."""
    wrong = []
    for path in FILES:
        layer = layer_of(path)
        if layer not in PLACES:
            wrong.append(
                f"jaxvi/{layer} is in no row: add it to LAYERS in tests/test_layers.py and to the "
                "table in CONTRIBUTING.md, below all that it imports and above all that imports it."
            )
            continue
        for line, name in sorted(imported(path)):
            other = layer_named(name)
            place = f"{path.relative_to(ROOT.parent)}:{line}"
            if other != layer and not PLACES.get(other, len(PLACES)) < PLACES[layer]:
                wrong.append(
                    f"{place} imports {name}, which is no row above {layer}: move what they share "
                    "up, or pass it in as an argument."
                )
    assert not wrong, "\n".join(wrong)


def test_packages_are_entered_by_their_init() -> None:
    """Of another package only names that its __init__ binds are imported."""
    wrong = []
    for path in FILES:
        for line, name in sorted(imported(path)):
            other, parts = layer_named(name), name.split(".")
            if other in (layer_of(path), "jaxvi") or not (ROOT / other).is_dir():
                continue
            place = f"{path.relative_to(ROOT.parent)}:{line}"
            if len(parts) > 3:
                wrong.append(
                    f"{place} reaches into {other}: import {parts[-1]} from jaxvi.{other}."
                )
            elif len(parts) == 3 and parts[2] not in named_by(other):
                wrong.append(f"{place}: jaxvi/{other}/__init__.py lacks {parts[2]}.")
    assert not wrong, "\n".join(wrong)


# Tests that reach into a module of another package, and why they may.
REACHING_TESTS = {
    "_persistence/test_checkpoint.py": "sets how long chunks are, to cut runs at every block",
    "_persistence/test_checkpoint_pool.py": "sets how long chunks are, and a pool out of memory",
    "_persistence/test_checkpoint_stream.py": "sets how long chunks of runs and of streams are",
    "solvers/test_solvers.py": "sets how much noise is drawn ahead",
}


def test_tests_belong_to_a_package() -> None:
    """They call public names, what a package's __init__ binds, or the package of their folder."""
    tests = Path(__file__).parent
    offences = []
    for path in sorted(tests.rglob("*.py")):
        name, own = path.relative_to(tests).as_posix(), path.relative_to(tests).parts[0]
        if name in REACHING_TESTS:
            continue
        nodes = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.ImportFrom)]
        for node in nodes:
            parts = (node.module or "").split(".")
            if parts[0] != "jaxvi" or len(parts) < 2 or parts[1] == own or not is_package(parts[1]):
                continue
            names = {alias.name for alias in node.names}
            modules = {name for name in names if (ROOT / parts[1] / f"{name}.py").is_file()}
            if len(parts) > 2 or modules:
                offences.append(f"{name}:{node.lineno} {node.module}: {', '.join(sorted(names))}")
    assert not offences, "\n".join(offences)
    assert all((tests / name).is_file() for name in REACHING_TESTS)


def is_package(name: str) -> bool:
    return (ROOT / name / "__init__.py").is_file()


def test_docstrings_say_more_than_the_name() -> None:
    """None is under 30 characters but for those of special methods; modules have one."""
    short = [
        f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)} {doc!r}"
        for path in FILES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module)
        and (doc := ast.get_docstring(node)) is not None
        and len(doc) < MIN_DOCSTRING_CHARACTERS
    ]
    assert not short, "\n".join(short)


def test_the_root_has_few_files() -> None:
    """A new concept goes into a package."""
    assert len(list(ROOT.glob("*.py"))) <= MOST_ROOT_FILES


def test_contributing_has_the_same_table() -> None:
    """Rows, order and words."""
    text = (ROOT.parent / "CONTRIBUTING.md").read_text()
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| (.+?) \|$", text.split("## Layers")[1], re.M)
    assert [(names.replace("`", ""), words) for names, words in rows] == list(LAYERS.items())


def test_importing_jaxvi_is_light() -> None:
    """`import jaxvi` imports no optional or slow package, and computes nothing."""
    program = (
        "import sys, jaxvi, jax._src.xla_bridge as bridge; "
        f"print([name for name in {OPTIONAL} if name in sys.modules], bridge._backends)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT.parent,
    )
    assert done.stdout.strip() == "[] {}"


def is_documented(name: str, thing: object) -> bool:
    """Whether there is a docstring that a person wrote: dataclasses and tuples make their own."""
    doc = inspect.getdoc(thing) or ""
    return len(doc) > 10 and not doc.startswith(f"{name}(")


def sort_key(name: str) -> tuple[int, list[str | int]]:
    """CONSTANTS, then Classes, then functions; numbers by value: ruff's order."""
    kind = 0 if name.isupper() else 1 if name[0].isupper() else 2
    return kind, [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


@pytest.mark.parametrize("package", ["", *SUBPACKAGES])
def test_public_names_resolve_and_are_documented(package: str) -> None:
    """Every name in `__all__` is there, once, in order, with a docstring; modules have one too."""
    module = importlib.import_module(f"jaxvi.{package}".rstrip("."))
    assert module.__doc__
    names = module.__all__
    assert names == sorted(set(names), key=sort_key)
    undocumented = [name for name in names if not is_documented(name, getattr(module, name))]
    assert not undocumented


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of the body, the docstring left out."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def test_functions_and_files_are_short() -> None:
    """No function has a body over 60 lines, no file over 400."""
    wrong = []
    for path in FILES:
        place = path.relative_to(ROOT.parent)
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = body_lines(node)
                if lines > MOST_FUNCTION_LINES:
                    wrong.append(f"{place}:{node.lineno} {node.name} has {lines} lines.")
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > MOST_FILE_LINES:
            wrong.append(f"{place} has {lines} lines: split it, one concept in each file.")
    assert not wrong, "\n".join(wrong)
