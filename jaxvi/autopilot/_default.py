"""The default stages of `jaxvi.fit(key, target)`, by effort."""

from typing import Any

from jaxvi import _arguments
from jaxvi._fitting import EFFORTS
from jaxvi.autopilot._base import Stage
from jaxvi.autopilot._chains import Chains
from jaxvi.autopilot._flow import Flow
from jaxvi.autopilot._gaussian import Gaussian
from jaxvi.autopilot._line_searches import LineSearches
from jaxvi.autopilot._modes import Modes
from jaxvi.autopilot._nested_laplace import NestedLaplaceStage
from jaxvi.autopilot._noncentering import NoncenteringStage
from jaxvi.autopilot._weight_check import WeightCheck
from jaxvi.autopilot._weights import Weights

# relative effective sample size of q's weights below which something better is tried
_MIN_RELATIVE_ESS = {"quick": 0.0, "normal": 0.55, "thorough": 0.98}
_FLOW_CYCLES = {"quick": 0, "normal": 4, "thorough": 8}
_NUM_CHAINS = {"quick": 250, "normal": 500, "thorough": 1_000}
_MAX_ROUNDS = {"quick": 2, "normal": 4, "thorough": 7}


def default_stages(effort: str = "normal", *, polish: bool | str = "auto") -> tuple[Stage, ...]:
    """The stages of `jaxvi.fit(key, target)`, in their order.

    Restarts of a Gaussian; line searches for other modes, and a mixture of modes; importance
    weights and whether they vouch for the draws. Where they don't: nested Laplace, a Gaussian in
    non-centred coordinates, a flow, each of which replaces q if its weights are better; then
    weights are checked again. If nothing vouches for the draws even then: chains.

    Args:
        effort: "quick" tries nothing better than the Gaussian and runs short chains; "thorough"
            asks for more than weights that vouch for the draws.
        polish: as `jaxvi.fit` takes it: whether chains correct the draws.

    Returns:
        A tuple, for `jaxvi.fit(..., stages=...)` to take as it is, reordered or with others in it.

    Raises:
        ValueError: another effort.

    Example:
        >>> [stage.name for stage in jaxvi.autopilot.default_stages("quick")][:3]
        ['gaussian', 'line_searches', 'modes']
    """
    _arguments.one_of("effort", effort, EFFORTS)
    follow = polish is not False
    mending: dict[str, Any] = {
        "min_relative_ess": _MIN_RELATIVE_ESS[effort],
        "even_if_vouched": effort == "thorough",
    }
    return (
        Gaussian(chains_follow=follow),
        LineSearches(chains_follow=follow),
        Modes(),
        Weights(),
        WeightCheck(),
        NestedLaplaceStage(**mending),
        NoncenteringStage(chains_follow=follow, **mending),
        Flow(max_cycles=_FLOW_CYCLES[effort], **mending),
        WeightCheck(),
        Chains(_NUM_CHAINS[effort], _MAX_ROUNDS[effort], polish),
    )
