"""The default call as a list of stages, which users may reorder and extend.

`jaxvi.fit(key, target)` runs `default_stages()`; `jaxvi.fit(..., stages=...)` takes another tuple.
A stage looks at a `State`, and returns one with some fields replaced.
"""

from jaxvi.autopilot._base import Context, HasPrograms, Stage, State
from jaxvi.autopilot._chains import Chains
from jaxvi.autopilot._default import default_stages
from jaxvi.autopilot._flow import Flow
from jaxvi.autopilot._gaussian import Gaussian
from jaxvi.autopilot._gaussian import with_default_numbers as with_default_numbers
from jaxvi.autopilot._line_searches import LineSearches
from jaxvi.autopilot._modes import Modes
from jaxvi.autopilot._nested_laplace import NestedLaplaceStage
from jaxvi.autopilot._noncentering import NoncenteringStage
from jaxvi.autopilot._run import run_stages as run_stages
from jaxvi.autopilot._weight_check import WeightCheck
from jaxvi.autopilot._weights import Weights

__all__ = [
    "Chains",
    "Context",
    "Flow",
    "Gaussian",
    "HasPrograms",
    "LineSearches",
    "Modes",
    "NestedLaplaceStage",
    "NoncenteringStage",
    "Stage",
    "State",
    "WeightCheck",
    "Weights",
    "default_stages",
]
