"""Modes of many conditionals: each is looked for from the nearest that is known."""

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from jaxvi._types import Data
from jaxvi.hierarchical._conditional_laplace import Conditional, conditionals
from jaxvi.hierarchical._partition import Split
from jaxvi.target import Target

BLOCK = 128  # values of the hyperparameters in one call


class Search:
    """Finds conditionals, beginning at the mode of the nearest value that has one.

    The mode moves little where the hyperparameters do: Newton's method ends sooner, and far out it
    ends at all. Values that are left without a mode get a second chance, from what the latents have
    found.
    """

    def __init__(self, target: Target, at: Split, data: Data) -> None:
        self._of = (target, at, data)
        self._sd = np.asarray(at.sd, float)
        self._values = np.asarray(at.centre, float)[None]
        self._modes = np.asarray(at.loc)[None]

    def __call__(self, values: Float[np.ndarray, "values hyperparameters"]) -> Conditional:
        """Of all values."""
        found = self._found(values)
        self._keep(values, found)
        poor = np.flatnonzero(~found.good)
        if 0 < poor.size < len(values):
            again = self._found(values[poor])
            self._keep(values[poor], again)
            better = again.good | (~again.indefinite & found.indefinite[poor])
            for old, new in zip(found, again, strict=True):
                old[poor[better]] = new[better]
        return found

    def _keep(
        self, values: Float[np.ndarray, "values hyperparameters"], found: Conditional
    ) -> None:
        self._values = np.concatenate([self._values, values[found.good]])
        self._modes = np.concatenate([self._modes, found.mode[found.good]])

    def _found(self, values: Float[np.ndarray, "values hyperparameters"]) -> Conditional:
        """Block by block: one program serves any number of values.

        One at a time: two of these programs in threads kept each other from ending (see `_lapack`).
        """
        target, at, data = self._of
        parts = []
        for i in range(0, len(values), BLOCK):
            some = values[i : i + BLOCK]
            filled = np.resize(some, (BLOCK, some.shape[1])).astype(self._modes.dtype)
            starts = self._modes[nearest(self._values, filled, self._sd)]
            found = conditionals(at, filled, starts, data, target=target)
            parts.append(jax.tree.map(lambda leaf, num=len(some): np.asarray(leaf)[:num], found))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def nearest(
    known: Float[Array | np.ndarray, "known hyperparameters"],
    values: Float[Array | np.ndarray, "values hyperparameters"],
    sd: Float[Array | np.ndarray, "hyperparameters"],
) -> Int[Array | np.ndarray, "values"]:
    """Which known value is nearest to each, in standard deviations."""
    known, values = known / sd[None], values / sd[None]
    # squares less those of the values, which are the same for all that are known
    return ((known**2).sum(axis=1)[None] - 2.0 * values @ known.T).argmin(axis=1)
