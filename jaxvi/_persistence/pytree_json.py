"""Encodes the structure of a pytree of plain containers as JSON, and decodes it with its leaves."""

from collections.abc import Iterator
from typing import Any

import jax


def encode(tree: Any) -> Any:
    """JSON of a pytree's structure, leaves numbered; None unless it is dicts, lists and tuples.

    Python numbers are stored by value, not as leaves: JAX promotes them by other rules than arrays.
    """
    try:
        found = _encode(tree, iter(range(len(jax.tree.leaves(tree)))))
        same = decode(found, list(range(len(jax.tree.leaves(tree)))))
    except TypeError:
        return None
    return found if _structure(same) == _structure(tree) else None


def decode(found: Any, leaves: list[Any]) -> Any:
    """The pytree with the encoded structure and these leaves."""
    kind, parts = found
    if kind == "leaf":
        return leaves[parts]
    if kind == "number":
        return parts
    if kind == "dict":
        return {name: decode(part, leaves) for name, part in parts}
    made = [decode(part, leaves) for part in parts]
    return made if kind == "list" else tuple(made) if kind == "tuple" else None


def _encode(tree: Any, numbers: Iterator[int]) -> Any:
    if tree is None:
        return ["none", []]
    if type(tree) is dict and all(type(name) in (str, int) for name in tree):
        return ["dict", [[name, _encode(tree[name], numbers)] for name in sorted(tree)]]
    if type(tree) in (list, tuple):
        return [type(tree).__name__, [_encode(part, numbers) for part in tree]]
    if _structure(tree) != _structure(0):
        raise TypeError(f"expected plain containers; got {type(tree).__name__}.")
    number = next(numbers)
    return ["number", tree] if type(tree) in (bool, int, float) else ["leaf", number]


def _structure(tree: Any) -> Any:
    return jax.tree.structure(tree)
