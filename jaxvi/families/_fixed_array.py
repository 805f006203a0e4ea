"""An array that hashes and compares by value, as a field of a frozen specification."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped


class FixedArray:
    """A read-only array that hashes and compares by value, so that a frozen spec can hold it.

    Floating numbers are kept in float64 and integers unchanged; NaN and infinity raise.

    Example:
        >>> jaxvi.families.FixedArray([1.0, 2.0]) == jaxvi.families.FixedArray(jnp.arange(1.0, 3.0))
        True
    """

    __slots__ = ("_hash", "_values")

    def __init__(self, values: Any) -> None:
        try:
            made = np.array(values.as_numpy() if isinstance(values, FixedArray) else values)
            if made.dtype.kind not in "biufV":  # V: JAX's narrow floats, such as bfloat16
                raise TypeError
            if made.dtype.kind == "V":
                made = np.array(made, np.float64)
        except (TypeError, ValueError):
            raise TypeError(
                f"FixedArray: expected an array of real numbers; got {values!r:.80}; try "
                "numpy.asarray(..., dtype=float)."
            ) from None
        if made.dtype.kind == "f":
            made = np.array(made + 0.0, np.float64)  # -0.0 equals 0.0, so that its bytes must too
        if not np.isfinite(made).all():
            raise ValueError(
                f"FixedArray: expected finite numbers; got {made}; try leaving out what failed."
            )
        made.flags.writeable = False
        self._values = made
        self._hash = hash((made.shape, made.dtype.str, made.tobytes()))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array, a tuple of integers."""
        return self._values.shape

    def as_numpy(self) -> Shaped[np.ndarray, "..."]:
        """The values as a read-only NumPy array."""
        return self._values

    def as_array(self, dtype: jnp.dtype | None = None) -> Shaped[Array, "..."]:
        """The values as a JAX array, of `dtype` if it is given."""
        return jnp.asarray(self._values, dtype)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FixedArray):
            return NotImplemented
        mine, theirs = self._values, other._values
        return mine.dtype == theirs.dtype and np.array_equal(mine, theirs)

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        return FixedArray, (self._values,)

    def __repr__(self) -> str:
        return f"FixedArray({self._values.tolist()!r})"
