"""Pullback of a target by a bijector z = f(x): its log density in the coordinates x."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxvi._compilation import ONCE, apply_in_blocks, light_jit
from jaxvi._types import Scalar
from jaxvi.families import Bijector
from jaxvi.supports import Real
from jaxvi.target._target import Target


@dataclass(frozen=True)
class _Pullback:
    """log p(f(x)) + log |det df/dx|; its data are the bijector's parameters and p's data."""

    target: Target
    bijector: Bijector

    def __call__(self, x: Float[Array, "dim"], data: Any) -> Scalar:
        params, rest = data
        z, log_det = self.bijector.forward(params, x)
        return self.target.log_prob(z, rest) + log_det


def pullback(target: Target, bijector: Bijector) -> Target:
    """The target of x whose image z = f(x) has the density of `target`.

    Its data are `(params, data)`, with the bijector's parameters: other parameters compile nothing.

    Example:
        >>> from jaxvi.families import Affine
        >>> wide = pullback(Target(lambda z: -0.5 * z @ z, Real((2,))), Affine())
        >>> params = Affine().init_gaussian(jnp.zeros(2), 3.0 * jnp.eye(2))
        >>> float(wide.log_prob(jnp.zeros(2), (params, None))) - 2.0 * float(jnp.log(3.0))
        0.0
    """
    return Target(_Pullback(target, bijector), Real((target.dim,)))


def push(
    bijector: Bijector, params: Any, x: Float[Array, "*rows dim"]
) -> Float[Array, "*rows dim"]:
    """The image z = f(x) of every row of x."""
    rows = np.asarray(x).reshape(-1, x.shape[-1])
    pushed = apply_in_blocks(lambda block: _push(params, block, bijector), rows)
    return jnp.asarray(pushed.reshape(x.shape))


@light_jit(ONCE, static_argnums=2)
def _push(params: Any, x: Float[Array, "rows dim"], bijector: Bijector) -> Float[Array, "rows dim"]:
    return jax.vmap(lambda row: bijector.forward(params, row)[0])(x)
