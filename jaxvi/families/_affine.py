"""Interface of bijectors of R^dim, and the affine bijector with triangular or diagonal matrix."""

import abc
import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float, Key

from jaxvi._arguments import check_field, flag, number, one_of
from jaxvi._types import Scalar
from jaxvi.families._base import marginal_scales, start_or_normal
from jaxvi.families._fixed_array import FixedArray
from jaxvi.families._full_rank import cholesky_factor, split_factor


class AffineParams(NamedTuple):
    """Parameters of z = m + L x: the shift m, log-diagonal and strictly lower part of L.

    `lower` has no rows where L is diagonal; elsewhere only what lies strictly below the diagonal
    is read.
    """

    loc: Float[Array, "dim"]
    log_diag: Float[Array, "dim"]
    lower: Float[Array, "rows dim"]


def affine_forward(params: AffineParams, x: Float[Array, "dim"]) -> Float[Array, "dim"]:
    """The affine map z = m + L x."""
    if params.lower.shape[0] == 0:
        return params.loc + jnp.exp(params.log_diag) * x
    factor = cholesky_factor(params.log_diag, params.lower)
    # at full precision: accelerators would round float32 to fewer bits, and the inverse would not
    return params.loc + jnp.matmul(factor, x, precision=lax.Precision.HIGHEST)


def affine_inverse(params: AffineParams, z: Float[Array, "dim"]) -> Float[Array, "dim"]:
    """The inverse affine map x = L^-1 (z - m)."""
    if params.lower.shape[0] == 0:
        return (z - params.loc) * jnp.exp(-params.log_diag)
    factor = cholesky_factor(params.log_diag, params.lower)
    return solve_triangular(factor, z - params.loc, lower=True)


def affine_of_gaussian(
    loc: Float[Array, "dim"], scale_tril: Float[Array, "dim dim"], structure: str
) -> AffineParams:
    """Parameters of the map from N(0, I) to N(loc, L L^T), or to its marginals if diagonal."""
    if structure == "diagonal":
        log_diag = jnp.log(marginal_scales(scale_tril))
        return AffineParams(loc, log_diag, jnp.zeros((0, loc.size), loc.dtype))
    return AffineParams(loc, *split_factor(scale_tril))


def affine_at(loc: Float[Array, "dim"], scale: float, structure: str) -> AffineParams:
    """Parameters of the map z = loc + scale x."""
    rows = 0 if structure == "diagonal" else loc.size
    log_diag = jnp.full_like(loc, math.log(scale))
    return AffineParams(loc, log_diag, jnp.zeros((rows, loc.size), loc.dtype))


STRUCTURES = ("full", "diagonal")  # of the matrix L


class Bijector(abc.ABC):
    """An invertible smooth map of R^dim onto itself, with parameters: z = f(x).

    A frozen dataclass of plain values, like a family. Its parameters, made by `init`, are a
    NamedTuple of arrays (or any pytree of them).
    """

    @abc.abstractmethod
    def init(
        self, key: Key[Array, ""], dim: int, *, start: Float[Array, "dim"] | None = None
    ) -> Any:
        """Initial parameters; the map may shift the origin to `start`."""

    @abc.abstractmethod
    def forward(self, params: Any, x: Float[Array, "dim"]) -> tuple[Float[Array, "dim"], Scalar]:
        """The image z = f(x) with its log-determinant: `(z, log |det dz/dx|)`."""

    @abc.abstractmethod
    def inverse(self, params: Any, z: Float[Array, "dim"]) -> tuple[Float[Array, "dim"], Scalar]:
        """The preimage x of z = f(x) with its log-determinant: `(x, log |det dx/dz|)`."""


@runtime_checkable
class HasAffineForm(Protocol):
    """A bijector z = m + L x with lower triangular L, which maps Gaussians to Gaussians."""

    def affine(self, params: Any) -> AffineParams:
        """The shift m and the factor L."""

    def init_gaussian(self, loc: Float[Array, "dim"], scale_tril: Float[Array, "dim dim"]) -> Any:
        """Parameters that map N(0, I) to N(loc, L L^T), or as near to it as the map allows."""


