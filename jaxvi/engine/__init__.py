"""The pieces of `jaxvi.run` (setup, lane, noise, blocks of steps), for a loop of your own.

`make_setup` puts target, family, objective, solver and noise together, `begin_lane` makes a
restart's first state, `block_noise` the noise of a block of steps. A block is then either
`run_block`, or the solver's own `step` and `review` with a `block_trace`. All are pure functions:
jit them, map them, differentiate them. With the key of a run they give that run's phi.
"""

from jaxvi._engine import Lane, Setup, begin_lane, make_setup, noise_key
from jaxvi.engine._blocks import block_noise, block_trace, run_block

__all__ = [
    "Lane",
    "Setup",
    "begin_lane",
    "block_noise",
    "block_trace",
    "make_setup",
    "noise_key",
    "run_block",
]
