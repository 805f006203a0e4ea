"""The request: the arguments of one call of `jaxvi.fit` that determine its result."""

import platform
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvi._compilation import CompileClock
from jaxvi._engine import Reporter
from jaxvi._fitting.precompile import CompileAlso
from jaxvi._persistence import LaneFile, describe_data, fingerprint, spec_json
from jaxvi._types import Data
from jaxvi.data import Stream
from jaxvi.mesh import describe_mesh
from jaxvi.results import Fit
from jaxvi.target import Target

FORMAT = 3  # of checkpoints; it goes up when modules are renamed, which fingerprints hold
PARTS = ("family", "objective", "solver", "noise", "minibatch")
NUMBERS = ("num_restarts", "max_steps", "num_eval_draws")


class Layout(NamedTuple):
    """How restarts are laid out: pool width (None: from memory), racing, mesh."""

    pool: Any = None
    race: Any = False
    mesh: Any = None


@dataclass(frozen=True, eq=False)
class Request:
    """The arguments that determine a run, as `jaxvi.fit` documents them; None is the default.

    How a run is carried out (time limits, observers, folders) is not among them: `RunOptions`.
    """

    key: Any  # as `jaxvi.fit` takes it; typed once checked
    target: Any
    family: Any = None
    objective: Any = None
    solver: Any = None
    noise: Any = None
    minibatch: Any = None
    data: Data = None
    num_restarts: Any = None
    start: Any = None
    start_scale: Any = None
    max_steps: Any = None
    num_eval_draws: Any = None
    layout: Layout = Layout()
    effort: Any = "normal"
    polish: Any = "auto"
    stages: tuple[Any, ...] | None = None

    @property
    def parts(self) -> tuple[Any, ...]:
        """Family, objective, solver, noise and minibatch as given."""
        return tuple(getattr(self, name) for name in PARTS)

    @property
    def is_default_call(self) -> bool:
        """Whether no part is given, so that the default call's stages run."""
        return all(part is None for part in self.parts)

    def describe(self) -> dict[str, Any]:
        """The header of a checkpoint, by which another process compares and repeats the call."""
        start = self.start
        if isinstance(start, Fit):
            start = (start.setup.family, start.phi, start.best, start.key)
        return {
            "format": FORMAT,
            "versions": describe_versions(),
            "device": describe_device(),
            "dtype": engine_dtype(self.target, self.data),
            "target": describe_target(self.target),
            "data": describe_data(self.data),
            "parts": {name: describe_part(getattr(self, name)) for name in PARTS},
            "key": np.asarray(jax.random.key_data(self.key)).tolist(),
            "key_impl": str(jax.random.key_impl(self.key)),
            "start": fingerprint((start, np.asarray(self.start_scale))),
            "numbers": {name: int(getattr(self, name)) for name in NUMBERS},
            "effort": self.effort,
            "polish": self.polish,
            "stages": describe_stages(self.stages),
            "layout": self.layout._asdict() | {"mesh": describe_mesh(self.layout.mesh)},
        }


class RunOptions(NamedTuple):
    """How a request is run: time limit, progress, checkpoint, patience, compiling ahead.

    Attributes:
        max_seconds: time after which no new chunk begins.
        progress: as `jaxvi.fit` takes it.
        checkpoint: the file that lanes are saved to as they run.
        clock: counts seconds of compiling, if the caller has a clock already.
        patience: once half of the lanes have converged, the others get at most so many times the
            median steps of these; while fewer have, more in proportion. None waits for all.
        stop_when_sharp: rank on fewer draws if bounds are precise enough, see `rank_phis`.
        compile_also: gives programs that the caller needs next, to compile with the others.
    """

    max_seconds: float | None = None
    progress: bool | Reporter | None = None
    checkpoint: LaneFile | None = None
    clock: CompileClock | None = None
    patience: float | None = None
    stop_when_sharp: bool = False
    compile_also: CompileAlso | None = None


def describe_versions() -> dict[str, str]:
    """Versions of Python and packages, on which rounding or a fingerprint may depend."""
    packages = ("jaxvi", "jax", "jaxlib", "optax", "numpy")  # all of them imported by now
    found = {name: str(sys.modules[name].__version__) for name in packages}
    return found | {"python": ".".join(platform.python_version_tuple()[:2])}


def engine_dtype(target: Target, data: Data) -> str:
    """Name of the dtype that a fit computes in; for a stream, that of its first block."""
    return str(target.dtype(next(data.blocks()) if isinstance(data, Stream) else data))


def describe_device() -> str:
    """Platform and kind of the device that new arrays are put on."""
    (found,) = jnp.zeros(()).devices()
    return f"{found.platform}, {found.device_kind}"


def describe_target(target: Target) -> dict[str, Any]:
    """A digest of a target's functions and supports, its dimension, and its supports as text."""
    functions = (target.log_density, target.start)
    return {
        "digest": fingerprint((functions, target.leaves, str(target.treedef))),
        "dim": target.dim,
        "supports": f"{target.supports!r:.500}",
    }


def describe_part(part: Any) -> dict[str, Any]:
    """A digest of a family, solver or the like, its JSON if it is jaxvi's own, and its text."""
    return {"digest": fingerprint(part), "spec": spec_json.encode(part), "text": f"{part!r:.200}"}


def describe_stages(stages: tuple[Any, ...] | None) -> dict[str, str] | None:
    """A digest of stages that were given, and their names; None for the default ones."""
    if stages is None:
        return None
    return {
        "digest": fingerprint([(type(stage).__qualname__, stage) for stage in stages]),
        "text": ", ".join(stage.name for stage in stages),
    }
