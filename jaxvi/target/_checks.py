"""Validation of a target, its data and its parameters, with errors that name a remedy."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxvi._numerics import pytrees
from jaxvi._types import Data
from jaxvi.supports import NumPyro, Support, is_numpyro_constraint

_ENGINE_DTYPES = ("float32", "float64")
_SHAPE_WORDS = ("shape", "broadcast", "dimension", "dot_general", "concatenate", "rank")
# JAX raises these where a traced value is used as a number.
_VALUE_ERRORS = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


def is_support_leaf(leaf: Any) -> bool:
    # None too, which JAX would drop from the tree without an error
    return leaf is None or isinstance(leaf, Support) or is_numpyro_constraint(leaf)


def as_support(name: str, leaf: Any) -> Support:
    if isinstance(leaf, Support):
        return leaf
    if is_numpyro_constraint(leaf):
        try:
            return NumPyro(leaf)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    hint = f"{leaf.__name__}(shape)" if isinstance(leaf, type) else "Real(shape)"
    raise TypeError(f"expected a Support at {name}; got {leaf!r}; try {hint} of jaxvi.supports")


def check_function(name: str, function: Any) -> None:
    if not callable(function):
        raise TypeError(
            f"expected {name} as a function; got {type(function).__name__}; "
            f"try Target(log_density, supports), or log_prior= and log_likelihood="
        )
    try:
        hash(function)
    except TypeError:
        raise TypeError(
            f"expected {name} as a hashable function; got an unhashable "
            f"{type(function).__name__}; try a plain function, with arrays passed as data"
        ) from None


def check_arguments(name: str, function: Callable[..., Any], first: str, data: Data) -> None:
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # builtins have none
        return
    arguments = (first,) if data is None else (first, "data")
    try:
        signature.bind(*arguments)
    except TypeError:
        given = "without data" if data is None else "with data"
        remedy = "passing data=" if data is None else "a second argument for the data"
        raise TypeError(
            f"expected {name}({', '.join(arguments)}), being called {given}; got a function of "
            f"{signature}; try {remedy}, or calling it the other way"
        ) from None


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray | np.generic | jax.Array | jax.ShapeDtypeStruct)


def check_data_leaf(name: str, leaf: Any) -> None:
    is_number = isinstance(leaf, bool | int | float | complex) or _is_array(leaf)
    kind = getattr(getattr(leaf, "dtype", None), "kind", "")
    if not is_number or (kind and kind in "OSUMmT"):
        raise TypeError(
            f"expected arrays of numbers in data; got {pytrees.describe_leaf(leaf)} at {name}; "
            f"try numpy.asarray(..., dtype=float), or coding categories as integers"
        )
    if isinstance(leaf, np.ndarray | np.generic) and not leaf.dtype.isnative:  # FITS files
        raise TypeError(
            f"expected arrays in this machine's byte order; got {leaf.dtype.str} at {name}; "
            f"try .astype({leaf.dtype.newbyteorder('=').name!r})"
        )
    if kind in ("f", "c") and leaf.dtype.itemsize > {"f": 8, "c": 16}[kind]:
        raise TypeError(f"expected at most 64 bits a number; got {leaf.dtype} at {name}; try float")


def check_engine_dtype(dtype: Any) -> np.dtype:
    wanted = np.dtype(dtype)
    if wanted.name not in _ENGINE_DTYPES:
        raise TypeError(f"expected float32 or float64; got {wanted}; try dtype='float32'")
    if jax.dtypes.canonicalize_dtype(wanted) != wanted:
        raise TypeError(f"expected float32; got {wanted}; try inside jax.enable_x64(True)")
    return wanted


def common_dtype(named: dict[str, Any]) -> np.dtype:
    """The floating dtype that all arrays share; Python numbers are weakly typed and don't count."""
    seen: dict[np.dtype, str] = {}
    for name, leaf in named.items():
        if _is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating):
            dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
            if dtype.name not in _ENGINE_DTYPES:
                raise TypeError(
                    f"expected float32 or float64 at {name}; got {dtype}; try .astype('float32')"
                )
            seen.setdefault(dtype, name)
    if len(seen) > 1:
        found = " and ".join(f"{dtype} at {name}" for dtype, name in seen.items())
        raise TypeError(
            f"expected one floating dtype; got {found}; "
            f"try .astype('float64') on all, or 'float32' on all"
        )
    return next(iter(seen), jax.dtypes.canonicalize_dtype(float))


