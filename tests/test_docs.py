"""The documentation: what it shows runs, its links lead somewhere, its papers are in refs.bib."""

import contextlib
import doctest
import functools
import importlib
import itertools
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxvi

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])
SOURCES = sorted([*ROOT.glob("jaxvi/**/*.py"), *ROOT.glob("examples/*.py")])
BIB = (ROOT / "docs" / "refs.bib").read_text(encoding="utf-8")
RUN = [
    "README.md",
    "docs/choosing.md",
    "docs/extending.md",
    "docs/functional.md",
    "docs/guide.md",
    "docs/mixtures.md",
    "docs/restarts.md",
    "docs/rows.md",
    "docs/stages.md",
]
WITH_EXAMPLES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in ROOT.glob("jaxvi/**/*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


by_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


@contextlib.contextmanager
def as_users_have_it() -> Iterator[None]:
    """JAX's own defaults, which the rest of the tests tighten, but compiled in half the time."""
    quick = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        with jax.numpy_rank_promotion("allow"), jax.enable_x64(False):
            yield
    finally:
        jax.config.update("jax_disable_most_optimizations", quick)


# What is shown, runs


def python_blocks(page: Path) -> list[tuple[int, str]]:
    """(line, source) of the fenced Python blocks of a page."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [(text.count("\n", 0, block.start(1)), block[1]) for block in found]


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
def test_pages_run_from_top_to_bottom(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = ROOT / name
    blocks = python_blocks(page)
    assert blocks
    namespace: dict[str, Any] = {"__name__": "__main__"}
    with as_users_have_it():
        for line, source in blocks:
            # blank lines in front, so that a traceback names the line of the page
            exec(compile("\n" * line + source, str(page), "exec"), namespace)


def test_no_page_shows_python_that_is_not_run() -> None:
    shown = {name_of(page) for page in PAGES if python_blocks(page)}
    assert shown == set(RUN)


def example_density(params: Any, data: Any = None) -> jax.Array:
    """Four means, known exactly where there are no data."""
    log_prior = -0.5 * jnp.sum((params["mu"] - 1.5) ** 2)
    return log_prior if data is None else log_prior - 0.5 * jnp.sum((data - params["mu"]) ** 2)


@functools.cache
def names_of_examples() -> dict[str, Any]:
    """What the examples in docstrings may speak of without making it, apart from `fit`."""
    keys = jax.random.split(jax.random.key(3), 2)
    return {
        "X": jnp.asarray(np.random.default_rng(0).normal(size=(12, 4)), jnp.float32),
        "jax": jax,
        "jaxvi": jaxvi,
        "jnp": jnp,
        "key": jax.random.key(0),
        "keys": keys,
        "np": np,
        "optax": optax,
        "target": jaxvi.Target(example_density, {"mu": jaxvi.Real(4)}),
    }


@functools.cache
def fit_of_examples() -> jaxvi.Fit:
    names = names_of_examples()
    return jaxvi.fit(names["key"], names["target"], jaxvi.MeanField(), num_restarts=2)


class Checker(doctest.OutputChecker):
    """An example that shows no output may have some; long outputs may be cut by `...`."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return not want or super().check_output(want, got, optionflags)


@functools.cache
def docstring_examples(name: str) -> list[doctest.DocTest]:
    module = importlib.import_module(name)
    tests = doctest.DocTestFinder(exclude_empty=True).find(module, name)
    return [test for test in tests if test.examples]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_in_docstrings_run(name: str) -> None:
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    runner = doctest.DocTestRunner(Checker(), verbose=False, optionflags=flags)
    output: list[str] = []
    for test in docstring_examples(name):
        source = "".join(example.source for example in test.examples)
        for name in ("numpyro", "flowjax"):
            if name in source:
                pytest.importorskip(name)
        with as_users_have_it(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(jaxvi, "fit", functools.partial(jaxvi.fit, max_steps=500))
            test.globs.update(names_of_examples())
            if re.search(r"\bfit\.", source):
                test.globs["fit"] = fit_of_examples()
            runner.run(test, out=output.append, clear_globs=False)
    assert not runner.failures, "\n".join(output)


# Links and papers


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as forges make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.M)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


@by_page
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.M)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        goal = (page.parent / file).resolve() if file else page
        assert goal.is_relative_to(ROOT), f"{name_of(page)} links out of the project: {link}"
        assert goal.exists(), f"{name_of(page)} links to nothing: {link}"
        if anchor:
            assert anchor in anchors(goal), f"{name_of(page)} links to no heading: {link}"


def bib_entries() -> dict[str, dict[str, str]]:
    """Fields of every entry of refs.bib by its key; values are in single braces, one a line."""
    found = {}
    for kind, key, body in re.findall(r"^@(\w+)\{([^,\s]+),\n(.*?)^\}$", BIB, re.DOTALL | re.M):
        fields = dict(re.findall(r"^  (\w+) = \{(.*)\},$", body, re.MULTILINE))
        found[key] = {"kind": kind, **fields}
    return found


