"""Conditional modes at many values of the hyperparameters, each from the nearest known mode."""

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from jaxvi._types import Data
from jaxvi.hierarchical._conditional_laplace import Conditional, conditionals
from jaxvi.hierarchical._partition import Split
from jaxvi.target import Target

BLOCK = 128  # values of the hyperparameters in one call of the compiled program


class Search:
    """Laplace approximations of the latents, started at the mode of the nearest known value.

    The mode moves little when the hyperparameters do, so that Newton's method takes fewer steps,
    and converges far out where it would fail from a poor start. Values left without a mode are
    tried once more, from the modes that the other values have found.
    """

    def __init__(self, target: Target, at: Split, data: Data) -> None:
        self._of = (target, at, data)
        self._sd = np.asarray(at.sd, float)
        self._values = np.asarray(at.centre, float)[None]
        self._modes = np.asarray(at.loc)[None]

    def __call__(self, values: Float[np.ndarray, "values hyperparameters"]) -> Conditional:
        """Laplace approximations of the latents at all `values` of the hyperparameters."""
        found = self._found(values)
        self._keep(values, found)
        without_mode = np.flatnonzero(~found.has_mode)
        if 0 < without_mode.size < len(values):
            again = self._found(values[without_mode])
            self._keep(values[without_mode], again)
            better = again.has_mode | (~again.indefinite & found.indefinite[without_mode])
            for old, new in zip(found, again, strict=True):
                old[without_mode[better]] = new[better]
        return found

    def _keep(
        self, values: Float[np.ndarray, "values hyperparameters"], found: Conditional
    ) -> None:
        self._values = np.concatenate([self._values, values[found.has_mode]])
        self._modes = np.concatenate([self._modes, found.mode[found.has_mode]])

    def _found(self, values: Float[np.ndarray, "values hyperparameters"]) -> Conditional:
        """Laplace approximations in blocks of fixed size, so that one program serves all sizes.

        Blocks run one after another: two of these programs in threads can deadlock (see
        `jaxvi/_compilation/lapack_batches.py`).
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
    """Index of the known value nearest to each value, distances in standard deviations."""
    known, values = known / sd[None], values / sd[None]
    # squared distances less the squares of `values`, which do not change the minimum
    return ((known**2).sum(axis=1)[None] - 2.0 * values @ known.T).argmin(axis=1)
