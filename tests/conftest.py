"""What holds for every test: shapes checked at run time, strict numerics, fixed seeds, --long."""

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import jaxtyping

if "jaxvi" in sys.modules:
    raise RuntimeError("expected conftest.py to come first; got jaxvi imported already.")
# Every annotation in the package is enforced from here on; tests/test_layers.py sees that it is.
jaxtyping.install_import_hook("jaxvi", "beartype.beartype")
os.environ.setdefault("MPLBACKEND", "Agg")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

# Tracing makes many objects and few cycles: by default a twentieth of the time goes into looking.
gc.set_threshold(100_000, 20, 100)

HERE = Path(__file__).parent
SEED = 20250611


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option of `python3 dev.py test --long`."""
    parser.addoption(
        "--long",
        action="store_true",
        help="all repetitions of every law, and programs optimised as users have them",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest first; what is marked long only repeats a law, and is left out but for --long.

    Files of this folder itself hold the longest tests: begun last, one of them would run alone.
    """
    items.sort(key=lambda item: item.path.parent != HERE)
    if config.getoption("long"):
        return
    left = [item for item in items if item.get_closest_marker("long")]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if not item.get_closest_marker("long")]


@pytest.fixture(scope="session")
def long(pytestconfig: pytest.Config) -> bool:
    """Whether all repetitions are wanted; otherwise the same assertions hold for fewer of them."""
    return bool(pytestconfig.getoption("long"))


@pytest.fixture
def key() -> jax.Array:
    """A key, the same in every test."""
    return jax.random.key(SEED)


@pytest.fixture
def rng() -> np.random.Generator:
    """A NumPy generator, the same in every test."""
    return np.random.default_rng(SEED)


@pytest.fixture
def x64() -> Iterator[None]:
    """The test runs with 64-bit types enabled; the default is 32 bits."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> Iterator[np.dtype]:
    """The test runs twice: in float32 with 64-bit types off, in float64 with them on."""
    with jax.enable_x64(request.param == "float64"):
        yield jnp.dtype(request.param)


@pytest.fixture(scope="module")
def compiled_quickly(long: bool) -> Iterator[None]:
    """For modules whose time goes into compiling, not running: programs are optimised less.

    With --long they are optimised as users have them.
    """
    quick = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", quick or not long)
    yield
    jax.config.update("jax_disable_most_optimizations", quick)


@pytest.fixture(autouse=True, scope="module")
def _room() -> Iterator[None]:
    """Each module's compiled programs are dropped after it.

    Every program on a CPU holds several memory mappings, and Linux allows a process 65,530: a
    worker that keeps the whole suite's programs dies.
    """
    yield
    jax.clear_caches()
    gc.collect()