NAME = r"[A-Z][a-zà-ÿ]+"
CITATION = re.compile(
    rf"\b({NAME}(?:(?:, and |, | and ){NAME})*)(?: et al\.)?(?:'s)?,? \(?((?:19|20)\d\d)\b"
)
MONTHS = {"January", "February", "March", "April", "May", "June", "July", "August"}
MONTHS |= {"September", "October", "November", "December"}


def cited_in(text: str) -> set[tuple[tuple[str, ...], str]]:
    """(surnames, year) of what looks like a citation."""
    plain = re.sub(r"\s+", " ", re.sub(r"^#(?: |$)", "", text, flags=re.MULTILINE))
    found = set()
    for names, year in CITATION.findall(plain):
        surnames = tuple(re.split(r", and |, | and ", names))
        if not MONTHS & set(surnames):
            found.add((surnames, year))
    return found


def test_citations_are_recognised() -> None:
    """Also across lines; not where a sentence begins with a name or a month."""
    text = "See Ong, Nott and Smith (2018), Vegdahl's (2021) or\nWelandawe et al. 2022, of May 2022"
    assert cited_in(text) == {
        (("Ong", "Nott", "Smith"), "2018"),
        (("Vegdahl",), "2021"),
        (("Welandawe",), "2022"),
    }


def test_cited_papers_are_in_refs_bib() -> None:
    entries = bib_entries()
    unknown = []
    for path in [*PAGES, *SOURCES]:
        text = path.read_text(encoding="utf-8")
        for surnames, year in sorted(cited_in(text)):
            known = any(
                entry.get("year") == year and all(name in entry["author"] for name in surnames)
                for entry in entries.values()
            )
            if not known:
                unknown.append(f"{name_of(path)} cites {' and '.join(surnames)} {year}")
        if path.suffix == ".md":
            keys = re.findall(r"\[([a-z]+\d{4}[a-z]*)\](?!\()", text)
            unknown += [
                f"{name_of(path)} cites the key {key}" for key in keys if key not in entries
            ]
    assert not unknown, "add to refs.bib:\n" + "\n".join(unknown)


def test_entries_of_refs_bib_are_complete() -> None:
    """A key of the first author's name and the year; author, title and year; no addresses."""
    entries = bib_entries()
    assert len(entries) == BIB.count("\n@") + BIB.startswith("@")
    for key, entry in entries.items():
        assert {"author", "title"} <= set(entry), key
        if entry["kind"] == "manual":  # kept up to date, hence of no year
            continue
        assert "year" in entry, key
        first = entry["author"].split(",")[0].strip("{} ")
        expected = re.sub(r"[^a-z]", "", first.lower().split()[0]) + entry["year"]
        assert re.fullmatch(rf"{expected}[a-z]?", key), f"{key}: expected {expected}"
        venue = {"article": "journal", "inproceedings": "booktitle", "book": "publisher"}
        assert venue.get(entry["kind"], "title") in entry, key
    assert not re.search(r"\burl\b|https?:", BIB)
    titles = sorted(entry["title"].lower() for entry in entries.values())
    assert all(a != b for a, b in itertools.pairwise(titles))


# What no file of the project may hold

SLASH = "/"
REGISTRY = re.compile(
    r"https?:/{2}[\w.-]*(?:py" + r"pi\.|pythonhosted|conda\.|anaconda\.|npm" + r"js\.|crates\.io)"
)
MACHINE_PATH = re.compile(
    r"(?<![\w.}$~/])" + SLASH + r"(?:work|root|home/\w+|Users/\w+|tmp/envs)\b"
)


def test_addresses_and_paths_are_recognised() -> None:
    assert REGISTRY.search("from https:" + "//files.python" + "hosted.org/x")
    assert not REGISTRY.search("pip install jaxvi, from PyPI")
    for path in (SLASH + "work" + "/main", "(" + SLASH + "root/x)", SLASH + "home/someone/x"):
        assert MACHINE_PATH.search(path)
    for text in ("and/or work/main", "$HOME/work", "~/root", "the net/works", "/workers"):
        assert not MACHINE_PATH.search(text)


def project_files() -> list[Path]:
    """Files that are committed, or would be."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    command = [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"git can't list the files: {done.stderr.strip()}")
    paths = [ROOT / name for name in done.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def test_no_file_holds_addresses_of_registries_or_paths_of_one_machine() -> None:
    found = []
    for path in project_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            found += [
                f"{name_of(path)}:{number}: {match[0]}"
                for match in (REGISTRY.search(line), MACHINE_PATH.search(line))
                if match
            ]
    assert not found, "\n".join(found)
