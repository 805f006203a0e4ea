"""The log density at many points, as one flat batch also under nested `vmap`s.

An objective maps over draws and lanes map over restarts; nested `vmap`s of a density such as
`A @ z` would have XLA multiply arrays of three axes in layouts that cost up to twice the time of
one flat batch. Here an outer `vmap` over points becomes a longer batch instead of another axis.

Large batches are evaluated in slices, to bound memory whatever the number of rows of data, lanes,
draws and chains.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float

from jaxvi._compilation import largest_array, points_at_once
from jaxvi._types import Data, Scalar
from jaxvi.target._target import Target

_MAX_ARRAY_ELEMENTS = 2**25  # of the largest array of a batch: 128 MiB of float32


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def log_probs(target: Target, z: Float[Array, "draws dim"], data: Data) -> Float[Array, "draws"]:
    """The log density at every row of z.

    Differentiable once in reverse mode in z and data, and in forward mode over that (for
    Hessian-vector products).
    """
    return _flat(partial(_value, target))(z, data)


def _forward(
    target: Target, z: Float[Array, "draws dim"], data: Data
) -> tuple[Float[Array, "draws"], Any]:
    values, gradients = values_and_gradients(target, z, data)
    return values, (gradients, z, data)


def _backward(target: Target, saved: Any, cotangent: Float[Array, "draws"]) -> tuple[Any, Any]:
    gradients, z, data = saved
    # the compiler drops the gradient in data where it is not used
    _, pull = jax.vjp(lambda d: jax.vmap(partial(_value, target), (0, None))(z, d), data)
    return cotangent[:, None] * gradients, pull(cotangent)[0]


log_probs.defvjp(_forward, _backward)


# jit caches the trace: the user's function is traced once for all programs
@partial(jax.jit, static_argnums=0)
def _value(target: Target, z: Float[Array, "dim"], data: Data) -> Scalar:
    return target.log_prob(z, data)


@partial(jax.jit, static_argnums=0)
def value_and_gradient(
    target: Target, z: Float[Array, "dim"], data: Data
) -> tuple[Scalar, Float[Array, "dim"]]:
    """The log density and its gradient at one point."""
    return jax.value_and_grad(target.log_prob)(z, data)


def values_and_gradients(
    target: Target, z: Float[Array, "draws dim"], data: Data
) -> tuple[Float[Array, "draws"], Float[Array, "draws dim"]]:
    """The log density and its gradient at every row of z."""
    return _flat(partial(value_and_gradient, target))(z, data)


def hessian_products(
    target: Target,
    z: Float[Array, "draws dim"],
    vectors: Float[Array, "draws vectors dim"],
    data: Data,
) -> Float[Array, "draws vectors dim"]:
    """Products of the log density's Hessian at every row of z with that row's vectors.

    Forward over reverse: each vector costs about two gradients.
    """
    return _flat(partial(_hessian_products, target))((z, vectors), data)


@partial(jax.jit, static_argnums=0)
def _hessian_products(
    target: Target, point: tuple[Float[Array, "dim"], Float[Array, "vectors dim"]], data: Data
) -> Float[Array, "vectors dim"]:
    z, vectors = point

    def gradient(z: Float[Array, "dim"]) -> Float[Array, "dim"]:
        return value_and_gradient(target, z, data)[1]

    return jax.vmap(lambda v: jax.jvp(gradient, (z,), (v,))[1])(vectors)


def _flat(function: Any) -> Any:
    """`function` of one point and data, mapped over points; an outer `vmap` lengthens the batch.

    A point is an array or a pytree of arrays.
    """

    def call(points: Any, data: Any) -> Any:
        # data as a list of leaves: JAX's forward derivative misreads None as a symbol of its own
        leaves, treedef = jax.tree.flatten(data)
        return mapped_over(lambda point, rest: function(point, jax.tree.unflatten(treedef, rest)))(
            points, leaves
        )

    def mapped_over(function: Any) -> Any:
        over_points = partial(_in_slices, function)
        mapped = custom_vmap(over_points)

        @mapped.def_vmap
        def rule(axis_size: int, batched: Any, points: Any, data: Any) -> tuple[Any, Any]:
            points_batched, data_batched = batched
            if any(jax.tree.leaves(data_batched)):
                axes = jax.tree.map(lambda b: 0 if b else None, (points_batched, data_batched))
                out = jax.vmap(over_points, axes)(points, data)
            elif any(jax.tree.leaves(points_batched)):
                # not `mapped` again: under a forward derivative that would recurse without end
                out = over_points(_lengthen(points, points_batched, axis_size), data)
                out = jax.tree.map(lambda a: a.reshape(axis_size, -1, *a.shape[1:]), out)
            else:
                out = over_points(points, data)
            return out, jax.tree.map(lambda _: any(jax.tree.leaves(batched)), out)

        return mapped

    return call


def _in_slices(function: Any, points: Any, data: Any) -> Any:
    """`function` of all points at once, or in slices of points.

    Slices bound memory where `function` makes large arrays, and avoid a deadlock of LAPACK calls
    in large batches.
    """
    num = len(jax.tree.leaves(points)[0])
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), points)
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), data)
    program = jax.make_jaxpr(function)(one, like).jaxpr
    max_points = min(max(1, _MAX_ARRAY_ELEMENTS // largest_array(program)), points_at_once(program))
    if num <= max_points:
        return jax.vmap(function, (0, None))(points, data)
    slice_size = -(-num // -(-num // max_points))
    return lax.map(lambda point: function(point, data), points, batch_size=slice_size)


def _lengthen(points: Any, batched: Any, axis_size: int) -> Any:
    """The outer axis merged into the axis of points; leaves without it are repeated."""

    def one(leaf: Array, has_axis: bool) -> Array:
        repeated = leaf if has_axis else jnp.broadcast_to(leaf[None], (axis_size, *leaf.shape))
        return repeated.reshape(-1, *repeated.shape[2:])

    return jax.tree.map(one, points, batched)
