"""Factor analysis: fitting a diagonal plus low-rank matrix to a covariance known by its products.

Covariances are C = F F^T + Psi, with the parameters of `LowRank`: Psi the diagonal part's
variances and F the factor.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvi.families import LowRankParams


def em_step(
    factor: Float[Array, "dim rank"],
    weights: Float[Array, "dim rank"],
    products: Float[Array, "dim rank"],
    variance: Float[Array, "dim"],
) -> tuple[Float[Array, "dim rank"], Float[Array, "dim"]]:
    """New F and Psi after one EM step towards a covariance S (Rubin and Thayer 1982).

    With b = F^T C^-1 and M = I - b F + b S b^T the step is F' = S b^T M^-1 and
    Psi' = diag(S - F' b S); F' is then multiplied by a root of M, the factors' covariance as seen,
    which makes it several times faster (parameter expansion: Liu, Rubin and Wu 1998). `weights`
    is b^T, `products` is S b^T and `variance` the diagonal of S.
    """
    middle = (
        jnp.eye(factor.shape[1], dtype=factor.dtype) - factor.T @ weights + weights.T @ products
    )
    root = jnp.linalg.cholesky(0.5 * (middle + middle.T))
    half = jax.scipy.linalg.solve_triangular(root, products.T, lower=True)  # root^-1 b S
    new_factor = jax.scipy.linalg.solve_triangular(root, half, lower=True, trans="T").T @ root
    return new_factor, variance - jnp.sum(half * half, axis=0)


def inverse_products(phi: LowRankParams, x: Float[Array, "dim k"]) -> Float[Array, "dim k"]:
    """C^-1 X by Woodbury's identity."""
    weighted = x * jnp.exp(-2.0 * phi.log_scale)[:, None]
    half = inverse_half(phi)
    precision = jnp.exp(-2.0 * phi.log_scale)[:, None]
    return weighted - precision * (half @ (half.T @ weighted))


def inverse_half(phi: LowRankParams) -> Float[Array, "dim rank"]:
    """F (I + F^T Psi^-1 F)^-1/2, so that C^-1 = Psi^-1 - Psi^-1 H H^T Psi^-1."""
    scaled = phi.factor * jnp.exp(-phi.log_scale)[:, None]
    gram = scaled.T @ scaled
    chol = jnp.linalg.cholesky(gram + jnp.eye(gram.shape[0], dtype=gram.dtype))
    return jax.scipy.linalg.solve_triangular(chol, phi.factor.T, lower=True).T
