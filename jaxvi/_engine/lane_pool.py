"""A pool as work for the host loop; it is replaced by a narrower one if memory runs out."""

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
    """A pool that runs until all restarts have ended, halved in width until it fits in memory."""

    def __init__(self, pool: Pool) -> None:
        self._pool, self._saves = pool, True

    @property
    def running(self) -> bool:
        """Whether any restart has not ended or not begun."""
        return self._pool.ended < self._pool.num_restarts

    def settle(self) -> None:
        """Store restarts that have ended, and start others in their lanes."""
        while not self._fits(self._pool.settle):
            pass

    def advance(self) -> bool:
        """Run a chunk of the lanes that are running."""
        self._fits(self._pool.advance)
        return True

    def _fits(self, act: Callable[[], None]) -> bool:
        """Call `act`; if it runs out of memory, put a narrower pool in place and return False.

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
        """As asked, but save a pool of a new width at once: a resumed run needs that width."""
        save, self._saves = save or self._saves, False
        return stop, save

    def progress(self, seconds: float) -> Progress:
        """The state of the run, with restarts that have not begun counted as running."""
        pool = self._pool
        counts = pool.last_step, pool.max_steps, pool.num_restarts, pool.num_left
        return Progress(*counts, pool.best_bound, seconds)

    def snapshot(self) -> Snapshot:
        """Lanes, results so far, history and counters, to resume from."""
        return snapshot(self._pool)

    def restore(self, found: Snapshot) -> None:
        """Set the pool to a snapshot of a pool of the same width."""
        restore(self._pool, found)
        self._saves = False

    def outcome(self, stopped: bool) -> Run:
        """Parameters, status, steps and history of all restarts that were begun."""
        pool = self._pool
        results = pool.end()
        phi = jax.tree.map(jnp.asarray, results.phi)
        history = pool.history.history(pool.max_steps, len(results.steps))
        ended = results.status, results.steps
        return Run(phi, *ended, history, pool.seconds, stopped, pool.use())
