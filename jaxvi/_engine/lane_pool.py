"""Restarts in turn in the lanes of a pool, for the host loop; narrower where memory is short."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxvi._engine.driver import Run
from jaxvi._engine.memory import out_of_memory, warn_of_memory
from jaxvi._engine.pool import Pool
from jaxvi._engine.pool_snapshot import restore, snapshot
from jaxvi._engine.progress import Progress
from jaxvi._engine.snapshot import Snapshot


class LanePool:
    """A pool that runs until all restarts have ended; half as wide where it doesn't fit."""

    def __init__(self, pool: Pool) -> None:
        self._pool, self._saves = pool, True

    @property
    def running(self) -> bool:
        """Whether a restart has not ended."""
        return self._pool.ended < self._pool.num_restarts

    def settle(self) -> None:
        """Put away restarts that have ended and begin others in their lanes."""
        while not self._fits(self._pool.settle):
            pass

    def advance(self) -> bool:
        """A chunk of the lanes that run."""
        self._fits(self._pool.advance)
        return True

    def _fits(self, act: Callable[[], None]) -> bool:
        """Whether something could be done in memory; if not, a narrower pool takes over.

        Only a pool in which no lane has moved can be replaced, since nothing is lost with it.
        """
        try:
            act()
        except Exception as error:
            pool = self._pool
            if not (pool.is_new and pool.width > 1 and out_of_memory(error)):
                raise
            warn_of_memory(pool.width)
            self._pool, self._saves = pool.narrower(), True
            return False
        return True

    def agree(self, stop: bool, save: bool) -> tuple[bool, bool]:
        """Save a pool of a new width at once: a resumed run begins with it."""
        save, self._saves = save or self._saves, False
        return stop, save

    def progress(self, seconds: float) -> Progress:
        """Where the run stands, restarts that have not begun included."""
        pool = self._pool
        counts = pool.last_step, pool.max_steps, pool.num_restarts, pool.num_left
        return Progress(*counts, pool.best_bound, seconds)

    def snapshot(self) -> Snapshot:
        """The pool as arrays and numbers."""
        return snapshot(self._pool)

    def restore(self, found: Snapshot) -> None:
        """Go on from a snapshot of a pool of this width."""
        restore(self._pool, found)
        self._saves = False

    def outcome(self, stopped: bool) -> Run:
        """All restarts that were begun."""
        pool = self._pool
        results = pool.end()
        phi = jax.tree.map(jnp.asarray, results.phi)
        history = pool.history.history(pool.max_steps, len(results.steps))
        ended = results.status, results.steps
        return Run(phi, *ended, history, pool.seconds, stopped, pool.use())
