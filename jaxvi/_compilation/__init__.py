"""What makes programs quick to compile and safe to run: jit, ahead of time, clocks, LAPACK and BLAS."""

from jaxvi._compilation.ahead_of_time import Lowering as Lowering
from jaxvi._compilation.ahead_of_time import compiling_ahead as compiling_ahead
from jaxvi._compilation.ahead_of_time import side_by_side as side_by_side
from jaxvi._compilation.blas_threads import one_thread as one_thread
from jaxvi._compilation.clock import compile_clock as compile_clock
from jaxvi._compilation.clock import waiting_for_compiler as waiting_for_compiler
from jaxvi._compilation.fast_jit import ONCE as ONCE
from jaxvi._compilation.fast_jit import STEPS as STEPS
from jaxvi._compilation.fast_jit import light_jit as light_jit
from jaxvi._compilation.fixed_batches import BLOCK as BLOCK
from jaxvi._compilation.fixed_batches import in_blocks as in_blocks
from jaxvi._compilation.jaxprs import largest_array as largest_array
from jaxvi._compilation.lapack_batches import matrices_at_once as matrices_at_once
from jaxvi._compilation.lapack_batches import one_at_a_time as one_at_a_time
from jaxvi._compilation.lapack_batches import points_at_once as points_at_once
