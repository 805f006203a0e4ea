"""Interface of supports, with the checks and the numerics that its implementations share."""

import abc
import math
import operator
from collections.abc import Iterable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

# Shapes and bounds as users give them. Any, so that a wrong value meets the checks here before a
# run-time type checker. The checks return tuples of integers, and floats or nested tuples of them.
ShapeLike: TypeAlias = Any
BoundLike: TypeAlias = Any

# Rounding allowed where an equality must hold (a simplex sums to one), in units of eps per term.
EQUALITY_ULPS = 16


class Support(abc.ABC):
    """The set of a parameter's values: a smooth map from unconstrained y onto it, and log |det J|.

    A support is a frozen dataclass, equal and hashed by value, and holds no arrays. It is
    written for one event, with batch axes in front. It needs the three methods and two properties
    below.

    The shared tests use two more, so that a new support needs no tests of its own: a classmethod
    `examples()` that returns instances, and, where `shape` differs from `unconstrained_shape`, a
    method `independent(x)`: the entries of x that the log-determinant is relative to.
    """

    shape: tuple[int, ...]
    """Shape of the constrained value."""

    @property
    @abc.abstractmethod
    def unconstrained_shape(self) -> tuple[int, ...]:
        """Shape of the unconstrained coordinates y."""

    @property
    @abc.abstractmethod
    def description(self) -> str:
        """The support in a few words for error messages, such as `positive, shape (3,)`."""

    @abc.abstractmethod
    def constrain(self, y: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, ""]]:
        """The value x of `shape` at y, and log |det dx/dy| summed over everything."""

    @abc.abstractmethod
    def unconstrain(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """The y with `constrain(y)[0] == x`; infinite or NaN for x outside or on the edge."""

    @abc.abstractmethod
    def contains(self, x: Float[Array, "..."]) -> Bool[Array, ""]:
        """Whether every entry of x lies in the support, up to rounding in equalities."""

    @property
    def size(self) -> int:
        """Number of unconstrained coordinates."""
        return math.prod(self.unconstrained_shape)


def as_shape(shape: ShapeLike, *, what: str = "shape") -> tuple[int, ...]:
    """A shape as a tuple of Python integers; `3` means `(3,)`."""
    try:
        lengths = tuple(shape) if isinstance(shape, Iterable) else (shape,)
        if any(isinstance(length, bool | str) for length in lengths):
            raise TypeError
        dims = tuple(operator.index(length) for length in lengths)
    except TypeError:
        raise TypeError(
            f"expected {what} as an integer or a tuple of integers; got {shape!r}; "
            f"try (3,) for a vector or () for a scalar"
        ) from None
    if any(dim < 0 for dim in dims):
        raise ValueError(
            f"expected {what} with lengths of 0 or more; got {dims}; try positive lengths"
        )
    if math.prod(dims) >= 2**31:
        raise ValueError(
            f"expected {what} of fewer than 2**31 numbers; got {dims}; try fewer parameters"
        )
    return dims


def as_event_shape(support: str, shape: ShapeLike, shortest: int) -> tuple[int, ...]:
    """A shape whose last axis is a vector of at least `shortest` entries."""
    dims = as_shape(shape)
    if not dims or dims[-1] < shortest:
        raise ValueError(
            f"expected {support} with a last axis of length {shortest} or more; got shape {dims}; "
            f"try {support}(({max(shortest, 3)},)), batch axes first"
        )
    return dims


def as_count(name: str, n: Any, smallest: int) -> int:
    """A number of rows as a Python integer of at least `smallest`."""
    dims = as_shape(n, what=name) if not isinstance(n, Iterable) else ()
    if not dims:
        raise TypeError(f"expected {name} as an integer; got {n!r}; try {name}=3")
    if dims[0] < smallest:
        raise ValueError(
            f"expected {name} of {smallest} or more; got {dims[0]}; try {name}={smallest + 1}"
        )
    return dims[0]


def _nested_tuple(values: Any) -> Any:
    return tuple(map(_nested_tuple, values)) if isinstance(values, list) else values


def as_bound(name: str, bound: BoundLike, shape: tuple[int, ...]) -> float | tuple[Any, ...]:
    """A finite bound, broadcastable to `shape`, as a float or nested tuples of floats."""
    try:
        is_key = isinstance(bound, jax.Array) and jnp.issubdtype(bound.dtype, jax.dtypes.prng_key)
        array = np.asarray(None if is_key else bound)
    except jax.errors.TracerArrayConversionError:
        raise TypeError(
            f"expected {name} as numbers known before tracing; got a traced array; try making the "
            f"support outside jit, or scale a Real or Positive parameter inside the log density"
        ) from None
    if array.dtype.kind not in "iuf":
        raise TypeError(f"expected {name} as real numbers; got {bound!r}; try a float")
    array = array.astype(np.float64)
    if not np.all(np.isfinite(array)):
        raise ValueError(
            f"expected a finite {name}; got {bound!r}; try Real, Positive, GreaterThan or LessThan "
            f"where a side is unbounded"
        )
    try:
        fits = np.broadcast_shapes(array.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"expected {name} to broadcast to shape {shape}; got {name} of shape {array.shape}; "
            f"try shape={array.shape}"
        )
    return float(array) if array.ndim == 0 else _nested_tuple(array.tolist())


def bound_array(bound: BoundLike, shape: tuple[int, ...], dtype: Any) -> Float[np.ndarray, "..."]:
    """A bound as a NumPy constant of `dtype`: a scalar, or an array of the rank of `shape`."""
    array = np.asarray(bound, dtype)
    return array.reshape((1,) * (len(shape) - array.ndim) + array.shape) if array.ndim else array


def next_above(bound: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """The smallest normal number above each bound (subnormals count as zero in XLA)."""
    tiny = jnp.finfo(bound.dtype).tiny
    above = np.nextafter(bound, np.array(np.inf, bound.dtype))
    return np.asarray(np.where(np.abs(above) < tiny, np.array(tiny, bound.dtype), above))


def next_below(bound: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """The largest normal number below each bound (subnormals count as zero in XLA)."""
    return np.asarray(-next_above(np.asarray(-bound)))


def describe_bound(bound: BoundLike) -> str:
    """A bound as text for error messages: the number of a scalar, words for an array."""
    return f"{bound:g}" if isinstance(bound, float) else "its bounds"


@jax.custom_jvp
def softplus(y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """log(1 + e^y) by one exponential; its derivative is the sigmoid, which callers need too."""
    return jnp.maximum(y, 0) + jnp.log1p(jnp.exp(-jnp.abs(y)))


@softplus.defjvp
def _softplus_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (y,), (y_dot,) = primals, tangents
    return softplus(y), jax.nn.sigmoid(y) * y_dot
