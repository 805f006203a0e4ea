"""Pytrees as flat vectors and back, names of their leaves and elements, and selection."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import PyTreeDef
from jaxtyping import Array, Bool, Float

_MAX_LEAVES_SHOWN = 8


def flatten_with_paths(
    tree: Any, is_leaf: Callable[[Any], bool] | None = None
) -> tuple[tuple[str, ...], tuple[Any, ...], PyTreeDef]:
    """Paths such as `['mu']`, leaves and structure of a tree, in JAX's order (dict keys sorted)."""
    pairs, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)
    paths = tuple(jax.tree_util.keystr(path) for path, _ in pairs)
    return paths, tuple(leaf for _, leaf in pairs), treedef


def on_device(leaf: Any) -> Array:
    """`jnp.asarray` without compiling: JAX 0.12 compiles it for every shape of a NumPy array."""
    return jax.device_put(leaf) if isinstance(leaf, np.ndarray) else jnp.asarray(leaf)


def leaf_names(treedef: PyTreeDef) -> tuple[str, ...]:
    """Short names of the leaves for reports: `mu`, `layer.scale`, `0`; `params` for a lone leaf."""
    tree = treedef.unflatten(range(treedef.num_leaves))
    pairs, _ = jax.tree_util.tree_flatten_with_path(tree)
    names = (jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in pairs)
    return tuple(name or "params" for name in names)


def element_names(name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Names of an array's elements in row-major order.

    Example:
        >>> element_names("mu", (1, 2))
        ('mu[0, 0]', 'mu[0, 1]')
    """
    if not shape:
        return (name,)
    indices = itertools.product(*(range(length) for length in shape))
    return tuple(f"{name}[{', '.join(map(str, index))}]" for index in indices)


def split(
    flat: Float[Array, " dim"], shapes: Sequence[tuple[int, ...]]
) -> list[Float[Array, "..."]]:
    """A flat vector as consecutive parts of the given shapes.

    One `lax.split`, whose gradient is one concatenate; slices would give a sum of padded vectors.
    """
    parts = jax.lax.split(flat, [math.prod(shape) for shape in shapes])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def join(parts: Sequence[Float[Array, "..."]]) -> Float[Array, " dim"]:
    """Parts raveled and laid end to end: the inverse of `split`."""
    return jnp.concatenate([jnp.ravel(part) for part in parts])


def describe_leaf(leaf: Any) -> str:
    """Dtype and shape of one leaf as `float32[150, 4]`, or its type where it is no array."""
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return f"{leaf.dtype}[{', '.join(map(str, leaf.shape))}]"
    return type(leaf).__name__


def describe(tree: Any) -> str:
    """Dtypes and shapes of a tree's leaves in one line, for error messages."""
    paths, leaves, _ = flatten_with_paths(tree)
    shown = [
        f"{path} {describe_leaf(leaf)}".strip()
        for path, leaf in zip(paths[:_MAX_LEAVES_SHOWN], leaves, strict=False)
    ]
    if len(paths) > _MAX_LEAVES_SHOWN:
        shown.append(f"and {len(paths) - _MAX_LEAVES_SHOWN} more leaves")
    return ", ".join(shown) or "no arrays"


def all_finite(tree: Any) -> Bool[Array, ""]:
    """Whether every floating number in a tree is finite.

    Tests the concatenation of all leaves: XLA would copy a predicate for each leaf wherever the
    result is used, and compile all of the copies.
    """
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    floats = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.isfinite(join(floats)).all()


def where(condition: Bool[Array, ""], yes: Any, no: Any) -> Any:
    """Leaves of `yes` if the condition holds, else those of `no`."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
