"""The evidence lower bound (ELBO), with closed-form or sampled entropy."""

from dataclasses import dataclass
from typing import Literal

import jax
from jax import lax

from jaxvi._arguments import check_field, flag, integer, one_of
from jaxvi._types import Data, Noise, Phi
from jaxvi.families import Family, HasEntropy, transform_and_log_prob
from jaxvi.objectives._base import Estimate, Objective
from jaxvi.target import Target, log_probs


@dataclass(frozen=True)
class ELBO(Objective):
    r"""Evidence lower bound, $E_q[\log p(z, x)] - E_q[\log q(z)] \le \log p(x)$, in nats.

    The expectation is a mean over `num_draws` reparameterised draws, so its gradient in phi is
    unbiased. Cost: `num_draws` gradients of the log density a step. Three estimators of one
    bound (Roeder, Wu and Duvenaud 2017; Kucukelbir et al. 2017):

    * `entropy="closed"`: the family's exact entropy; the default where it has one.
    * `entropy="sampled"`: minus the mean of log q at the draws.
    * `stick_the_landing=True`: sampled, and log q's parameters are held constant in the
      gradient. Its noise goes to zero where q comes to equal the posterior.

    The reported bound is the sampled estimate in all three: log p - log q has the same mean
    in all, and varies little if q is close to the posterior.

    Args:
        num_draws: draws a step.
        entropy: "closed" or "sampled"; None takes "closed" where the family has it.
        stick_the_landing: drop the score term; excludes entropy="closed".

    Raises:
        ValueError: num_draws below 1, an unknown entropy, or a closed entropy together with
            stick_the_landing.

    Example:
        >>> fit = jaxvi.fit(key, target, objective=jaxvi.ELBO(num_draws=16))

        By itself it is a function of phi, noise and data, the rest being static:

        >>> family, elbo = jaxvi.MeanField(), jaxvi.ELBO(num_draws=16)
        >>> phi, noise = family.init(key, 4), family.draw_noise(key, 16, 4)
        >>> def loss(phi, noise, data):
        ...     return elbo(phi, noise, family, target, data).loss
        >>> value, grad = jax.value_and_grad(loss)(phi, noise, X)
        >>> grad.loc.shape
        (4,)
    """

    num_draws: int = 8
    entropy: Literal["closed", "sampled"] | None = None
    stick_the_landing: bool = False

    def __post_init__(self) -> None:
        check_field(self, "num_draws", integer)
        check_field(self, "entropy", one_of, ("closed", "sampled", None))
        check_field(self, "stick_the_landing", flag)
        if self.stick_the_landing and self.entropy == "closed":
            raise ValueError(
                "ELBO: expected stick_the_landing without a closed entropy, since it needs log q "
                'at the draws; got both; try entropy="sampled".'
            )

    def check(self, family: Family) -> None:
        """The family must have a closed-form entropy if `entropy` is "closed"."""
        if self.entropy == "closed" and not isinstance(family, HasEntropy):
            raise TypeError(
                f"ELBO: expected a family with an entropy(phi) method; got {family!r}; try "
                'entropy="sampled".'
            )

    def __call__(
        self, phi: Phi, noise: Noise, family: Family, target: Target, data: Data
    ) -> Estimate:
        """Loss and bound; the mean is over the rows of `noise`."""
        if self.stick_the_landing:
            z = jax.vmap(family.transform, (None, 0))(phi, noise)
            log_q = jax.vmap(family.log_prob, (None, 0))(lax.stop_gradient(phi), z).mean()
        else:
            z, log_q = jax.vmap(lambda eps: transform_and_log_prob(family, phi, eps))(noise)
            log_q = log_q.mean()
        log_p = log_probs(target, z, data).mean()
        bound = log_p - log_q
        if self._uses_closed_entropy(family):
            assert isinstance(family, HasEntropy)
            return Estimate(-(log_p + family.entropy(phi)), bound)
        return Estimate(-bound, bound)

    def _uses_closed_entropy(self, family: Family) -> bool:
        if self.stick_the_landing or self.entropy == "sampled":
            return False
        return isinstance(family, HasEntropy)
