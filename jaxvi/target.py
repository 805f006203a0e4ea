"""A log density over a pytree of parameters, seen by the engine on flat unconstrained vectors."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import PyTreeDef
from jaxtyping import Array, Float

from jaxvi import _tree
from jaxvi._types import Data
from jaxvi.supports import NumPyro, Support
from jaxvi.supports._numpyro import is_numpyro_constraint

_ENGINE_DTYPES = ("float32", "float64")
_SHAPE_WORDS = ("shape", "broadcast", "dimension", "dot_general", "concatenate", "rank")
# What JAX raises where a traced value is needed as a number.
_VALUE_ERRORS = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


@dataclasses.dataclass(frozen=True)
class Target:
    r"""An unnormalised log density and where each of its parameters lives.

    The engine sees log p(x(z), data) + log |det dx/dz| on flat z of shape `(dim,)`, the parts of z
    in the order of the leaves (dictionary keys sorted, as in JAX).

    A target is static: frozen, hashable and equal by value (functions as the functions they are),
    and it holds no arrays. Data is an argument everywhere, so new data of the same shape
    recompiles nothing. A log density made anew for each target (a lambda, a `functools.partial`)
    compares unequal and compiles again: define it once.

    Args:
        log_density: `log_density(params, data)`, or `log_density(params)` where no data is given;
            pure, of JAX operations, for one parameters' pytree, giving a scalar.
        supports: a `Support` or any pytree of them; NumPyro constraints serve too.
        start: a random start of the model's own, optional: `start(key, data)`, or `start(key)`
            without data, giving a parameters' pytree inside the supports.

    Raises:
        TypeError, ValueError: for what can be told without data; `check` tells the rest.

    Example:
        >>> from jaxvi.supports import Positive, Real
        >>> def log_density(params, data):
        ...     scaled = (data - params["mu"]) / params["scale"]
        ...     return -0.5 * jnp.sum(scaled**2) - data.size * jnp.log(params["scale"])
        >>> target = Target(log_density, {"mu": Real(), "scale": Positive()})
        >>> target.dim, target.coordinate_names()
        (2, ('mu', 'scale'))
        >>> target.log_prob(jnp.zeros(2), jnp.array([1.0, -1.0]))
        Array(-1., dtype=float32)
    """

    # Any, so that a wrong argument meets the sentences below and no run-time type checker first.
    log_density: Any
    supports: Any = dataclasses.field(compare=False)
    start: Any = None
    leaves: tuple[Support, ...] = dataclasses.field(init=False, repr=False)
    treedef: PyTreeDef = dataclasses.field(init=False, repr=False)
    paths: tuple[str, ...] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_function("log_density", self.log_density)
        if self.start is not None:
            _check_function("start", self.start)
        paths, raw, treedef = _tree.flatten_with_paths(self.supports, is_leaf=_is_support_leaf)
        leaves = tuple(
            _as_support(f"supports{path}", leaf) for path, leaf in zip(paths, raw, strict=True)
        )
        if sum(leaf.size for leaf in leaves) == 0:
            raise ValueError(
                f"expected at least one parameter in supports; got {self.supports!r}; "
                f"try {{'mu': Real(), 'scale': Positive()}}"
            )
        object.__setattr__(self, "leaves", leaves)
        object.__setattr__(self, "treedef", treedef)
        object.__setattr__(self, "paths", paths)
        # A copy of our own: the caller's dictionary may change later, a target may not.
        object.__setattr__(self, "supports", treedef.unflatten(leaves))

    @property
    def dim(self) -> int:
        """Number of unconstrained coordinates."""
        return sum(leaf.size for leaf in self.leaves)

    def constrain_and_log_det(self, z: Float[Array, " dim"]) -> tuple[Any, Float[Array, ""]]:
        """The parameters' pytree at z, and log |det J| summed over all leaves."""
        if z.shape != (self.dim,):
            raise ValueError(
                f"expected z of shape ({self.dim},); got {z.shape}; "
                f"try jax.vmap over the leading axes"
            )
        parts = _tree.split(z, [leaf.unconstrained_shape for leaf in self.leaves])
        pairs = [leaf.constrain(part) for leaf, part in zip(self.leaves, parts, strict=True)]
        log_det = jnp.sum(jnp.stack([log_det for _, log_det in pairs]))
        return self.treedef.unflatten([value for value, _ in pairs]), log_det

    def constrain(self, z: Float[Array, " dim"]) -> Any:
        """The parameters' pytree at one z; `jax.vmap(target.constrain)` for many."""
        return self.constrain_and_log_det(z)[0]

    def log_prob(self, z: Float[Array, " dim"], data: Data = None) -> Float[Array, ""]:
        """log density(x(z), data) + log |det dx/dz|, in nats. Pure; costs one log density."""
        params, log_det = self.constrain_and_log_det(z)
        return self._call(self.log_density, params, data) + log_det

    def unconstrain(self, params: Any, *, dtype: Any = None) -> Float[Array, " dim"]:
        """The z at a parameters' pytree, with its structure, shapes, dtypes and values checked.

        Args:
            params: one value per support. Python floats and nested lists of them serve too.
            dtype: dtype of z; by default that of the arrays in `params`, or JAX's default float.

        Raises:
            TypeError: where values are not real floating-point numbers, or their dtypes differ.
            ValueError: where the structure or a shape differs from the supports', or a value is
                NaN, outside its support, or on its edge. Traced values can't be looked at and pass.

        Example:
            >>> from jaxvi.supports import Positive
            >>> Target(jnp.log, Positive()).unconstrain(1.0)
            Array([0.], dtype=float32)
        """
        names = [f"params{path}" for path in self.paths]
        values = [
            _as_floats(name, leaf, support)
            for name, leaf, support in zip(names, self._leaves_of(params), self.leaves, strict=True)
        ]
        dtype = _common_dtype(dict(zip(names, values, strict=True))) if dtype is None else dtype
        parts = []
        for name, value, support in zip(names, values, self.leaves, strict=True):
            value = jnp.asarray(value, dtype)
            part = support.unconstrain(value)
            if not isinstance(part, jax.core.Tracer):
                _check_inside(name, value, part, support)
            parts.append(part)
        return _tree.join(parts)

    def draw_start(
        self, key: Array, data: Data = None, *, dtype: Any = None
    ) -> Float[Array, " dim"]:
        """One z from the model's own `start`, which must have been given."""
        if self.start is None:
            raise ValueError("expected a target with a start; got None; try Target(..., start=f)")
        return self.unconstrain(self._call(self.start, key, data), dtype=dtype)

    def coordinate_names(self) -> tuple[str, ...]:
        """A name for each coordinate of z, such as `mu[0, 1]`.

        Indices are those of the free coordinates, which for simplexes and matrices are fewer than
        the entries of the parameter.
        """
        names: list[str] = []
        for name, leaf in zip(_tree.leaf_names(self.treedef), self.leaves, strict=True):
            names.extend(_tree.element_names(name, leaf.unconstrained_shape))
        return tuple(names)

    def parameter_names(self) -> tuple[str, ...]:
        """A name for each entry of the constrained parameters, leaves in order, row by row."""
        names: list[str] = []
        for name, leaf in zip(_tree.leaf_names(self.treedef), self.leaves, strict=True):
            names.extend(_tree.element_names(name, leaf.shape))
        return tuple(names)

    def dtype(self, data: Data = None) -> np.dtype:
        """The engine's dtype: that of data's floating arrays, else JAX's default float.

        Raises:
            TypeError: where data holds something other than arrays and numbers, mixes float32
                with float64, or is in half precision.
        """
        paths, leaves, _ = _tree.flatten_with_paths(data)
        named = {f"data{path}": leaf for path, leaf in zip(paths, leaves, strict=True)}
        for name, leaf in named.items():
            _check_data_leaf(name, leaf)
        return _common_dtype(named)

    def check(self, data: Data = None, *, dtype: Any = None) -> np.dtype:
        """Checks target and data together on shapes alone, and gives the engine's dtype.

        Traces the log density once with `jax.eval_shape`: nothing is compiled or computed, so
        whether its values are finite stays open.

        Args:
            data: as it will be given to `log_prob`.
            dtype: dtype of z, if other than `dtype(data)`.

        Raises:
            TypeError: for a wrong number of arguments, data that are not arrays, or a result that
                is not a scalar of z's dtype.
            ValueError: for a result that is not a scalar, or a log density that raises.
        """
        found = self.dtype(data)
        dtype = found if dtype is None else _check_engine_dtype(dtype)
        _check_arguments("log_density", self.log_density, "params", data)
        z = jax.ShapeDtypeStruct((self.dim,), dtype)
        params = jax.eval_shape(self.constrain, z)
        try:
            value = jax.eval_shape(lambda p, d: self._call(self.log_density, p, d), params, data)
        except Exception as error:
            raise ValueError(_explain(error, params, data)) from error
        _check_value(value, dtype)
        if self.start is not None:
            _check_arguments("start", self.start, "key", data)
            key = jax.eval_shape(jax.random.key, 0)
            jax.eval_shape(lambda k, d: self.draw_start(k, d, dtype=dtype), key, data)
        return dtype

    @staticmethod
    def _call(function: Callable[..., Any], first: Any, data: Data) -> Any:
        return function(first) if data is None else function(first, data)

    def _leaves_of(self, params: Any) -> list[Any]:
        try:
            return self.treedef.flatten_up_to(params)
        except (ValueError, TypeError, KeyError):
            pass
        # None is a leaf here, so that a forgotten value shows by its path.
        found, _, _ = _tree.flatten_with_paths(params, is_leaf=lambda leaf: leaf is None)
        missing = [path for path in self.paths if path not in found]
        extra = [path for path in found if path not in self.paths]
        details = [f"without {', '.join(missing)}"] if missing else []
        details += [f"with the unexpected {', '.join(extra)}"] if extra else []
        raise ValueError(
            f"expected params with the supports' structure {self.treedef}; got "
            f"{' and '.join(details) or jax.tree.structure(params)}; "
            f"try one value per support, in the same containers"
        )


