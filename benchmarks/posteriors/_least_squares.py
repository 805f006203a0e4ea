"""Normal linear models, the rows folded into the triangle of a QR decomposition."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from benchmarks.posteriors._densities import LOG_2PI
from jaxvi._types import Scalar


def fold(columns: Any, y: Any) -> dict[str, Any]:
    r"""What the likelihood of y ~ Normal(X b, sigma) needs of n rows and p columns.

    With X = Q R: |y - X b|^2 = |R b - Q^T y|^2 + |y - Q Q^T y|^2, exact for every b and, unlike
    X^T X, no worse conditioned than X. A gradient costs O(p^2) and not O(n p).
    """
    design = np.column_stack([np.asarray(column, np.float64) for column in columns])
    y = np.asarray(y, np.float64)
    q, root = np.linalg.qr(design)
    projected = q.T @ y
    rest = y - q @ projected
    return {
        "root": root,
        "projected": projected,
        "residual": np.asarray(rest @ rest),
        "rows": np.asarray(float(y.size)),
    }


def log_likelihood(
    coefficients: Float[Array, " columns"], sigma: Scalar, data: dict[str, Any]
) -> Scalar:
    """log Normal(y | X b, sigma), summed over the rows behind `fold`."""
    gap = data["root"] @ coefficients - data["projected"]
    square = jnp.sum(gap**2) + data["residual"]
    return -0.5 * square / sigma**2 - data["rows"] * (jnp.log(sigma) + 0.5 * LOG_2PI)
