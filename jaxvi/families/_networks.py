"""Small networks of tanh layers, stacked over the layers of a flow."""

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
    key: Key[Array, ""], num: int, sizes: tuple[int, ...], dtype: jnp.dtype, num_more: int = 0
) -> Float[Array, "num numbers"]:
    """`num` networks: weights of variance 1 / inputs, the last layer's and all biases zero.

    So are `num_more` numbers after them, for what a layer has beside its network.

    Every network is one vector, layer by layer its weights and its biases: an optimiser's program
    grows with the number of arrays, and compiling it is most of what a short fit takes.
    """
    pairs = list(itertools.pairwise(sizes))
    # in one go: a generator takes longer to compile than all the rest
    counts = [rows * columns for rows, columns in pairs[:-1]]
    drawn = normals(key, (num, sum(counts)), dtype)
    weights = jnp.split(drawn, np.cumsum(counts)[:-1], axis=1) if counts else []
    parts = []
    for (rows, columns), weight in zip(pairs, [*weights, None], strict=True):
        last = weight is None
        parts.append(jnp.zeros((num, rows * columns), dtype) if last else weight / rows**0.5)
        parts.append(jnp.zeros((num, columns), dtype))
    return jnp.concatenate([*parts, jnp.zeros((num, num_more), dtype)], axis=1)


def num_weights(sizes: tuple[int, ...]) -> int:
    """Numbers of one network."""
    return sum((rows + 1) * columns for rows, columns in itertools.pairwise(sizes))


def apply_net(
    net: Net, sizes: tuple[int, ...], x: Float[Array, "inputs"], masks: Masks | None = None
) -> Float[Array, "outputs"]:
    """The last layer's output, linear in the one before; a mask says which weights count."""
    pairs = list(itertools.pairwise(sizes))
    shapes = [shape for rows, columns in pairs for shape in ((rows, columns), (columns,))]
    parts = pytrees.split(net, shapes)
    for i, (weight, bias) in enumerate(zip(parts[::2], parts[1::2], strict=True)):
        if masks is not None:
            weight = jnp.where(masks[i], weight, jnp.zeros((), weight.dtype))
        # at full precision, for the inverse of a flow must meet the same numbers again
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
