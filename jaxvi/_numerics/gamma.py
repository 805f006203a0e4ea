r"""Logarithm of the gamma function and its derivative for positive numbers.

JAX's own hold for all real numbers, which costs two to five times as much to run and to compile.
Here the recurrence raises small arguments to where Stirling's series has converged.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

LOG_2PI = math.log(2.0 * math.pi)
_SHIFT = 8  # arguments below it are raised by as much
# B_2n / (2n (2n - 1)) and B_2n / 2n, with B_2n Bernoulli's numbers
_GAMMALN = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
_DIGAMMA = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12)


def gammaln(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    r"""$\log \Gamma(x)$, x > 0 (Abramowitz and Stegun 1964, 6.1.40)."""
    small = x < _SHIFT
    low, y = jnp.where(small, x, 1.0), jnp.where(small, x + _SHIFT, x)
    product = low
    for i in range(1, _SHIFT):
        product = product * (low + i)
    inverse = 1.0 / y
    stirling = (y - 0.5) * jnp.log(y) - y + 0.5 * LOG_2PI
    raised = jnp.where(small, jnp.log(product), 0.0)
    return stirling + inverse * _series(_GAMMALN, inverse**2) - raised


def digamma(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    r"""$\psi(x) = \Gamma'(x) / \Gamma(x)$, x > 0 (Abramowitz and Stegun 1964, 6.3.18)."""
    small = x < _SHIFT
    low, y = jnp.where(small, x, 1.0), jnp.where(small, x + _SHIFT, x)
    over, under = jnp.ones_like(x), low  # the sum of 1 / (x + i) as one fraction
    for i in range(1, _SHIFT):
        over, under = over * (low + i) + under, under * (low + i)
    inverse = 1.0 / y
    series = jnp.log(y) - 0.5 * inverse - inverse**2 * _series(_DIGAMMA, inverse**2)
    return series - jnp.where(small, over / under, 0.0)


def betaln(a: Float[Array, "*shape"], b: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    r"""Log of the beta function, $\log B(a, b)$."""
    return gammaln(a) + gammaln(b) - gammaln(a + b)


def _series(coefficients: tuple[float, ...], x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """A polynomial by Horner's rule, constant coefficient first."""
    total = jnp.zeros_like(x)
    for coefficient in reversed(coefficients):
        total = total * x + coefficient
    return total
