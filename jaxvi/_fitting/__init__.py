"""Fits with one solver and many restarts: checks, request, compiling ahead, search for modes."""

from jaxvi._fitting.arguments import (
    NoStart,
    Unconstrained,
    check_parts,
    check_reporter,
)
from jaxvi._fitting.modes import Modes, find_modes
from jaxvi._fitting.request import (
    FORMAT,
    NUMBERS,
    PARTS,
    Layout,
    Request,
    RunOptions,
    describe_device,
    describe_part,
    describe_stages,
    describe_target,
    describe_versions,
    engine_dtype,
)
from jaxvi._fitting.restarts import fit_restarts
from jaxvi._fitting.validation import EFFORTS, checked

__all__ = [
    "EFFORTS",
    "FORMAT",
    "NUMBERS",
    "PARTS",
    "Layout",
    "Modes",
    "NoStart",
    "Request",
    "RunOptions",
    "Unconstrained",
    "check_parts",
    "check_reporter",
    "checked",
    "describe_device",
    "describe_part",
    "describe_stages",
    "describe_target",
    "describe_versions",
    "engine_dtype",
    "find_modes",
    "fit_restarts",
]
