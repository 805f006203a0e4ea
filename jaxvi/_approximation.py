"""An approximation by itself, apart from the run that found it."""

from dataclasses import dataclass
from typing import Any

import jax
from jaxtyping import Array, Float

from jaxvi._arguments import typed_key, whole
from jaxvi._light_jit import ONCE, light_jit
from jaxvi._types import Phi, Scalar
from jaxvi.diagnostics._movement import draw
from jaxvi.families import Family
from jaxvi.target import Target


@dataclass(frozen=True)
class Approximation:
    """q by itself: what variational inference alone gave.

    Attributes:
        target: the log density that it approximates.
        family: its family.
        phi: its parameters.
    """

    target: Target
    family: Family
    phi: Phi

    def sample(self, key: Array, num: Any) -> Any:
        """Draws: the parameters' pytree, constrained, draws leading."""
        return constrain_all(self.sample_unconstrained(key, num), target=self.target)

    def sample_unconstrained(self, key: Array, num: Any) -> Float[Array, "draws dim"]:
        """The same draws as flat unconstrained vectors z."""
        key, num = typed_key(key), whole("num", num)
        return draw(key, self.phi, family=self.family, num=num, dim=self.target.dim)

    def log_prob(self, z: Float[Array, "dim"]) -> Scalar:
        """log q at an unconstrained z."""
        return self.family.log_prob(self.phi, z)


@light_jit(ONCE, static_argnames="target")
def constrain_all(z: Float[Array, "draws dim"], *, target: Target) -> Any:
    """The parameters' pytree of every row."""
    return jax.vmap(target.constrain)(z)
