"""Validation of a call of `fit`: checks its arguments and fills in defaults."""

from dataclasses import replace
from typing import Any

from jaxvi import _arguments
from jaxvi._fitting.arguments import (
    check_concrete,
    check_layout,
    check_parts,
    default_draws,
)
from jaxvi._fitting.request import Layout, Request
from jaxvi.mesh import check_mesh, processes
from jaxvi.target import Target

_DEFAULT_NUM_RESTARTS, _DEFAULT_MAX_STEPS, _DEFAULT_NUM_EVAL_DRAWS = 8, 20_000, 2_000
EFFORTS = ("quick", "normal", "thorough")


def checked(raw: Request) -> Request:
    """The request with all arguments checked and, for a call with one solver, defaults filled in.

    Numbers of a default call that are None stay None: its stages choose.

    Raises:
        TypeError, ValueError: an argument that can't be used, or two that don't go together.
    """
    key = _arguments.typed_key(raw.key)
    _arguments.instance("target", raw.target, Target, "jaxvi.Target(log_density, supports)")
    _arguments.one_of("effort", raw.effort, EFFORTS)
    _arguments.one_of("polish", raw.polish, ("auto", True, False))
    check_parts(raw.family, raw.objective, raw.solver, raw.noise)
    check_concrete(raw.data)
    request = replace(raw, key=key, layout=_checked_layout(raw))
    numbers: dict[str, Any] = {
        "num_restarts": _integer_or_none("num_restarts", raw.num_restarts, 1),
        "max_steps": _integer_or_none("max_steps", raw.max_steps, 1),
        "num_eval_draws": _integer_or_none("num_eval_draws", raw.num_eval_draws, 2),
    }
    request = replace(request, **numbers)
    return request if request.is_default_call else _with_solver_numbers(request)


def _integer_or_none(name: str, value: Any, least: int) -> int | None:
    return None if value is None else _arguments.integer(name, value, least)


def _checked_layout(raw: Request) -> Layout:
    """The layout, checked; raises where the call can't have a pool, a race or a mesh."""
    pool = _integer_or_none("pool", raw.layout.pool, 1)
    layout = Layout(pool, _arguments.flag("race", raw.layout.race), raw.layout.mesh)
    check_layout(layout, raw.minibatch, raw.data)
    if raw.stages is not None and not raw.is_default_call:
        raise ValueError(
            "stages: expected None with a family, objective, solver, noise or minibatch, since "
            "stages are the default call's; got both; try one of the two."
        )
    if not raw.is_default_call:
        return layout
    if layout.mesh is not None and len(processes(check_mesh(layout.mesh))) > 1:
        raise ValueError(
            "expected a family or a solver with a mesh of several processes, since stages after "
            "the restarts run on one; got none; try solver=jaxvi.NaturalGradient()."
        )
    if layout.race:
        raise ValueError(
            "race: expected False with the default call, whose restarts look for separate modes; "
            "got True; try a family or a solver with it, such as jaxvi.FullRank()."
        )
    return layout


def _with_solver_numbers(request: Request) -> Request:
    """The request with defaults for restarts, steps, draws and start scale."""
    num = _DEFAULT_NUM_RESTARTS if request.num_restarts is None else request.num_restarts
    draws = request.num_eval_draws
    if draws is None:
        by_rows = request.minibatch is not None and request.target.has_rows
        draws = default_draws(request.data, num) if by_rows else _DEFAULT_NUM_EVAL_DRAWS
    steps, scale = request.max_steps, request.start_scale
    return replace(
        request,
        num_restarts=num,
        num_eval_draws=draws,
        max_steps=_DEFAULT_MAX_STEPS if steps is None else steps,
        start_scale=1.0 if scale is None else scale,
    )
