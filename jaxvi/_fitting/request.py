"""What a call of `jaxvi.fit` asks for, as a header that another process can compare and repeat."""

import platform
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jaxvi._persistence import describe_data, fingerprint, spec_json
from jaxvi._types import Data
from jaxvi.data import Stream
from jaxvi.mesh import describe_mesh
from jaxvi.results import Fit
from jaxvi.target import Target

FORMAT = 3


class Layout(NamedTuple):
    """Lanes at once, None where memory says; whether they race; devices that they are spread on."""

    pool: int | None = None
    race: bool = False
    mesh: Any = None


class Parts(NamedTuple):
    """As given; None where the default is wanted, and all of them None for the autopilot."""

    family: Any
    objective: Any
    solver: Any
    noise: Any
    minibatch: Any


@dataclass(frozen=True, eq=False)
class Request:
    """The arguments that make a run: time limits and whom to tell are not among them."""

    key: Key[Array, ""]
    target: Target
    parts: Parts
    run: dict[str, Any]  # data, start, start_scale, numbers
    effort: str
    polish: bool | str
    layout: Layout = Layout()

    def describe(self) -> dict[str, Any]:
        """The header of a checkpoint."""
        start = self.run["start"]
        if isinstance(start, Fit):
            start = (start.setup.family, start.phi, start.best, start.key)
        return {
            "format": FORMAT,
            "versions": describe_versions(),
            "device": describe_device(),
            "dtype": engine_dtype(self.target, self.run["data"]),
            "target": describe_target(self.target),
            "data": describe_data(self.run["data"]),
            "parts": {name: describe_part(part) for name, part in self.parts._asdict().items()},
            "key": np.asarray(jax.random.key_data(self.key)).tolist(),
            "key_impl": str(jax.random.key_impl(self.key)),
            "start": fingerprint((start, np.asarray(self.run["start_scale"]))),
            "numbers": {name: int(self.run[name]) for name in NUMBERS},
            "effort": self.effort,
            "polish": self.polish,
            "layout": self.layout._asdict() | {"mesh": describe_mesh(self.layout.mesh)},
        }


NUMBERS = ("num_restarts", "max_steps", "num_eval_draws")


def describe_versions() -> dict[str, str]:
    """Those on which rounding or a fingerprint may depend."""
    packages = ("jaxvi", "jax", "jaxlib", "optax", "numpy")  # all of them imported by now
    found = {name: str(sys.modules[name].__version__) for name in packages}
    return found | {"python": ".".join(platform.python_version_tuple()[:2])}


def engine_dtype(target: Target, data: Data) -> str:
    """What a fit of these computes in; of a stream, the first block tells."""
    return str(target.dtype(next(data.blocks()) if isinstance(data, Stream) else data))


def describe_device() -> str:
    """Platform and kind of the device that new arrays are put on."""
    (found,) = jnp.zeros(()).devices()
    return f"{found.platform}, {found.device_kind}"


def describe_target(target: Target) -> dict[str, Any]:
    """A digest of the functions and supports, and the shapes for people to read."""
    functions = (target.log_density, target.start)
    return {
        "digest": fingerprint((functions, target.leaves, str(target.treedef))),
        "dim": target.dim,
        "supports": f"{target.supports!r:.500}",
    }


def describe_part(part: Any) -> dict[str, Any]:
    """A digest, the part as JSON where it is of jaxvi's own, and its text."""
    return {"digest": fingerprint(part), "spec": spec_json.encode(part), "text": f"{part!r:.200}"}