def _is_support_leaf(leaf: Any) -> bool:
    # None too, which JAX would drop from the tree without a word.
    return leaf is None or isinstance(leaf, Support) or is_numpyro_constraint(leaf)


def _as_support(name: str, leaf: Any) -> Support:
    if isinstance(leaf, Support):
        return leaf
    if is_numpyro_constraint(leaf):
        try:
            return NumPyro(leaf)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    hint = f"{leaf.__name__}(shape)" if isinstance(leaf, type) else "Real(shape)"
    raise TypeError(f"expected a Support at {name}; got {leaf!r}; try {hint} of jaxvi.supports")


def _check_function(name: str, function: Any) -> None:
    if not callable(function):
        raise TypeError(
            f"expected {name} as a function; got {type(function).__name__}; "
            f"try Target(log_density, supports)"
        )
    try:
        hash(function)
    except TypeError:
        raise TypeError(
            f"expected {name} as a hashable function; got an unhashable "
            f"{type(function).__name__}; try a plain function, with arrays passed as data"
        ) from None


def _check_arguments(name: str, function: Callable[..., Any], first: str, data: Data) -> None:
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


def _check_data_leaf(name: str, leaf: Any) -> None:
    is_number = isinstance(leaf, bool | int | float | complex) or _is_array(leaf)
    kind = getattr(getattr(leaf, "dtype", None), "kind", "")
    if not is_number or (kind and kind in "OSUMmT"):
        raise TypeError(
            f"expected arrays of numbers in data; got {_tree.describe_leaf(leaf)} at {name}; "
            f"try numpy.asarray(..., dtype=float), or coding categories as integers"
        )


