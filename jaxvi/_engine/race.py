"""Racing: restarts that can't be expected to end best are pruned, and others take their lanes.

Successive halving without a quota: whenever a lane's steps have grown by half, its bound is
estimated on draws common to all lanes. It is pruned if it can't be expected to end above the best,
beyond the noise of the difference: because it is behind by more than it still gains, or because it
is level with the best and gains no more.
"""

from functools import partial

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jaxvi._engine.loop import block_length
from jaxvi._engine.setup import Setup
from jaxvi._numerics import fold_in
from jaxvi._sampling import draw_with_log_weights
from jaxvi._types import Data, Phi

NUM_DRAWS = 512
_FIRST_LOOK_BLOCKS = 2
_LOOK_STEP_RATIO = 1.5  # between a lane's steps at two looks
_EXPECTED_GAIN_RATIO = 3.0  # over the last gain, if gains shrink by a quarter from look to look
_GAP_MARGIN_SE = 3.0
_MAX_SAME_OPTIMUM_GAP_NATS = 0.2  # between lanes at one optimum


def should_prune(
    gap: Float[np.ndarray, "lanes"],
    gap_se: Float[np.ndarray, "lanes"],
    gain: Float[np.ndarray, "lanes"],
) -> Bool[np.ndarray, "lanes"]:
    """Which lanes can't be expected to end above the best one by more than 0.2 nats.

    Args:
        gap: bound minus the best lane's, on common draws, in nats.
        gap_se: its standard error.
        gain: by how much the bound rose while the lane's steps grew by half.

    A lane that would end above the best by more than 0.2 nats is dropped only if its gains shrink
    by less than a quarter from look to look, or, by noise alone, with probability 0.0013 a look
    (a normal beyond three standard errors).
    """
    hope = _EXPECTED_GAIN_RATIO * np.maximum(gain, 0.0) + _GAP_MARGIN_SE * gap_se
    return gap + hope < _MAX_SAME_OPTIMUM_GAP_NATS


class Race:
    """When each restart is looked at next, its last bound, and the best lane's log weights."""

    def __init__(self, key: Key[Array, ""], setup: Setup, data: Data, num_restarts: int) -> None:
        self._weigh = partial(
            draw_with_log_weights,
            fold_in(key, 1),
            target=setup.target,
            family=setup.family,
            num=NUM_DRAWS,
            common=True,
        )
        self._data = data
        self._next = np.full(num_restarts, _FIRST_LOOK_BLOCKS * block_length(setup))
        self._before = np.full(num_restarts, np.nan)
        self._best: Float[np.ndarray, "draws"] | None = None
        self._leader = -1

    def to_arrays(self, begun: int) -> tuple[dict[str, np.ndarray], dict[str, int | float]]:
        """What a checkpoint holds of a race: arrays and numbers."""
        best = np.zeros(0) if self._best is None else self._best
        arrays = {"race_next": self._next, "race_before": self._before, "race_best": best}
        return arrays, {"leader": self._leader}

    def restore(self, arrays: dict[str, np.ndarray], numbers: dict[str, int | float]) -> None:
        """Set the race to what `to_arrays` returned."""
        self._next, self._before = arrays["race_next"], arrays["race_before"]
        best = arrays["race_best"]
        self._best = best if len(best) else None
        self._leader = int(numbers["leader"])

    def is_due(self, restart: Int[np.ndarray, "lanes"], steps: Int[np.ndarray, "lanes"]) -> bool:
        """Whether one of these running lanes is due for a look."""
        return bool((steps >= self._next[restart]).any())

    def until_look(self, restart: Int[np.ndarray, "lanes"], steps: Int[np.ndarray, "lanes"]) -> int:
        """Steps until one of these lanes is due, at least 1."""
        return max(1, int((self._next[restart] - steps).min()))

    def look(
        self,
        phis: Phi,
        restart: Int[np.ndarray, "lanes"],
        steps: Int[np.ndarray, "lanes"],
        running: Bool[np.ndarray, "lanes"],
        present: Bool[np.ndarray, "lanes"],
    ) -> Bool[np.ndarray, "lanes"]:
        """Which of the running lanes that are due are to be pruned."""
        due = running & (steps >= self._next[restart])
        ends = present & ~running
        if not (due | ends).any():
            return np.zeros_like(due)
        weights = np.asarray(self._weigh(phis, self._data).log_weights, float)
        finite = np.isfinite(weights).all(axis=1)
        bounds = np.where(finite, np.where(finite[:, None], weights, 0.0).mean(axis=1), -np.inf)
        leader = int(np.argmax(np.where(present, bounds, -np.inf)))
        better = self._best is None or bounds[leader] > self._best.mean()
        if better and np.isfinite(bounds[leader]):
            self._best, self._leader = weights[leader], int(restart[leader])
        behind = np.zeros_like(due)
        if self._best is not None:
            lanes = np.flatnonzero(due & finite & (restart != self._leader))
            gaps = weights[lanes] - self._best[None]
            gain = bounds[lanes] - self._before[restart[lanes]]
            se = gaps.std(axis=1, ddof=1) / NUM_DRAWS**0.5
            # the first look has no gain yet
            behind[lanes] = np.isfinite(gain) & should_prune(gaps.mean(axis=1), se, gain)
        seen = restart[due]
        self._before[seen] = np.where(finite[due], bounds[due], np.nan)
        self._next[seen] = np.ceil(steps[due] * _LOOK_STEP_RATIO)
        return behind
