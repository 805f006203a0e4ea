"""Small networks of tanh layers, stacked over the layers of a flow."""

import itertools
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Key

Weights: TypeAlias = tuple[Float[Array, "..."], ...]
Masks: TypeAlias = tuple[Bool[np.ndarray, "_ _"], ...]


def init_nets(
    key: Key[Array, ""], num: int, sizes: tuple[int, ...], dtype: jnp.dtype
) -> tuple[Weights, Weights]:
    """Weights and biases of `num` networks: variance 1 / inputs, the last layer zero."""
    weights, biases = [], []
    for i, (rows, columns) in enumerate(itertools.pairwise(sizes)):
        drawn = jax.random.normal(jax.random.fold_in(key, i), (num, rows, columns), dtype)
        last = i == len(sizes) - 2
        weights.append(jnp.zeros_like(drawn) if last else drawn / max(rows, 1) ** 0.5)
        biases.append(jnp.zeros((num, columns), dtype))
    return tuple(weights), tuple(biases)


def apply_net(
    weights: Weights, biases: Weights, x: Float[Array, "inputs"], masks: Masks | None = None
) -> Float[Array, "outputs"]:
    """The last layer's output, linear in the one before; a mask says which weights count."""
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        if masks is not None:
            weight = jnp.where(masks[i], weight, jnp.zeros((), weight.dtype))
        # at full precision, for the inverse of a flow must meet the same numbers again
        x = jnp.matmul(x, weight, precision=lax.Precision.HIGHEST) + bias
        if i < len(weights) - 1:
            x = jnp.tanh(x)
    return x


def autoregressive_masks(dim: int, hidden: tuple[int, ...], outputs: int) -> Masks:
    """Masks by which output i, one of `outputs` a coordinate, sees inputs before i only.

    Every hidden unit has a degree from 1 to dim - 1 and sees degrees up to its own (Germain et
    al. 2015).
    """
    degrees = [np.arange(1, dim + 1)]
    degrees += [1 + np.arange(size) * max(dim - 1, 1) // size for size in hidden]
    masks = [left[:, None] <= right[None] for left, right in itertools.pairwise(degrees)]
    last = degrees[-1][:, None] < np.tile(np.arange(1, dim + 1), outputs)[None]
    return (*masks, last)
