"""Small tanh networks that compute the parameters of a flow's layers, one network a layer."""

import itertools
from typing import TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Key

from jaxvi._numerics import normals, pytrees

Net: TypeAlias = Float[Array, "numbers"]
Masks: TypeAlias = tuple[Bool[np.ndarray, "_ _"], ...]


def init_nets(
    key: Key[Array, ""], num: int, sizes: tuple[int, ...], dtype: jnp.dtype, num_extra: int = 0
) -> Float[Array, "num numbers"]:
    """Initial weights of `num` networks: variance 1 / inputs, zero in last layers and biases.

    They are followed by `num_extra` zeros, for parameters that a layer has beside its network.

    Every network is one vector: weights and biases layer by layer. The compile time of an
    optimiser grows with the number of arrays, and it is most of the time of a short fit.
    """
    pairs = list(itertools.pairwise(sizes))
    # one call: a random generator takes longer to compile than all the rest
    counts = [rows * columns for rows, columns in pairs[:-1]]
    drawn = normals(key, (num, sum(counts)), dtype)
    weights = jnp.split(drawn, np.cumsum(counts)[:-1], axis=1) if counts else []
    parts = []
    for (rows, columns), weight in zip(pairs, [*weights, None], strict=True):
        last = weight is None
        parts.append(jnp.zeros((num, rows * columns), dtype) if last else weight / rows**0.5)
        parts.append(jnp.zeros((num, columns), dtype))
    return jnp.concatenate([*parts, jnp.zeros((num, num_extra), dtype)], axis=1)


def num_weights(sizes: tuple[int, ...]) -> int:
    """Number of weights and biases of one network."""
    return sum((rows + 1) * columns for rows, columns in itertools.pairwise(sizes))


def apply_net(
    net: Net, sizes: tuple[int, ...], x: Float[Array, "inputs"], masks: Masks | None = None
) -> Float[Array, "outputs"]:
    """Output of a tanh network with a linear last layer; masks set weights to zero."""
    pairs = list(itertools.pairwise(sizes))
    shapes = [shape for rows, columns in pairs for shape in ((rows, columns), (columns,))]
    parts = pytrees.split(net, shapes)
    for i, (weight, bias) in enumerate(zip(parts[::2], parts[1::2], strict=True)):
        if masks is not None:
            weight = jnp.where(masks[i], weight, jnp.zeros((), weight.dtype))
        # at full precision, since the inverse of a flow must compute the same numbers again
        x = jnp.matmul(x, weight, precision=lax.Precision.HIGHEST) + bias
        if i < len(pairs) - 1:
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
