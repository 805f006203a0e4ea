"""A log density whose rows of data are spread over devices, as each of the devices sees it."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxvi._types import Data
from jaxvi.target import Target


@dataclass(frozen=True)
class RowsHere:
    """log prior + the sum over devices of the log likelihood of each one's rows.

    For use inside `shard_map` over the axis `axis`, where `data` holds the rows of one device.
    Rows from `num_rows` on are there for the shapes only and count nothing. Differentiable by
    parameters once in reverse, and forward over that; not by data.
    """

    log_prior: Any
    log_likelihood: Any
    axis: str
    num_rows: int

    def __call__(self, params: Any, data: Data) -> Float[Array, ""]:
        """The whole log density, the same on every device."""
        return self.log_prior(params) + _over_devices(self, params, lax.stop_gradient(data))

    def of_these_rows(self, params: Any, data: Data) -> Float[Array, ""]:
        """The log likelihood of the rows of this device."""
        values = self.log_likelihood(params, data)
        if values.ndim == 0:
            return values
        first = lax.axis_index(self.axis) * len(values)
        real = first + jnp.arange(len(values)) < self.num_rows
        return jnp.where(real, values, 0.0).sum()


def rows_here(target: Target, axis: str, num_rows: int) -> Target:
    """The same target for use inside `shard_map`, with the rows of one device for data."""
    density = RowsHere(target.log_prior, target.log_likelihood, axis, num_rows)
    return Target(density, target.supports)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _over_devices(density: RowsHere, params: Any, data: Data) -> Float[Array, ""]:
    return lax.psum(density.of_these_rows(params, data), density.axis)


# Left to JAX, the sum over devices would be transposed to a sum over devices again, inside a
# shard_map that does not track what varies: gradients as many times too large as there are
# devices, of each device's own rows. Here value and gradient are summed in one go, and what is
# linear in the tangent says nothing to other devices.
@_over_devices.defjvp
def _over_devices_jvp(density: RowsHere, primals: Any, tangents: Any) -> tuple[Array, Array]:
    params, data = primals
    here = jax.value_and_grad(density.of_these_rows)(params, data)
    value, gradient = lax.psum(here, density.axis)
    along = jax.tree.map(lambda g, t: jnp.sum(g * t), gradient, tangents[0])
    return value, sum(jax.tree.leaves(along), jnp.zeros_like(value))
