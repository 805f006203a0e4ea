"""Compiling programs quickly and ahead of time; the compile clock; LAPACK and BLAS threads."""

from jaxvi._compilation.ahead_of_time import Lowering, compiling_ahead, side_by_side
from jaxvi._compilation.blas_threads import one_thread
from jaxvi._compilation.clock import CompileClock, compile_clock
from jaxvi._compilation.fast_jit import ONCE, STEPS, light_jit
from jaxvi._compilation.fixed_batches import BLOCK_ROWS, apply_in_blocks
from jaxvi._compilation.jaxprs import equations, largest_array
from jaxvi._compilation.lapack_batches import matrices_at_once, one_at_a_time, points_at_once

__all__ = [
    "BLOCK_ROWS",
    "ONCE",
    "STEPS",
    "CompileClock",
    "Lowering",
    "apply_in_blocks",
    "compile_clock",
    "compiling_ahead",
    "equations",
    "largest_array",
    "light_jit",
    "matrices_at_once",
    "one_at_a_time",
    "one_thread",
    "points_at_once",
    "side_by_side",
]
