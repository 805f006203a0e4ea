"""Support of any NumPyro constraint, by NumPyro's own transform."""

import dataclasses
import importlib
import math
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxvi.supports._base import ShapeLike, Support, as_shape


def _distributions() -> Any:
    try:
        return importlib.import_module("numpyro.distributions")
    except ImportError:
        raise ImportError(
            "expected NumPyro for supports.NumPyro; it is not installed; "
            "try pip install 'jaxvi[numpyro]'"
        ) from None


def is_numpyro_constraint(leaf: Any) -> bool:
    """Whether a leaf is a NumPyro constraint, without importing NumPyro."""
    # whoever made a constraint has imported NumPyro
    module = sys.modules.get("numpyro.distributions.constraints")
    return module is not None and isinstance(leaf, module.Constraint)


def _value_key(value: Any) -> Any:
    """A hashable stand-in that is equal when constraints (or their bounds) are equal by value."""
    if is_numpyro_constraint(value):
        children, (_, options) = value.tree_flatten()
        named = tuple((name, _value_key(options[name])) for name in sorted(options))
        return (type(value), tuple(map(_value_key, children)), named)
    if isinstance(value, tuple | list):
        return tuple(map(_value_key, value))
    if isinstance(value, bool | int | float | np.ndarray | np.generic | jax.Array):
        array = np.asarray(value)
        return (array.shape, tuple(array.ravel().tolist()))
    return value


@dataclasses.dataclass(frozen=True)
class NumPyro(Support):
    """A NumPyro constraint, with NumPyro's own transform and log-determinant for it.

    The transform is `numpyro.distributions.biject_to(constraint)`, with its numerics and
    conventions. Prefer this package's own support where there is one.

    Args:
        constraint: from `numpyro.distributions.constraints`, continuous.
        shape: shape of the parameter, at least `constraint.event_dim` axes.

    Example:
        >>> import numpyro.distributions.constraints as constraints
        >>> NumPyro(constraints.unit_interval, (3,)).size
        3
    """

    constraint: Any = dataclasses.field(compare=False)
    shape: ShapeLike = ()
    key: Any = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        distributions = _distributions()
        object.__setattr__(self, "shape", as_shape(self.shape))
        if not isinstance(self.constraint, distributions.constraints.Constraint):
            raise TypeError(
                f"expected a constraint from numpyro.distributions.constraints; got "
                f"{self.constraint!r}; try jaxvi's supports directly, such as Positive((3,))"
            )
        try:
            object.__setattr__(self, "key", _value_key(self.constraint))
            discrete, event_dim = self.constraint.is_discrete, self.constraint.event_dim
            transform = distributions.biject_to(self.constraint)
        except (NotImplementedError, jax.errors.TracerArrayConversionError) as error:
            raise ValueError(
                f"expected a constraint with fixed bounds that NumPyro's biject_to knows; got "
                f"{self.constraint!r}; try a support of jaxvi's own"
            ) from error
        if discrete:
            raise ValueError(
                f"expected a continuous constraint; got the discrete {self.constraint!r}; "
                f"try summing the discrete parameter out of the log density"
            )
        if len(self.shape) < event_dim:
            raise ValueError(
                f"expected a shape with at least {event_dim} axes for {self.constraint!r}; got "
                f"{self.shape}; try jaxvi.supports.NumPyro(constraint, shape)"
            )
        self._check_shapes(transform)

    def _check_shapes(self, transform: Any) -> None:
        free = jax.ShapeDtypeStruct(transform.inverse_shape(self.shape), jnp.float32)
        with jax.numpy_rank_promotion("allow"):
            made = jax.eval_shape(transform, free).shape
        if made != self.shape:
            raise ValueError(
                f"expected {self.constraint!r} to give values of shape {self.shape}; got "
                f"{made}; try jaxvi.supports.NumPyro(constraint, {made})"
            )

    @classmethod
    def examples(cls) -> tuple["NumPyro", ...]:
        constraints = _distributions().constraints
        bounds = constraints.interval(np.array([-1.0, 0.0]), np.array([2.0, 0.5]))
        return (
            cls(constraints.softplus_positive, (2, 3)),
            cls(constraints.independent(bounds, 1), (2,)),
            cls(constraints.real_vector, (2, 3)),
        )

    @property
    def _transform(self) -> Any:
        return _distributions().biject_to(self.constraint)

    @property
    def unconstrained_shape(self) -> tuple[int, ...]:
        return tuple(self._transform.inverse_shape(self.shape))

    @property
    def description(self) -> str:
        return f"{self.constraint!r} of NumPyro, shape {self.shape}"

    def constrain(self, y: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, ""]]:
        transform = self._transform
        # NumPyro broadcasts ranks freely; the caller may have made that an error.
        with jax.numpy_rank_promotion("allow"):
            x, intermediates = transform.call_with_intermediates(y)
            log_det = transform.log_abs_det_jacobian(y, x, intermediates)
        # a constraint may hold float64 bounds; results have y's dtype
        return x.astype(y.dtype), jnp.sum(log_det).astype(y.dtype)

    def unconstrain(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        with jax.numpy_rank_promotion("allow"):
            return self._transform.inv(x).astype(x.dtype)

    def independent(self, x: Float[Array, "..."]) -> Float[Array, " size"]:
        if math.prod(self.shape) != self.size:
            raise ValueError(
                "expected a constraint with as many unconstrained coordinates as entries; got "
                f"{self.description}; try one of jaxvi's own supports"
            )
        return jnp.ravel(x)

    def contains(self, x: Float[Array, "..."]) -> Bool[Array, ""]:
        with jax.numpy_rank_promotion("allow"):
            return jnp.all(jnp.asarray(self.constraint(x)))
