"""The engine: runs many restarts (lanes) of an optimisation as a compiled batch and ranks them."""

from jaxvi._engine.data_sources import DataSource, EvalDraws, Streamed, Whole, data_source
from jaxvi._engine.driver import Run, Work, drive
from jaxvi._engine.history import History
from jaxvi._engine.interruption import interrupts
from jaxvi._engine.lane_batch import LaneBatch
from jaxvi._engine.lane_pool import LanePool
from jaxvi._engine.lanes import advance_lanes, lane_results
from jaxvi._engine.limits import MAX_BLOCKS, Limits
from jaxvi._engine.loop import Lane, advance_block, draw_block, start_lane, trace_block
from jaxvi._engine.memory import MAX_LANES_TOGETHER, out_of_memory, usual_width, warn_of_memory
from jaxvi._engine.on_mesh import OnMesh, Spread, advance_on_mesh
from jaxvi._engine.one_lane import LaneResult, begin_lane, noise_key, run
from jaxvi._engine.placement import OneDevice, Placement
from jaxvi._engine.pool import Pool, PoolUse
from jaxvi._engine.progress import Progress, Reporter, make_reporter
from jaxvi._engine.ranking import Ranking
from jaxvi._engine.setup import ConjugateSetup, Setup, make_setup
from jaxvi._engine.snapshot import Snapshot, SnapshotSink
from jaxvi._engine.starts import Starts, WarmStart, start_lanes

__all__ = [
    "MAX_BLOCKS",
    "MAX_LANES_TOGETHER",
    "ConjugateSetup",
    "DataSource",
    "EvalDraws",
    "History",
    "Lane",
    "LaneBatch",
    "LanePool",
    "LaneResult",
    "Limits",
    "OnMesh",
    "OneDevice",
    "Placement",
    "Pool",
    "PoolUse",
    "Progress",
    "Ranking",
    "Reporter",
    "Run",
    "Setup",
    "Snapshot",
    "SnapshotSink",
    "Spread",
    "Starts",
    "Streamed",
    "WarmStart",
    "Whole",
    "Work",
    "advance_block",
    "advance_lanes",
    "advance_on_mesh",
    "begin_lane",
    "data_source",
    "draw_block",
    "drive",
    "interrupts",
    "lane_results",
    "make_reporter",
    "make_setup",
    "noise_key",
    "out_of_memory",
    "run",
    "start_lane",
    "start_lanes",
    "trace_block",
    "usual_width",
    "warn_of_memory",
]
