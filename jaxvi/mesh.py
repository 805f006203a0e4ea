"""Meshes of devices for a fit: restarts (lanes) along one axis, rows of data along the other."""

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from jaxvi import _arguments

LANES, ROWS = "lanes", "data"


def make_mesh(lanes: Any = None, data: Any = 1, devices: Any = None) -> Mesh:
    """A mesh of `lanes` by `data` devices, for `fit(..., mesh=...)`.

    Restarts are split along the axis "lanes". Along "data" each device has a part of the rows,
    and the gradients of the parts are summed. With `data=1` devices do not communicate while they
    step. Neighbours in `devices` share lanes, so that sums are taken over short connections.

    Args:
        lanes: number of parts that the restarts are split into; by default the number of devices
            over `data`.
        data: number of parts that the rows are split into.
        devices: by default all devices of all processes, `jax.devices()`.

    Returns:
        A `jax.sharding.Mesh` with the axes "lanes" and "data".

    Raises:
        ValueError: where lanes times data is not the number of devices.

    Example:
        >>> mesh = jaxvi.make_mesh()
        >>> mesh.axis_names
        ('lanes', 'data')
    """
    given = jax.devices() if devices is None else devices
    devices = list(np.ravel(given)) if isinstance(given, list | tuple | np.ndarray) else []
    if not devices or not all(isinstance(device, jax.Device) for device in devices):
        raise TypeError(
            f"devices: expected some of jax.devices(); got {given!r:.80}; try devices=None for all."
        )
    data = _arguments.integer("data", data)
    lanes = _arguments.integer("lanes", max(len(devices) // data, 1) if lanes is None else lanes)
    if lanes * data != len(devices):
        raise ValueError(
            f"expected lanes * data to be the number of devices, {len(devices)}; got {lanes} * "
            f"{data}; try devices=jax.devices()[:{lanes * data}], or another split."
        )
    axis_types = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh((lanes, data), (LANES, ROWS), axis_types, devices=devices)


def check_mesh(mesh: Any) -> Mesh:
    """The mesh with automatic axes, if it has known axis names and devices of this process."""
    if not isinstance(mesh, Mesh):
        raise TypeError(
            f"mesh: expected a jax.sharding.Mesh; got {mesh!r:.80}; try jaxvi.make_mesh()."
        )
    unknown = [name for name in mesh.axis_names if name not in (LANES, ROWS)]
    if unknown or not mesh.axis_names:
        raise ValueError(
            f"mesh: expected axes named 'lanes' and 'data', or one of them; got "
            f"{mesh.axis_names!r}; try jaxvi.make_mesh()."
        )
    if jax.process_index() not in processes(mesh):
        raise ValueError(
            f"mesh: expected devices of this process, number {jax.process_index()}, among others; "
            f"got those of {sorted(processes(mesh))}; try jaxvi.make_mesh()."
        )
    automatic = (AxisType.Auto,) * len(mesh.axis_names)
    return Mesh(mesh.devices, mesh.axis_names, axis_types=automatic)


def processes(mesh: Mesh) -> set[int]:
    """Indices of the processes that own devices of the mesh."""
    return {device.process_index for device in mesh.devices.flat}


def is_first(mesh: Mesh) -> bool:
    """Whether this process owns the mesh's first device: it reports and writes for all."""
    return bool(mesh.devices.flat[0].process_index == jax.process_index())


def writes(mesh: Any) -> bool:
    """Whether this process writes the run's checkpoints: of several processes only one does."""
    return mesh is None or is_first(check_mesh(mesh))


def describe_mesh(mesh: Mesh | None) -> dict[str, int] | None:
    """Lengths of the mesh's axes and its number of processes; None without a mesh."""
    if mesh is None:
        return None
    lengths = {name: mesh.shape.get(name, 1) for name in (LANES, ROWS)}
    return lengths | {"processes": len(processes(mesh))}


def round_up(number: int, parts: int) -> int:
    """The smallest multiple of `parts` that is at least `number`."""
    return math.ceil(number / parts) * parts
