"""The family of nested Laplace approximations, and its parameters."""

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
    """Parameters of `NestedLaplace`, as made by `nested_laplace`.

    `hyperparameters` are values drawn by importance sampling, with `log_weights`; `modes` are the
    conditional modes of the latents there. `log_evidence` estimates log p(data). `at` splits the
    coordinates into hyperparameters and latents; `data` are those of the log density.
    """

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
    quadratic in the latents it is the exact posterior, funnels included. Hyperparameters are drawn
    from the weighted values of `nested_laplace`, which makes its parameters. A draw or a density
    costs a run of Newton's method: several Hessians and Cholesky factors in the dimension of the
    latents.

    Args:
        target: the log density.
    """

    target: Target

    def init(
        self, key: Key[Array, ""], dim: int, *, start: Float[Array, "dim"] | None = None
    ) -> NestedLaplaceParams:
        """Not available: the parameters are computed by `nested_laplace`, not optimised.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            "NestedLaplace: expected parameters of jaxvi.hierarchical.nested_laplace; got none to "
            "start an optimisation from; try jaxvi.fit(key, target) or another family."
        )

    def noise_size(self, dim: int) -> int:
        """One normal picks the hyperparameters; `dim` more are enough for the latents."""
        return 1 + dim

    def transform(
        self, phi: NestedLaplaceParams, noise: Float[Array, "noise"]
    ) -> Float[Array, "dim"]:
        """z, its hyperparameters picked by the first normal and its latents drawn given them."""
        return self.transform_and_log_prob(phi, noise)[0]

    def transform_and_log_prob(
        self, phi: NestedLaplaceParams, noise: Float[Array, "noise"]
    ) -> tuple[Float[Array, "dim"], Scalar]:
        """z and its log density log q(z), from one run of Newton's method."""
        shares = jnp.cumsum(jax.nn.softmax(phi.log_weights))
        which = jnp.searchsorted(shares / shares[-1], ndtr(noise[0]))
        hyperparameters = phi.hyperparameters[which]
        found = self._conditional(phi, hyperparameters, phi.modes[which])
        own = noise[1 : 1 + len(found.mode)]
        z = phi.at.joined(hyperparameters, found.mode + found.scale @ own)
        return z, found.log_prob_at_mode - phi.log_evidence - 0.5 * jnp.sum(own**2)

    def log_prob(self, phi: NestedLaplaceParams, z: Float[Array, "dim"]) -> Scalar:
        """log q(z), with Newton's method started at the nearest known mode."""
        hyperparameters, latents = phi.at.pick @ z, phi.at.rest @ z
        which = nearest(phi.hyperparameters, hyperparameters[None], phi.at.sd)[0]
        found = self._conditional(phi, hyperparameters, phi.modes[which])
        own = jnp.linalg.solve(found.scale, latents - found.mode)
        return found.log_prob_at_mode - phi.log_evidence - 0.5 * jnp.sum(own**2)

    def _conditional(
        self,
        phi: NestedLaplaceParams,
        hyperparameters: Float[Array, "hyperparameters"],
        start: Float[Array, "latents"],
    ) -> Conditional:
        """Laplace approximation of the latents at one value of the hyperparameters."""

        def find(phi: NestedLaplaceParams, hyperparameters: Array, start: Array) -> Conditional:
            return conditional(self.target, phi.at, hyperparameters, start, phi.data)

        found: Conditional = one_at_a_time(find)(phi, hyperparameters, start)
        return found
