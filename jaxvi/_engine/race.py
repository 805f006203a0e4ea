"""Racing: restarts that can no longer win make room for others.

Successive halving by what restarts themselves show, not by a quota: as their steps grow by half,
the bounds of all lanes are had on the same draws, and a lane is dropped that can't be expected to
end above the best one, beyond the noise of the difference: because it is behind by more than it
still gains, or because it is level with it and gains no more.
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
_FIRST_LOOK = 2  # blocks
_GROWTH = 1.5
_STILL_TO_COME = 3.0  # times the last gain: gains that shrink by a quarter from look to look
_NOISE = 3.0  # standard errors
_TOLERANCE = 0.2  # nats that two lanes at one optimum may differ by


def should_prune(
    gap: Float[np.ndarray, "lanes"],
    gap_se: Float[np.ndarray, "lanes"],
    gain: Float[np.ndarray, "lanes"],
) -> Bool[np.ndarray, "lanes"]:
    """Lanes that can't be expected to end above the best one by more than a tolerance.

    Args:
        gap: bound less the best one's, on common draws, nats.
        gap_se: its standard error.
        gain: by how much the bound rose while the lane's steps grew by half.

    A lane that would end above the best by more than 0.2 nats is dropped only if its gains shrink
    by less than a quarter from look to look, or, by noise alone, with probability 0.0013 a look
    (a normal beyond three standard errors).
    """
    hope = _STILL_TO_COME * np.maximum(gain, 0.0) + _NOISE * gap_se
    return gap + hope < _TOLERANCE


class Race:
    """What is known of restarts in a race."""

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
        self._next = np.full(num_restarts, _FIRST_LOOK * block_length(setup))
        self._before = np.full(num_restarts, np.nan)
        self._best: Float[np.ndarray, "draws"] | None = None
        self._leader = -1

    def to_arrays(self, begun: int) -> tuple[dict[str, np.ndarray], dict[str, int | float]]:
        """What a checkpoint holds of a race: arrays and numbers."""
        best = np.zeros(0) if self._best is None else self._best
        arrays = {"race_next": self._next, "race_before": self._before, "race_best": best}
        return arrays, {"leader": self._leader}

    def restore(self, arrays: dict[str, np.ndarray], numbers: dict[str, int | float]) -> None:
        """As it was kept."""
        self._next, self._before = arrays["race_next"], arrays["race_before"]
        best = arrays["race_best"]
        self._best = best if len(best) else None
        self._leader = int(numbers["leader"])

    def is_due(self, restart: Int[np.ndarray, "lanes"], steps: Int[np.ndarray, "lanes"]) -> bool:
        """Whether one of these lanes, which run, is to be looked at."""
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
        """Which lanes to drop: of those that run and are due, what is overtaken."""
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
            # a first look only sees where a lane is
            behind[lanes] = np.isfinite(gain) & should_prune(gaps.mean(axis=1), se, gain)
        seen = restart[due]
        self._before[seen] = np.where(finite[due], bounds[due], np.nan)
        self._next[seen] = np.ceil(steps[due] * _GROWTH)
        return behind
