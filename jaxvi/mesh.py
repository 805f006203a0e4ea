"""Devices for a fit: lanes along one axis, rows of data along the other."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh
from jaxtyping import Array, UInt32

from jaxvi import _arguments
from jaxvi._numerics import pytrees
from jaxvi._types import Data
from jaxvi.target import Target

LANES, ROWS = "lanes", "data"


def make_mesh(lanes: Any = None, data: Any = 1, devices: Any = None) -> Mesh:
    """A mesh for `fit(..., mesh=...)`: `lanes` by `data` devices.

    Restarts are dealt out along the axis "lanes"; along "data" each device has a part of the rows,
    and their gradients are summed. With `data=1` devices say nothing to each other while they
    step. Neighbours in `devices` share lanes, so that sums go the short way.

    Args:
        lanes: parts that the restarts are dealt out to; by default what `data` leaves of the
            devices.
        data: parts that the rows are dealt out to.
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
    data = _arguments.whole("data", data)
    lanes = _arguments.whole("lanes", max(len(devices) // data, 1) if lanes is None else lanes)
    if lanes * data != len(devices):
        raise ValueError(
            f"expected lanes * data to be the number of devices, {len(devices)}; got {lanes} * "
            f"{data}; try devices=jax.devices()[:{lanes * data}], or another split."
        )
    axis_types = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh((lanes, data), (LANES, ROWS), axis_types, devices=devices)


def check_mesh(mesh: Any) -> Mesh:
    """A mesh with axes of known names that this process has devices in, its axes automatic."""
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
    """The processes whose devices are in it."""
    return {device.process_index for device in mesh.devices.flat}


def is_first(mesh: Mesh) -> bool:
    """Whether this is the process of its first device, which tells and writes for all."""
    return bool(mesh.devices.flat[0].process_index == jax.process_index())


def writes(mesh: Any) -> bool:
    """Whether this process keeps the run's checkpoint: where there are several, one does."""
    return mesh is None or is_first(check_mesh(mesh))


def describe_mesh(mesh: Mesh | None) -> dict[str, int] | None:
    """The lengths of its axes, and how many processes it is spread over."""
    if mesh is None:
        return None
    lengths = {name: mesh.shape.get(name, 1) for name in (LANES, ROWS)}
    return lengths | {"processes": len(processes(mesh))}


def check_rows(target: Target, data: Data, mesh: Mesh) -> int:
    """The number of rows, where a mesh spreads them; else 0.

    Raises:
        ValueError: where target or data can't be spread over this mesh.
    """
    parts = mesh.shape.get(ROWS, 1)
    if parts == 1:
        return 0
    if target.log_likelihood is None:
        raise ValueError(
            f"expected a target in two parts, so that rows of data can be spread over the "
            f"{parts} devices of the mesh's axis 'data'; got one log density; try "
            "Target(supports=..., log_prior=..., log_likelihood=...), or a mesh with data=1."
        )
    if target.start is not None:
        raise ValueError(
            "expected starts that don't come from the target, since a device would show its "
            f"`start` no more than its own rows; got start={target.start!r:.80}; try start= of "
            "fit, or a mesh with data=1."
        )
    counts = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(data)}
    if len(counts) != 1 or () in counts:
        raise ValueError(
            "expected all arrays of data with their rows along the first axis, equally many, to "
            f"spread them over a mesh; got first axes {sorted(counts)}; try constants in the "
            "functions, or one entry a row."
        )
    (num_rows,) = counts.pop()
    params = jax.eval_shape(
        target.constrain, jax.ShapeDtypeStruct((target.dim,), target.dtype(data))
    )
    by_row = jax.eval_shape(target.log_likelihood, params, data).ndim == 1
    if num_rows % parts and not by_row:
        raise ValueError(
            f"expected rows that {parts} devices can share equally, since log_likelihood gives a "
            f"sum; got {num_rows}; try a log_likelihood that gives one value a row, which is "
            f"padded, or {num_rows - num_rows % parts} rows."
        )
    split = [leaf for leaf in jax.tree.leaves(data) if is_spread(leaf)]
    if num_rows % parts and split:
        raise ValueError(
            f"expected arrays of several processes with a multiple of {parts} rows; got "
            f"{num_rows}; try padding them by rows of likelihood 1."
        )
    return num_rows


def is_spread(leaf: Any) -> bool:
    """Whether parts of an array are with other processes alone."""
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
        return False
    return not leaf.is_fully_replicated


@jax.jit
def checksum(leaf: Array) -> UInt32[Array, "2"]:
    """Of an array that no process has whole: another one where its content is another."""
    whole = leaf.astype(jnp.uint8) if leaf.dtype == bool else leaf
    parts = lax.bitcast_convert_type(whole, jnp.uint8).astype(jnp.uint32)
    place = jnp.zeros(parts.shape, jnp.uint32)
    for axis, length in enumerate(parts.shape):
        place = place * jnp.uint32(length) + lax.broadcasted_iota(jnp.uint32, parts.shape, axis)
    # odd factors in a scrambled order: sums of whole numbers are the same in any order
    factors = [(place * jnp.uint32(seed)) ^ (place >> 7) | 1 for seed in (0x9E3779B9, 0x85EBCA6B)]
    return jnp.stack([jnp.sum((parts + 1) * factor, dtype=jnp.uint32) for factor in factors])


def placed(target: Target, data: Data, mesh: Any) -> tuple[Data, Mesh | None, int]:
    """Data as the rest of a fit sees them, the mesh checked, and the rows that it spreads, or 0.

    Spread rows stay where they are: no one device may have room for them.
    """
    if mesh is None:
        # so that every call sees the same types
        return jax.tree.map(pytrees.on_device, data), None, 0
    mesh = check_mesh(mesh)
    data = jax.tree.map(_copy_of_this_process, data)
    num_rows = check_rows(target, data, mesh)
    return (data if num_rows else jax.tree.map(pytrees.on_device, data)), mesh, num_rows


def _copy_of_this_process(leaf: Any) -> Any:
    here = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or is_spread(leaf)
    return leaf if here else leaf.addressable_data(0)


def whole(data: Data) -> Data:
    """Data to weigh draws on, which this process must have all of.

    Raises:
        ValueError: rows that are with other processes.
    """
    if any(map(is_spread, jax.tree.leaves(data))):
        raise ValueError(
            "expected data that this process has whole, to weigh draws by the density; got rows "
            "that are spread over processes; try dataclasses.replace(fit, data=...)."
        )
    return data


def round_up(number: int, parts: int) -> int:
    """The next multiple."""
    return math.ceil(number / parts) * parts
