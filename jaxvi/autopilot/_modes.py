"""Stage `modes`: a mixture of the Gaussians at separate modes.

It applies to the restarts while q is their best lane's. It sets which lanes are at separate modes
of comparable mass and, if there are several, a mixture of their Gaussians as q, with weights by
their bounds.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxvi._sampling import Approximation
from jaxvi.autopilot._base import Context, Stage, State
from jaxvi.autopilot._separation import separate_lanes
from jaxvi.families import Mixture


@dataclass(frozen=True)
class Modes(Stage):
    """A mixture of the lanes at separate modes of comparable mass, if there are several."""

    name: ClassVar[str] = "modes"
    is_brief: ClassVar[bool] = True

    def applies(self, state: State) -> bool:
        """Whether restarts have ended and q is the best lane's."""
        return state.usable and not state.fit.interrupted and state.q is None

    def run(self, context: Context, state: State) -> State:
        """Find separate modes, unless they are known, and make a mixture of them."""
        modes = state.modes or tuple(separate_lanes(state.fits, context.target, context.data))
        state = replace(state, modes=modes)
        if len(modes) == 1:
            return state
        lanes = [(state.fits[i].lane(lane).phi, state.fits[i].bounds[lane]) for i, lane in modes]
        phis = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(phi for phi, _ in lanes))
        bounds = jnp.asarray([bound for _, bound in lanes])
        mixture, phi = Mixture.of(state.fit.setup.family, phis, bounds)
        shares = ", ".join(f"{share:.2f}" for share in np.asarray(jax.nn.softmax(bounds)))
        note = f"{len(modes)} separate, of shares {shares}"
        context.record(self.name, state.fit, note, before=state.fit)
        return replace(state, q=Approximation(context.target, mixture, phi))
