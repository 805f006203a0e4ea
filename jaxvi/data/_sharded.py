"""Rows of data spread over the devices of a mesh, and the log density as a sum over devices."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt32

from jaxvi._numerics import pytrees
from jaxvi._types import Data
from jaxvi.mesh import ROWS, check_mesh
from jaxvi.target import Target


@dataclass(frozen=True)
class RowsHere:
    """The log prior plus the log likelihood summed over devices, each with its own rows.

    For use inside `shard_map` over the axis `axis`, where `data` holds the rows of one device.
    Rows from `num_rows` on are padding and do not count. Differentiable in the parameters, once in
    reverse mode and forward over that; not in the data.
    """

    log_prior: Any
    log_likelihood: Any
    axis: str
    num_rows: int

    def __call__(self, params: Any, data: Data) -> Float[Array, ""]:
        """The log density of all rows, the same on every device."""
        return self.log_prior(params) + _over_devices(self, params, lax.stop_gradient(data))

    def of_these_rows(self, params: Any, data: Data) -> Float[Array, ""]:
        """Log likelihood of this device's rows, without padding."""
        values = self.log_likelihood(params, data)
        if values.ndim == 0:
            return values
        first = lax.axis_index(self.axis) * len(values)
        real = first + jnp.arange(len(values)) < self.num_rows
        return jnp.where(real, values, 0.0).sum()


def rows_here(target: Target, axis: str, num_rows: int) -> Target:
    """The target for use inside `shard_map`, where `data` are the rows of one device."""
    density = RowsHere(target.log_prior, target.log_likelihood, axis, num_rows)
    return Target(density, target.supports)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _over_devices(density: RowsHere, params: Any, data: Data) -> Float[Array, ""]:
    """Log likelihood summed over devices."""
    return lax.psum(density.of_these_rows(params, data), density.axis)


# JAX would transpose the sum over devices to another sum over devices, inside a shard_map that does
# not track what varies: gradients would be too large by the number of devices, and of each device's
# own rows. Here value and gradient are summed together, and the part that is linear in the tangent
# has no communication.
@_over_devices.defjvp
def _over_devices_jvp(density: RowsHere, primals: Any, tangents: Any) -> tuple[Array, Array]:
    params, data = primals
    here = jax.value_and_grad(density.of_these_rows)(params, data)
    value, gradient = lax.psum(here, density.axis)
    along = jax.tree.map(lambda g, t: jnp.sum(g * t), gradient, tangents[0])
    return value, sum(jax.tree.leaves(along), jnp.zeros_like(value))


def check_rows(target: Target, data: Data, mesh: Mesh) -> int:
    """Number of rows if the mesh spreads them over devices, else 0.

    Raises:
        ValueError: target or data cannot be spread over this mesh.
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
    """Whether parts of an array are held by other processes only."""
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
        return False
    return not leaf.is_fully_replicated


@jax.jit
def checksum(leaf: Array) -> UInt32[Array, "2"]:
    """Checksum of an array that no process holds completely; equal contents give equal sums."""
    numbers = leaf.astype(jnp.uint8) if leaf.dtype == bool else leaf
    parts = lax.bitcast_convert_type(numbers, jnp.uint8).astype(jnp.uint32)
    place = jnp.zeros(parts.shape, jnp.uint32)
    for axis, length in enumerate(parts.shape):
        place = place * jnp.uint32(length) + lax.broadcasted_iota(jnp.uint32, parts.shape, axis)
    # odd factors in a scrambled order: sums of whole numbers are the same in any order
    factors = [(place * jnp.uint32(seed)) ^ (place >> 7) | 1 for seed in (0x9E3779B9, 0x85EBCA6B)]
    return jnp.stack([jnp.sum((parts + 1) * factor, dtype=jnp.uint32) for factor in factors])


def placed(target: Target, data: Data, mesh: Any) -> tuple[Data, Mesh | None, int]:
    """Data on devices, the checked mesh, and the number of rows that it spreads over devices or 0.

    Spread rows stay where they are: no single device may have room for them.
    """
    if mesh is None:
        # so that every call sees the same types
        return jax.tree.map(pytrees.on_device, data), None, 0
    mesh = check_mesh(mesh)
    data = jax.tree.map(_copy_of_this_process, data)
    num_rows = check_rows(target, data, mesh)
    return (data if num_rows else jax.tree.map(pytrees.on_device, data)), mesh, num_rows


def _copy_of_this_process(leaf: Any) -> Any:
    """This process's copy of an array that all processes hold."""
    here = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or is_spread(leaf)
    return leaf if here else leaf.addressable_data(0)


def require_all_rows(data: Data) -> Data:
    """The data, for importance weights, if this process holds all rows.

    Raises:
        ValueError: some rows are held by other processes only.
    """
    if any(map(is_spread, jax.tree.leaves(data))):
        raise ValueError(
            "expected data of which this process has all rows, for importance weights; got rows "
            "that are spread over processes; try dataclasses.replace(fit, data=...)."
        )
    return data
