"""What holds for every test: shapes checked at run time, strict numerics, fixed seeds."""

import os
import sys
from collections.abc import Iterator

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

SEED = 20250611


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
def compiled_quickly() -> Iterator[None]:
    """For modules whose time goes into compiling, not running: programs are optimised less."""
    quick = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
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
