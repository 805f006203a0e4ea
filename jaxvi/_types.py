"""Type aliases that all packages share: variational parameters, noise, data and scalars."""

from typing import Any, TypeAlias

from jaxtyping import Array, Float, PyTree

Phi: TypeAlias = PyTree[Array]
"""Variational parameters: a NamedTuple of arrays, made by a family's `init`."""

Noise: TypeAlias = Float[Array, "draws noise"]
"""Base noise of a family, one row a draw."""

Data: TypeAlias = Any
"""A pytree of arrays passed to the log density, or None."""

Scalar: TypeAlias = Float[Array, ""]
"""A floating-point array without axes."""
