"""Affine maps with a triangular or a diagonal matrix, and bijectors of the free coordinates."""

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
    """Shift, and the factor L as log-diagonal and strictly lower part.

    `lower` has no rows where L is diagonal; elsewhere only what lies strictly below the diagonal
    is read.
    """

    loc: Float[Array, "dim"]
    log_diag: Float[Array, "dim"]
    lower: Float[Array, "rows dim"]


def affine_forward(params: AffineParams, x: Float[Array, "dim"]) -> Float[Array, "dim"]:
    """z = m + L x."""
    if params.lower.shape[0] == 0:
        return params.loc + jnp.exp(params.log_diag) * x
    factor = cholesky_factor(params.log_diag, params.lower)
    # at full precision: accelerators would round float32 to fewer bits, and the inverse would not
    return params.loc + jnp.matmul(factor, x, precision=lax.Precision.HIGHEST)


def affine_inverse(params: AffineParams, z: Float[Array, "dim"]) -> Float[Array, "dim"]:
    """x = L^-1 (z - m)."""
    if params.lower.shape[0] == 0:
        return (z - params.loc) * jnp.exp(-params.log_diag)
    factor = cholesky_factor(params.log_diag, params.lower)
    return solve_triangular(factor, z - params.loc, lower=True)


def affine_of_gaussian(
    loc: Float[Array, "dim"], scale_tril: Float[Array, "dim dim"], structure: str
) -> AffineParams:
    """The map that takes N(0, I) to N(loc, L L^T), or to its marginals where diagonal."""
    if structure == "diagonal":
        log_diag = jnp.log(marginal_scales(scale_tril))
        return AffineParams(loc, log_diag, jnp.zeros((0, loc.size), loc.dtype))
    return AffineParams(loc, *split_factor(scale_tril))


def affine_at(loc: Float[Array, "dim"], scale: float, structure: str) -> AffineParams:
    """z = loc + scale x."""
    rows = 0 if structure == "diagonal" else loc.size
    log_diag = jnp.full_like(loc, math.log(scale))
    return AffineParams(loc, log_diag, jnp.zeros((rows, loc.size), loc.dtype))


STRUCTURES = ("full", "diagonal")  # of an affine map's matrix


class Bijector(abc.ABC):
    """An invertible smooth map of R^dim onto itself, with parameters: z = f(x).

    A frozen dataclass of plain values, like a family. Its parameters, made by `init`, are a
    NamedTuple of arrays (or any pytree of them).
    """

    @abc.abstractmethod
    def init(
        self, key: Key[Array, ""], dim: int, *, start: Float[Array, "dim"] | None = None
    ) -> Any:
        """Parameters to start from; a map may put what is near 0 at `start`."""

    @abc.abstractmethod
    def forward(self, params: Any, x: Float[Array, "dim"]) -> tuple[Float[Array, "dim"], Scalar]:
        """`(z, log |det dz/dx|)`."""

    @abc.abstractmethod
    def inverse(self, params: Any, z: Float[Array, "dim"]) -> tuple[Float[Array, "dim"], Scalar]:
        """`(x, log |det dx/dz|)`."""


@runtime_checkable
class HasAffineForm(Protocol):
    """The bijector is z = m + L x with a lower triangular L: it keeps Gaussians Gaussian."""

    def affine(self, params: Any) -> AffineParams:
        """m and L."""

    def init_gaussian(self, loc: Float[Array, "dim"], scale_tril: Float[Array, "dim dim"]) -> Any:
        """Parameters for which N(0, I) becomes N(loc, L L^T), as nearly as it can."""


@dataclass(frozen=True, kw_only=True)
class Affine(Bijector):
    r"""z = m + L x with a lower triangular or diagonal L.

    m and L are values in phi, so that whitening differs from a learned map only in `learned`.
    They are the given ones, those of a Gaussian (`init_gaussian`), or the start and a multiple
    of the identity. O(dim^2) a draw, or O(dim) where diagonal.

    Args:
        learned: whether m and L are learned; otherwise no gradient reaches them.
        structure: "full" or "diagonal".
        init_scale: L is this times the identity where nothing else is known.
        loc: m, shape (dim,), fixed here; None leaves it open.
        scale_tril: L, shape (dim, dim), lower triangular with a positive diagonal; None leaves it
            open.

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
    loc: Any = None  # whatever was given, as a FixedArray
    scale_tril: Any = None

    def __post_init__(self) -> None:
        check_field(self, "structure", one_of, STRUCTURES)
        check_field(self, "init_scale", number, above=0.0)
        check_field(self, "learned", flag)
        for name in ("loc", "scale_tril"):
            given = getattr(self, name)
            if given is not None:
                object.__setattr__(self, name, FixedArray(given))
        self._check_given()

    def _check_given(self) -> None:
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
        """m = start and L = init_scale I, or what was given."""
        loc = start_or_normal(key, dim, start)
        return self._with_given(affine_at(loc, self.init_scale, self.structure))

    def init_gaussian(
        self, loc: Float[Array, "dim"], scale_tril: Float[Array, "dim dim"]
    ) -> AffineParams:
        """m and L of the Gaussian, or what was given."""
        return self._with_given(affine_of_gaussian(loc, scale_tril, self.structure))

    def affine(self, params: AffineParams) -> AffineParams:
        """m and L; constants where they are not learned."""
        return params if self.learned else jax.tree.map(lax.stop_gradient, params)

    def forward(
        self, params: AffineParams, x: Float[Array, "dim"]
    ) -> tuple[Float[Array, "dim"], Scalar]:
        """m + L x, and log det L."""
        params = self.affine(params)
        return affine_forward(params, x), params.log_diag.sum()

    def inverse(
        self, params: AffineParams, z: Float[Array, "dim"]
    ) -> tuple[Float[Array, "dim"], Scalar]:
        """L^-1 (z - m) by a triangular solve, and -log det L."""
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
