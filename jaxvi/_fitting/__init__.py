"""One solver, many restarts: arguments, the request, compiling ahead, the search for modes."""

from jaxvi._fitting.arguments import (
    NoStart,
    Unconstrained,
    check_parts,
    check_reporter,
    default_draws,
)
from jaxvi._fitting.request import (
    FORMAT,
    Layout,
    Parts,
    Request,
    describe_device,
    describe_part,
    describe_target,
    describe_versions,
    engine_dtype,
)
from jaxvi._fitting.restarts import fit_restarts

__all__ = [
    "FORMAT",
    "Layout",
    "NoStart",
    "Parts",
    "Request",
    "Unconstrained",
    "check_parts",
    "check_reporter",
    "default_draws",
    "describe_device",
    "describe_part",
    "describe_target",
    "describe_versions",
    "engine_dtype",
    "fit_restarts",
]