@dataclass(frozen=True, kw_only=True)
class Affine(Bijector):
    r"""The affine bijector z = m + L x with a lower triangular or diagonal L.

    m and L are values in phi, so that whitening differs from a learned map only in `learned`.
    They are `loc` and `scale_tril` if given, else those of a Gaussian (`init_gaussian`), else the
    start and a multiple of the identity. O(dim^2) a draw, or O(dim) where diagonal.

    Args:
        learned: whether m and L are learned; otherwise no gradient reaches them.
        structure: "full" or "diagonal".
        init_scale: L is this times the identity if neither scale_tril nor a Gaussian is given.
        loc: m, shape (dim,); None leaves it to `init` or `init_gaussian`.
        scale_tril: L, shape (dim, dim), lower triangular with a positive diagonal; None leaves it
            to `init` or `init_gaussian`.

    Raises:
        ValueError: unknown structure, init_scale not above 0, or loc and scale_tril that are not
            of these shapes, not finite or have no positive diagonal.

    Example:
        >>> white = jaxvi.families.Affine(scale_tril=[[2.0, 0.0], [0.3, 0.5]])
        >>> z, log_det = white.forward(white.init(key, 2, start=jnp.zeros(2)), jnp.ones(2))
    """

    learned: bool = False
    structure: Literal["full", "diagonal"] = "full"
    init_scale: float = 1.0
    loc: Any = None  # kept as a FixedArray
    scale_tril: Any = None

    def __post_init__(self) -> None:
        check_field(self, "structure", one_of, STRUCTURES)
        check_field(self, "init_scale", number, above=0.0)
        check_field(self, "learned", flag)
        for name in ("loc", "scale_tril"):
            given = getattr(self, name)
            if given is not None:
                object.__setattr__(self, name, FixedArray(given))
        self._check_shapes()

    def _check_shapes(self) -> None:
        shapes = [given.shape for given in (self.loc, self.scale_tril) if given is not None]
        dims = {dim for shape in shapes for dim in shape}
        ranks = (self.loc is None or len(self.loc.shape) == 1) and (
            self.scale_tril is None or len(self.scale_tril.shape) == 2
        )
        if not ranks or len(dims) > 1:
            raise ValueError(
                "Affine: expected loc of shape (dim,) and scale_tril of shape (dim, dim); got "
                f"{' and '.join(map(str, shapes))}."
            )
        if self.scale_tril is not None and not (self.scale_tril.as_numpy().diagonal() > 0).all():
            raise ValueError(
                "Affine: expected a scale_tril with a positive diagonal; got "
                f"{self.scale_tril.as_numpy().diagonal()}; try a Cholesky factor."
            )

    def init(
        self, key: Key[Array, ""], dim: int, *, start: Float[Array, "dim"] | None = None
    ) -> AffineParams:
        """m = start and L = init_scale I, unless `loc` or `scale_tril` is given."""
        loc = start_or_normal(key, dim, start)
        return self._with_given(affine_at(loc, self.init_scale, self.structure))

    def init_gaussian(
        self, loc: Float[Array, "dim"], scale_tril: Float[Array, "dim dim"]
    ) -> AffineParams:
        """m and L of the Gaussian, unless `loc` or `scale_tril` is given."""
        return self._with_given(affine_of_gaussian(loc, scale_tril, self.structure))

    def affine(self, params: AffineParams) -> AffineParams:
        """m and L, without gradients if they are not learned."""
        return params if self.learned else jax.tree.map(lax.stop_gradient, params)

    def forward(
        self, params: AffineParams, x: Float[Array, "dim"]
    ) -> tuple[Float[Array, "dim"], Scalar]:
        """The map m + L x, and its log-determinant log det L."""
        params = self.affine(params)
        return affine_forward(params, x), params.log_diag.sum()

    def inverse(
        self, params: AffineParams, z: Float[Array, "dim"]
    ) -> tuple[Float[Array, "dim"], Scalar]:
        """The inverse map L^-1 (z - m) by a triangular solve, and -log det L."""
        params = self.affine(params)
        return affine_inverse(params, z), -params.log_diag.sum()

    def _with_given(self, params: AffineParams) -> AffineParams:
        dim, dtype = params.loc.size, params.loc.dtype
        for given in (self.loc, self.scale_tril):
            if given is not None and given.shape[0] != dim:
                raise ValueError(
                    f"Affine: expected loc and scale_tril of dimension {dim}, the target's; got "
                    f"{given.shape[0]}; try unconstrained coordinates."
                )
        if self.loc is not None:
            params = params._replace(loc=self.loc.as_array(dtype))
        if self.scale_tril is not None:
            factor = self.scale_tril.as_array(dtype)
            params = affine_of_gaussian(params.loc, factor, self.structure)
        return params
