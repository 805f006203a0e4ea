"""The family of nested Laplace approximations."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr
from jaxtyping import Array, Float, Key

from jaxvi._compilation import one_at_a_time
from jaxvi._types import Data, Scalar
from jaxvi.families import NormalNoiseFamily
from jaxvi.hierarchical._conditional_laplace import Conditional, conditional
from jaxvi.hierarchical._mode_search import nearest
from jaxvi.hierarchical._partition import Split
from jaxvi.target import Target


class NestedLaplaceParams(NamedTuple):
    """Values of the hyperparameters, modes of the latents there, and log weights."""

    hyperparameters: Float[Array, "values hyperparameters"]
    modes: Float[Array, "values latents"]
    log_weights: Float[Array, "values"]
    log_evidence: Scalar
    at: Split
    data: Data


@dataclass(frozen=True)
class NestedLaplace(NormalNoiseFamily):
    r"""q(hyperparameters) q(latents | hyperparameters): an integrated nested Laplace approximation.

    $q(z) = \tilde p(\phi) / \hat Z \cdot N(\theta;\, m(\phi),\, H(\phi)^{-1})$ with m the mode of
    log p in the latents $\theta$ at given hyperparameters $\phi$, -H the Hessian there and $\tilde
    p(\phi) = p(\phi, m) (2\pi)^{n/2} |H|^{-1/2}$ (Rue, Martino and Chopin 2009). Where log p is
    quadratic in the latents it is the posterior, funnels and all. Hyperparameters are drawn from
    the weighted values of `nested_laplace`, which makes its parameters. A draw or a density costs
    Newton's method: some Hessians and Cholesky factors in as many dimensions as there are latents.

    Args:
        target: the log density.
    """

    target: Target

    def init(
        self, key: Key[Array, ""], dim: int, *, start: Float[Array, "dim"] | None = None
    ) -> NestedLaplaceParams:
        """None: it is found, not optimised.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            "NestedLaplace: expected parameters of jaxvi.hierarchical.nested_laplace; got none to "
            "start an optimisation from; try jaxvi.fit(key, target) or another family."
        )

    def noise_size(self, dim: int) -> int:
        """One that picks the hyperparameters, and more than enough for the latents."""
        return 1 + dim

    def transform(
        self, phi: NestedLaplaceParams, noise: Float[Array, "noise"]
    ) -> Float[Array, "dim"]:
        """The latents drawn given the hyperparameters that the first normal picks."""
        return self.transform_and_log_prob(phi, noise)[0]

    def transform_and_log_prob(
        self, phi: NestedLaplaceParams, noise: Float[Array, "noise"]
    ) -> tuple[Float[Array, "dim"], Scalar]:
        """z and log q(z)."""
        shares = jnp.cumsum(jax.nn.softmax(phi.log_weights))
        which = jnp.searchsorted(shares / shares[-1], ndtr(noise[0]))
        hyperparameters = phi.hyperparameters[which]
        found = self._given(phi, hyperparameters, phi.modes[which])
        own = noise[1 : 1 + len(found.mode)]
        z = phi.at.whole(hyperparameters, found.mode + found.scale @ own)
        return z, found.log_prob_at_mode - phi.log_evidence - 0.5 * jnp.sum(own**2)

    def log_prob(self, phi: NestedLaplaceParams, z: Float[Array, "dim"]) -> Scalar:
        """log q(z)."""
        hyperparameters, latents = phi.at.pick @ z, phi.at.rest @ z
        which = nearest(phi.hyperparameters, hyperparameters[None], phi.at.sd)[0]
        found = self._given(phi, hyperparameters, phi.modes[which])
        own = jnp.linalg.solve(found.scale, latents - found.mode)
        return found.log_prob_at_mode - phi.log_evidence - 0.5 * jnp.sum(own**2)

    def _given(
        self,
        phi: NestedLaplaceParams,
        hyperparameters: Float[Array, "hyperparameters"],
        start: Float[Array, "latents"],
    ) -> Conditional:
        def find(phi: NestedLaplaceParams, hyperparameters: Array, start: Array) -> Conditional:
            return conditional(self.target, phi.at, hyperparameters, start, phi.data)

        found: Conditional = one_at_a_time(find)(phi, hyperparameters, start)
        return found
