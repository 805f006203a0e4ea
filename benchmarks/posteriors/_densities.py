"""Log densities that several posteriors share, normalised and summed over their entries."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvi._types import Scalar

LOG_2PI = math.log(2.0 * math.pi)
Number = float | Scalar


def normal(x: Float[Array, "..."], loc: Number, sd: Number) -> Scalar:
    """Normal(loc, sd) at every entry of x, with one sd for all: its logarithm is taken once."""
    scaled = (x - loc) / sd
    return -0.5 * jnp.sum(scaled**2) - x.size * (jnp.log(sd) + 0.5 * LOG_2PI)


def half_normal(x: Float[Array, "..."], sd: float) -> Scalar:
    """Normal(0, sd) folded onto x > 0."""
    return normal(x, 0.0, sd) + x.size * math.log(2.0)


def half_cauchy(x: Float[Array, "..."], scale: float) -> Scalar:
    """Cauchy(0, scale) folded onto x > 0."""
    return -jnp.sum(jnp.log1p((x / scale) ** 2)) - x.size * math.log(0.5 * math.pi * scale)


def student_t(x: Float[Array, "..."], df: float, loc: float, scale: float) -> Scalar:
    """Student's t with df degrees of freedom."""
    norm = math.lgamma(0.5 * (df + 1.0)) - math.lgamma(0.5 * df)
    norm -= 0.5 * math.log(df * math.pi) + math.log(scale)
    square = ((x - loc) / scale) ** 2
    return x.size * norm - 0.5 * (df + 1.0) * jnp.sum(jnp.log1p(square / df))


def log_gamma_density(x: Scalar, shape: float, rate: float) -> Scalar:
    """Gamma with a shape and a rate."""
    norm = shape * math.log(rate) - math.lgamma(shape)
    return norm + (shape - 1.0) * jnp.log(x) - rate * x


def log_beta_density(log_x: Scalar, log_rest: Scalar, a: float, b: float) -> Scalar:
    """Beta(a, b) from log x and log(1 - x)."""
    norm = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return norm + (a - 1.0) * log_x + (b - 1.0) * log_rest