def _to_array(leaf: Any) -> Any:
    """An array of a leaf's values, or of None if they make no array."""
    if _is_array(leaf):
        return leaf
    traced = any(isinstance(part, jax.core.Tracer) for part in jax.tree.leaves(leaf))
    try:
        return jnp.asarray(leaf) if traced else np.asarray(leaf)
    except (ValueError, TypeError):
        return np.asarray(None)


def as_floats(name: str, leaf: Any, support: Support) -> Any:
    """A parameter's value after checks of dtype and shape: an array, or unchanged Python floats."""
    array = _to_array(leaf)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        got = "integers" if jnp.issubdtype(array.dtype, jnp.integer) else str(array.dtype)
        raise TypeError(
            f"expected floating-point numbers at {name} ({support.description}); got {got}; "
            f"try float values such as 1.0, or .astype(float)"
        )
    if array.shape != support.shape:
        raise ValueError(
            f"expected shape {support.shape} at {name} ({support.description}); got shape "
            f"{array.shape}; try reshaping it, or another shape in its support"
        )
    # Python floats do not determine the dtype, as in JAX
    return array if _is_array(leaf) or isinstance(array, jax.Array) else array.tolist()


def check_inside(name: str, value: Array, part: Array, support: Support) -> None:
    has_nan = jnp.any(jnp.isnan(value))
    if isinstance(has_nan, jax.core.Tracer):  # so are constants, in a program that is traced
        return
    if bool(has_nan):
        found = "NaN"
    elif not bool(support.contains(value)):
        found = "values outside it"
    elif not bool(jnp.all(jnp.isfinite(part))):
        found = "values on its edge, or too near it for their dtype"
    else:
        return
    raise ValueError(
        f"expected {name} inside its support ({support.description}); got {found}: "
        f"{np.array2string(np.asarray(value), threshold=8, precision=4)}; try values well inside"
    )


def check_value(value: Any, dtype: np.dtype, name: str = "log_density") -> None:
    """Checks that a function's result is one floating scalar in the dtype of z."""
    if value is None:
        raise TypeError(f"expected {name} to give a scalar; got None; try adding a return")
    if not isinstance(value, jax.ShapeDtypeStruct):
        raise TypeError(
            f"expected {name} to give a scalar; got {pytrees.describe(value)} in a "
            f"{type(value).__name__}; try returning the sum of its log probabilities alone"
        )
    if value.shape != ():
        raise ValueError(
            f"expected {name} to give a scalar; got shape {value.shape}; "
            f"try jnp.sum over its log probabilities"
        )
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(
            f"expected {name} to give a real floating-point scalar; got {value.dtype}; "
            f"try computing it from the parameters as floats"
        )
    if value.dtype != dtype and not value.weak_type:
        raise TypeError(
            f"expected {name} to give {dtype}, the dtype of z; got {value.dtype}; try data "
            f"and constants all in one dtype: pass arrays that it closes over as data, or cast "
            f"them to that of the parameters"
        )


def explain(error: Exception, params: Any, data: Data, name: str = "log_density") -> str:
    message = str(error).strip().splitlines()
    first = message[0] if message else ""
    with_data = "no data" if data is None else f"data {pytrees.describe(data)}"
    if isinstance(error, _VALUE_ERRORS):
        hint = "jnp.where in place of if, and jax.numpy in place of numpy, float() and int()"
    elif isinstance(error, jax.errors.NonConcreteBooleanIndexError):
        hint = "jnp.where in place of indexing with a mask"
    elif isinstance(error, ValueError | TypeError) and any(
        word in str(error).lower() for word in _SHAPE_WORDS
    ):
        hint = "transposing or reshaping: the data may be on the wrong axis"
    else:
        hint = f"calling {name} by hand on one parameters' pytree of these shapes"
    return (
        f"expected {name} to run on abstract arrays; got {type(error).__name__} with params "
        f"{pytrees.describe(params)} and {with_data}: {first}; try {hint}"
    )
