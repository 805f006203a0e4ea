"""Status codes: how the optimisation of one restart (a lane) ended, with a text and a remedy."""

from enum import IntEnum


class Status(IntEnum):
    """How the optimisation of one restart ended, or that it still runs.

    The code is an integer, so that it lives in compiled arrays; `text` says what it means and
    `remedy` what to do about it. `ok` is true where the result can be used as it stands.
    """

    RUNNING = 0
    CONVERGED = 1
    STEP_LIMIT = 2
    NOT_FINITE = 3
    STALLED = 4
    INTERRUPTED = 5
    NO_START = 6
    UNBOUNDED = 7
    SINGULAR = 8
    PRUNED = 9

    @property
    def text(self) -> str:
        """What the code means, in a few words for reports."""
        return _TEXTS[self][0]

    @property
    def remedy(self) -> str:
        """What the user can do about it, in one sentence."""
        return _TEXTS[self][1]

    @property
    def ok(self) -> bool:
        """Whether the optimisation converged."""
        return self is Status.CONVERGED


_TEXTS: dict[Status, tuple[str, str]] = {
    Status.RUNNING: ("running", "Nothing to do: the lane has not ended yet."),
    Status.CONVERGED: ("converged", "Nothing to do."),
    Status.STEP_LIMIT: (
        "step limit",
        "The bound was still being improved or checked: raise max_steps, raise the learning "
        "rate, or start closer.",
    ),
    Status.NOT_FINITE: (
        "not finite",
        "The bound or its gradient was not finite and smaller steps did not help: check the log "
        "density for NaN or -inf where q has mass, bound the parameters with a support, lower "
        "the learning rate, or use float64.",
    ),
    Status.STALLED: (
        "stalled",
        "The step size was lowered to its floor and the bound's noise still hides whether it "
        "can be improved: raise num_draws, or the solver's tolerance.",
    ),
    Status.INTERRUPTED: ("interrupted", "Stopped from outside: fit again with more time."),
    Status.NO_START: (
        "no finite start",
        "The log density or its gradient was not finite at every start tried: pass start=, "
        "lower start_scale, or check the supports.",
    ),
    Status.UNBOUNDED: (
        "unbounded",
        "What is maximised grows without limit: the posterior may be improper, or infinite at "
        "the edge of a support (add or tighten a prior), or the frozen draws are too few for "
        "the family (raise num_draws).",
    ),
    Status.SINGULAR: (
        "singular curvature",
        "The log density is flat along some direction, or its second derivatives are not finite, "
        "where the search ended: add a prior, or use a solver that needs gradients only, such "
        "as BatchAndMatch.",
    ),
    Status.PRUNED: (
        "overtaken",
        "Fell behind another restart in a race and was dropped: leave race out to see it end.",
    ),
}


LOST = (Status.UNBOUNDED, Status.SINGULAR, Status.NOT_FINITE, Status.NO_START)
"""How a lane ends whose q is nothing to start from."""
