"""The target: a log density over a pytree of parameters, as a function of unconstrained z."""

import dataclasses
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import PyTreeDef
from jaxtyping import Array, Bool, Float

from jaxvi._arguments import check_field, one_of
from jaxvi._numerics import pytrees
from jaxvi._types import Data
from jaxvi.supports import Real, Support
from jaxvi.target._checks import (
    as_floats,
    as_support,
    check_arguments,
    check_data_leaf,
    check_engine_dtype,
    check_function,
    check_inside,
    check_value,
    common_dtype,
    explain,
    is_support_leaf,
)
from jaxvi.target._likelihood import (
    FactoredDensity,
    RowsStart,
    ScaledDensity,
    check_functions,
    check_shapes,
)


@dataclasses.dataclass(frozen=True)
class Target:
    r"""An unnormalised log density and the support of each of its parameters.

    The engine evaluates log p(x(z), data) + log |det dx/dz| on flat z of shape `(dim,)`, the parts
    of z in the order of the leaves (dictionary keys sorted, as in JAX).

    A target is static: frozen, hashable and equal by value (functions as the functions they are),
    and it holds no arrays. Data is an argument everywhere, so new data of the same shape
    recompiles nothing. A log density defined anew for each target (a lambda, a `functools.partial`)
    compares unequal and compiles again: define it once.

    Args:
        log_density: `log_density(params, data)`, or `log_density(params)` where no data is given;
            pure, of JAX operations, for one parameters' pytree, giving a scalar.
        log_prior, log_likelihood: in place of `log_density`, its two parts, `log_prior(params)`
            and `log_likelihood(params, data)`. All leaves of the data then have one row for each
            observation on their leading axis, and the log likelihood is a sum over rows: a value
            for each, of shape `(rows,)`, or their sum. That takes `jaxvi.Minibatch` and
            `jaxvi.Stream`; `jaxvi.fit` tests the sum on a few rows.
        likelihood: "rows" or "sum", which of the two it is; by default decided by its shape.
        supports: a `Support` or any pytree of them; NumPyro constraints serve too.
        start: a random start of the model's own, optional: `start(key, data)`, or `start(key)`
            without data, giving a parameters' pytree inside the supports.

    Raises:
        TypeError, ValueError: for errors that show without data; `check` finds the others.

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

    # Any, so that a wrong argument meets the checks below before a run-time type checker.
    log_density: Any = None
    supports: Any = dataclasses.field(default=None, compare=False)
    start: Any = None
    log_prior: Any = dataclasses.field(default=None, kw_only=True)
    log_likelihood: Any = dataclasses.field(default=None, kw_only=True)
    likelihood: Any = dataclasses.field(default=None, kw_only=True)
    leaves: tuple[Support, ...] = dataclasses.field(init=False, repr=False)
    treedef: PyTreeDef = dataclasses.field(init=False, repr=False)
    paths: tuple[str, ...] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_field(self, "likelihood", one_of, ("rows", "sum", None))
        if self.log_prior is not None or self.log_likelihood is not None:
            check_functions(self)
            factored = FactoredDensity(self.log_prior, self.log_likelihood)
            object.__setattr__(self, "log_density", factored)
        check_function("log_density", self.log_density)
        if self.start is not None:
            check_function("start", self.start)
        paths, raw, treedef = pytrees.flatten_with_paths(self.supports, is_leaf=is_support_leaf)
        leaves = tuple(
            as_support(f"supports{path}", leaf) for path, leaf in zip(paths, raw, strict=True)
        )
        if sum(leaf.size for leaf in leaves) == 0:
            raise ValueError(
                f"expected at least one parameter in supports; got {self.supports!r}; "
                f"try {{'mu': Real(), 'scale': Positive()}}"
            )
        object.__setattr__(self, "leaves", leaves)
        object.__setattr__(self, "treedef", treedef)
        object.__setattr__(self, "paths", paths)
        # a copy: the caller's dictionary may change later, a target may not
        object.__setattr__(self, "supports", treedef.unflatten(leaves))

    @property
    def dim(self) -> int:
        """Number of unconstrained coordinates."""
        return sum(leaf.size for leaf in self.leaves)

    @property
    def has_rows(self) -> bool:
        """Whether the log density is a log prior plus a sum over rows of data."""
        return self.log_likelihood is not None

    @property
    def scaled(self) -> "Target":
        """The target for data `(scale, rows)`: the log likelihood of some rows is scaled up."""
        start = None if self.start is None else RowsStart(self.start)
        density = ScaledDensity(self.log_prior, self.log_likelihood)
        return Target(density, self.supports, start)

    def constrain_and_log_det(self, z: Float[Array, " dim"]) -> tuple[Any, Float[Array, ""]]:
        """The parameters' pytree at z, and log |det J| summed over all leaves."""
        if z.shape != (self.dim,):
            raise ValueError(
                f"expected z of shape ({self.dim},); got {z.shape}; "
                f"try jax.vmap over the leading axes"
            )
        parts = pytrees.split(z, [leaf.unconstrained_shape for leaf in self.leaves])
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
                NaN, outside its support, or on its edge. Traced values can't be checked and pass.

        Example:
            >>> from jaxvi.supports import Positive
            >>> Target(jnp.log, Positive()).unconstrain(1.0)
            Array([0.], dtype=float32)
        """
        names = [f"params{path}" for path in self.paths]
        values = [
            as_floats(name, leaf, support)
            for name, leaf, support in zip(names, self._leaves_of(params), self.leaves, strict=True)
        ]
        dtype = common_dtype(dict(zip(names, values, strict=True))) if dtype is None else dtype
        parts = []
        for name, value, support in zip(names, values, self.leaves, strict=True):
            value = jnp.asarray(value, dtype)
            part = support.unconstrain(value)
            if not isinstance(part, jax.core.Tracer):
                check_inside(name, value, part, support)
            parts.append(part)
        return pytrees.join(parts)

    def draw_start(
        self, key: Array, data: Data = None, *, dtype: Any = None
    ) -> Float[Array, " dim"]:
        """One z from the model's own `start`, which must have been given."""
        if self.start is None:
            raise ValueError("expected a target with a start; got None; try Target(..., start=f)")
        return self.unconstrain(self._call(self.start, key, data), dtype=dtype)

    def coordinate_names(self) -> tuple[str, ...]:
        """A name for each coordinate of z, such as `mu[0, 1]`.

        Indices are those of the unconstrained coordinates, which for simplexes and matrices are
        fewer than the entries of the parameter.
        """
        names: list[str] = []
        for name, leaf in zip(pytrees.leaf_names(self.treedef), self.leaves, strict=True):
            names.extend(pytrees.element_names(name, leaf.unconstrained_shape))
        return tuple(names)

    def constrained_coordinates(self) -> Bool[np.ndarray, "dim"]:
        """Mask of the coordinates of z that belong to constrained parameters, such as scales."""
        each = [
            np.full(leaf.unconstrained_shape, not isinstance(leaf, Real)) for leaf in self.leaves
        ]
        return np.concatenate([part.ravel() for part in each])

    def parameter_names(self) -> tuple[str, ...]:
        """A name for each entry of the constrained parameters, leaves in order, row by row."""
        names: list[str] = []
        for name, leaf in zip(pytrees.leaf_names(self.treedef), self.leaves, strict=True):
            names.extend(pytrees.element_names(name, leaf.shape))
        return tuple(names)

    def dtype(self, data: Data = None) -> np.dtype:
        """The engine's dtype: that of data's floating arrays, else JAX's default float.

        Raises:
            TypeError: where data holds something other than arrays and numbers, mixes float32
                with float64, or is in half precision.
        """
        paths, leaves, _ = pytrees.flatten_with_paths(data)
        named = {f"data{path}": leaf for path, leaf in zip(paths, leaves, strict=True)}
        for name, leaf in named.items():
            check_data_leaf(name, leaf)
        return common_dtype(named)

    def check(self, data: Data = None, *, dtype: Any = None) -> np.dtype:
        """Checks target and data together on shapes alone, and returns the engine's dtype.

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
        dtype = found if dtype is None else check_engine_dtype(dtype)
        leaves, treedef = jax.tree.flatten(data)
        shapes = tuple(_abstract_leaf(leaf) for leaf in leaves)
        _check_shapes(self, treedef, shapes, dtype, jnp.result_type(float))
        return dtype

    def _check_shapes(self, data: Data, dtype: np.dtype) -> None:
        z = jax.ShapeDtypeStruct((self.dim,), dtype)
        params = jax.eval_shape(self.constrain, z)
        if self.has_rows:
            check_shapes(self, params, data, dtype)
        check_arguments("log_density", self.log_density, "params", data)
        try:
            value = jax.eval_shape(lambda p, d: self._call(self.log_density, p, d), params, data)
        except Exception as error:
            raise ValueError(explain(error, params, data)) from error
        check_value(value, dtype)
        if self.start is not None:
            check_arguments("start", self.start, "key", data)
            key = jax.eval_shape(jax.random.key, 0)
            jax.eval_shape(lambda k, d: self.draw_start(k, d, dtype=dtype), key, data)

    @staticmethod
    def _call(function: Callable[..., Any], first: Any, data: Data) -> Any:
        return function(first) if data is None else function(first, data)

    def _leaves_of(self, params: Any) -> list[Any]:
        try:
            return self.treedef.flatten_up_to(params)
        except (ValueError, TypeError, KeyError):
            pass
        # None is a leaf here, so that the error names the path of a forgotten value
        found, _, _ = pytrees.flatten_with_paths(params, is_leaf=lambda leaf: leaf is None)
        missing = [path for path in self.paths if path not in found]
        extra = [path for path in found if path not in self.paths]
        details = [f"without {', '.join(missing)}"] if missing else []
        details += [f"with the unexpected {', '.join(extra)}"] if extra else []
        raise ValueError(
            f"expected params with the supports' structure {self.treedef}; got "
            f"{' and '.join(details) or jax.tree.structure(params)}; "
            f"try one value per support, in the same containers"
        )


@lru_cache(maxsize=16)
def _check_shapes(
    target: Target, treedef: Any, leaves: tuple[Any, ...], dtype: np.dtype, _wide: np.dtype
) -> None:
    """Checks by tracing, cached by structure, shapes and dtypes: a trace takes milliseconds."""
    target._check_shapes(treedef.unflatten(leaves), dtype)


def _abstract_leaf(leaf: Any) -> Any:
    """Shape and JAX dtype of an array; a Python number is returned unchanged."""
    if not hasattr(leaf, "shape"):
        return leaf
    plain = not jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
    dtype = jax.dtypes.canonicalize_dtype(leaf.dtype) if plain else leaf.dtype
    return jax.ShapeDtypeStruct(leaf.shape, dtype)