def _check_engine_dtype(dtype: Any) -> np.dtype:
    wanted = np.dtype(dtype)
    if wanted.name not in _ENGINE_DTYPES:
        raise TypeError(f"expected float32 or float64; got {wanted}; try dtype='float32'")
    if jax.dtypes.canonicalize_dtype(wanted) != wanted:
        raise TypeError(f"expected float32; got {wanted}; try inside jax.enable_x64(True)")
    return wanted


def _common_dtype(named: dict[str, Any]) -> np.dtype:
    """The one floating dtype of all arrays; Python numbers, being weakly typed, have no say."""
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
    """An array of a leaf's values, or of None where there is no such array."""
    if _is_array(leaf):
        return leaf
    traced = any(isinstance(part, jax.core.Tracer) for part in jax.tree.leaves(leaf))
    try:
        return jnp.asarray(leaf) if traced else np.asarray(leaf)
    except (ValueError, TypeError):
        return np.asarray(None)


def _as_floats(name: str, leaf: Any, support: Support) -> Any:
    """A parameter's value, its dtype and shape checked: an array, or Python floats as they are."""
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
    # Python floats have no say in the dtype, as in JAX.
    return array if _is_array(leaf) or isinstance(array, jax.Array) else array.tolist()


def _check_inside(name: str, value: Array, part: Array, support: Support) -> None:
    if bool(jnp.any(jnp.isnan(value))):
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


def _check_value(value: Any, dtype: np.dtype) -> None:
    """The log density's result is one floating scalar in the dtype of z."""
    if value is None:
        raise TypeError("expected log_density to give a scalar; got None; try adding a return")
    if not isinstance(value, jax.ShapeDtypeStruct):
        raise TypeError(
            f"expected log_density to give a scalar; got {_tree.describe(value)} in a "
            f"{type(value).__name__}; try returning the sum of its log probabilities alone"
        )
    if value.shape != ():
        raise ValueError(
            f"expected log_density to give a scalar; got shape {value.shape}; "
            f"try jnp.sum over its log probabilities"
        )
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(
            f"expected log_density to give a real floating-point scalar; got {value.dtype}; "
            f"try computing it from the parameters as floats"
        )
    if value.dtype != dtype and not value.weak_type:
        raise TypeError(
            f"expected log_density to give {dtype}, the dtype of z; got {value.dtype}; try data "
            f"and constants all in one dtype: pass arrays that it closes over as data, or cast "
            f"them to that of the parameters"
        )


def _explain(error: Exception, params: Any, data: Data) -> str:
    message = str(error).strip().splitlines()
    first = message[0] if message else ""
    with_data = "no data" if data is None else f"data {_tree.describe(data)}"
    if isinstance(error, _VALUE_ERRORS):
        hint = "jnp.where in place of if, and jax.numpy in place of numpy, float() and int()"
    elif isinstance(error, jax.errors.NonConcreteBooleanIndexError):
        hint = "jnp.where in place of indexing with a mask"
    elif isinstance(error, ValueError | TypeError) and any(
        word in str(error).lower() for word in _SHAPE_WORDS
    ):
        hint = "transposing or reshaping: the data may be on the wrong axis"
    else:
        hint = "calling log_density by hand on one parameters' pytree of these shapes"
    return (
        f"expected log_density to run on abstract arrays; got {type(error).__name__} with params "
        f"{_tree.describe(params)} and {with_data}: {first}; try {hint}"
    )
