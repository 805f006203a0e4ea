"""`jax.jit` with a lower optimisation level on CPUs, since compiling is most of a first fit."""

from collections.abc import Callable
from functools import partial, update_wrapper
from typing import Any

import jax
import numpy as np

# LLVM's optimisation levels. At 1, programs of steps and draws took 12 to 15 % less time to compile
# than at XLA's own level, and ran as fast (flows 10 % faster, wide Gaussians 15 % slower). At 0
# they took a third less to compile, and two to four times as long to run: for running once.
STEPS, ONCE = 1, 0


class LightJit:
    """`jax.jit(function, **choices)`, compiled at the given LLVM optimisation level on CPUs.

    Inside another traced program it is compiled with that program, at its level.
    """

    def __init__(self, function: Callable[..., Any], level: int, **choices: Any) -> None:
        options = {"xla_backend_optimization_level": str(level)}
        self._plain = jax.jit(function, **choices)
        self._light = jax.jit(function, compiler_options=options, **choices)
        update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the jitted function."""
        # inside a trace, a number that is put on a device becomes a tracer as well
        seen = (jax.device_put(_NUMBER), args, kwargs)
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(seen))
        return (self._plain if traced else self._chosen())(*args, **kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
        """Lower the function for these arguments, as `jax.jit`'s `lower` does."""
        lowered: jax.stages.Lowered = self._chosen().lower(*args, **kwargs)
        return lowered

    def num_programs(self) -> int:
        """Number of compiled programs in the cache."""
        return int(self._chosen()._cache_size())

    def _chosen(self) -> Any:
        return self._light if jax.default_backend() == "cpu" else self._plain


_NUMBER = np.zeros(())


def light_jit(level: int, **choices: Any) -> Callable[[Callable[..., Any]], LightJit]:
    """Decorator that makes a function a `LightJit`."""
    return partial(LightJit, level=level, **choices)
