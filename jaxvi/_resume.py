"""`jaxvi.resume`: continues a run of `jaxvi.fit` from its folder of checkpoints."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxvi import _arguments
from jaxvi._engine import Reporter
from jaxvi._fit import launch
from jaxvi._fitting import (
    FORMAT,
    PARTS,
    Layout,
    Request,
    check_parts,
    describe_device,
    describe_part,
    describe_stages,
    describe_target,
    describe_versions,
    engine_dtype,
)
from jaxvi._persistence import (
    RUN,
    Checkpoints,
    as_folder,
    describe_data,
    load_data,
    npz_files,
    run_name,
    spec_json,
)
from jaxvi._types import Data
from jaxvi.autopilot import Stage
from jaxvi.families import Family
from jaxvi.mesh import check_mesh, describe_mesh, writes
from jaxvi.noise import NoiseSource
from jaxvi.objectives import Objective
from jaxvi.results import Fit
from jaxvi.solvers import Solver
from jaxvi.target import Target


def resume(
    folder: str | os.PathLike[str],
    target: Target,
    *,
    data: Data = None,
    family: Family | None = None,
    objective: Objective | None = None,
    solver: Solver | None = None,
    noise: NoiseSource | None = None,
    max_seconds: float | None = None,
    progress: bool | Reporter | None = None,
    checkpoint_seconds: float = 60.0,
    mesh: Any = None,
    stages: Sequence[Stage] | None = None,
) -> Fit:
    """Continue a run of `jaxvi.fit(..., checkpoint=folder)` as if it had never stopped.

    The result is that of the uninterrupted run, bit for bit, on the same machine with the same
    versions: the noise of a step depends on the key and the step alone, not on how a run was cut
    into pieces. (Times differ.) A run that had ended gives its result again. Reading a checkpoint
    executes nothing: it holds arrays and JSON.

    For a default call, every fit that had begun is continued; weights and chains are computed
    again.

    The functions of the target are compared by a digest of their bytecode, constants, defaults,
    of what they close over, and of functions and numbers of their own module that they name. It
    can't see changes in functions of other modules, in files that they read, or inside objects
    that are neither dataclasses nor containers.

    Args:
        folder: what `jaxvi.fit` was given as `checkpoint`. The run goes on writing to it.
        target: the same as then, defined once more.
        data: the same as then. Only needed if the folder has no copy: for a `Stream`, and for
            arrays that are larger than 256 MiB or in containers other than dictionaries, lists and
            tuples. Arrays are compared in full. Of a stream these are compared: window, number of
            rows, shapes and dtypes; size and time of the last change of its files, wherever they
            are now; and 4,096 rows, of arrays at equal distances, of blocks the first. Other rows
            are not compared. A stream that can only be read in order is read from the start of the
            epoch in which the run stopped, up to the next row.
        family: as then. This and the next three are needed only if they can't be stored as JSON,
            as parts that are not jaxvi's own, such as a schedule or an optimiser not from optax.
        objective: as then.
        solver: as then.
        noise: as then.
        max_seconds: time limit for the rest of the run; None is no limit, whatever it was then.
        progress: as for `jaxvi.fit`.
        checkpoint_seconds: as for `jaxvi.fit`.
        mesh: devices to run on, where there was a mesh then: one of as many devices along each
            axis, in as many processes. All of these make the same call.
        stages: as then, where there were any.

    Returns:
        The `Fit`.

    Raises:
        TypeError, ValueError: a folder without a checkpoint; one of another target, data, family,
            solver, dtype, device, mesh or version; a file that was cut short or altered; a part
            that must be given.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> q = jaxvi.MeanField()
        >>> cut = jaxvi.fit(key, target, q, data=X, checkpoint=folder, max_seconds=0.01)
        >>> fit = jaxvi.resume(folder, target)
    """
    where = as_folder("folder", folder)
    _arguments.instance("target", target, Target, "jaxvi.Target(log_density, supports)")
    _arguments.number("checkpoint_seconds", checkpoint_seconds, above=0.0)
    check_parts(family, objective, solver, noise)
    header = _header(where)
    name = run_name(header)
    _same_place(header)
    _same_target(header["target"], target)
    given = {"family": family, "objective": objective, "solver": solver, "noise": noise}
    parts = {part: _part(part, header["parts"][part], given.get(part)) for part in PARTS}
    data = _data(where, name, header["data"], data)
    _same("dtype", header["dtype"], engine_dtype(target, data), "the dtype of then")
    _same_mesh(header["layout"]["mesh"], mesh)
    request = Request(
        jax.random.wrap_key_data(
            jnp.asarray(np.asarray(header["key"], np.uint32)), impl=header["key_impl"]
        ),
        target,
        data=data,
        start_scale=1.0,  # not used: lanes' files hold their starts
        layout=Layout(**header["layout"] | {"mesh": mesh}),
        effort=header["effort"],
        polish=header["polish"],
        stages=_stages(header["stages"], stages),
        **parts,
        **header["numbers"],
    )
    kept = Checkpoints(where, checkpoint_seconds, request.describe, data, name, writes(mesh))
    return launch(request, max_seconds, progress, kept)


def _stages(then: dict[str, str] | None, given: Sequence[Stage] | None) -> tuple[Stage, ...] | None:
    """The given stages, checked to be the same as the checkpoint's."""
    stages = None if given is None else tuple(given)
    if describe_stages(stages) != then:
        names = "the default ones" if then is None else then["text"]
        raise ValueError(
            f"stages: expected those of the checkpoint, {names}; got {given!r:.200}; try the same "
            "as then, or a fresh fit in another folder."
        )
    return stages


def _header(folder: Path) -> dict[str, Any]:
    try:
        header, _ = npz_files.unpack(folder / RUN)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(
            f"folder: expected one that jaxvi.fit(..., checkpoint=folder) has written to; got "
            f"{str(folder)!r}, where there is no {RUN}; try jaxvi.fit, which begins."
        ) from None
    _same("format", header.get("format"), FORMAT, "the version of jaxvi that wrote it")
    return header


def _same_place(header: dict[str, Any]) -> None:
    """Check that versions and device are the checkpoint's, since others round differently."""
    here, then = describe_versions(), header["versions"]
    for name in sorted(here | then):
        _same(name, then.get(name), here.get(name), f"an environment with {name} {then.get(name)}")
    _same("device", header["device"], describe_device(), "the kind of device of then")


def _same_target(then: dict[str, Any], target: Target) -> None:
    now = describe_target(target)
    _same("dimension", then["dim"], now["dim"], "the target of then")
    _same("supports", then["supports"], now["supports"], "the target of then")
    if then["digest"] != now["digest"]:
        raise ValueError(
            "target: expected the one of the checkpoint; got one whose log density, start or "
            "supports differ in code or constants from what they were; try the code of then, or a "
            "fresh fit in another folder."
        )


def _same_mesh(then: dict[str, int] | None, mesh: Any) -> None:
    """Check that the mesh is like the checkpoint's, since others round and deal out differently."""
    now = describe_mesh(None if mesh is None else check_mesh(mesh))
    if then != now:
        texts = [
            "none"
            if found is None
            else f"lanes={found['lanes']}, data={found['data']} in {found['processes']} process(es)"
            for found in (then, now)
        ]
        remedy = "mesh=None" if then is None else "jaxvi.make_mesh(lanes=..., data=...) of then"
        raise ValueError(
            f"mesh: expected one as the checkpoint's, {texts[0]}; got {texts[1]}; try {remedy}, or "
            "a fresh fit in another folder."
        )


def _same(name: str, then: Any, now: Any, remedy: str) -> None:
    if then != now:
        raise ValueError(
            f"resume: expected the {name} of the checkpoint, {then}; got {now}; try {remedy}, or a "
            "fresh fit in another folder."
        )


def _part(name: str, then: dict[str, Any], given: Any) -> Any:
    """The given family, solver or the like, checked; None gives the one of the checkpoint."""
    if given is not None:
        now = describe_part(given)
        if now["digest"] != then["digest"]:
            raise ValueError(
                f"{name}: expected that of the checkpoint, {then['text']}; got {given!r:.200}; try "
                f"leaving {name} out, or the same as then."
            )
        return given
    if not then["spec"]:
        raise ValueError(
            f"{name}: expected that of the checkpoint, {then['text']}, which is not jaxvi's own "
            f"and can't be made from a file; got None; try jaxvi.resume(folder, target, "
            f"{name}=...) with the same."
        )
    return spec_json.decode(then["spec"])


def _data(folder: Path, run: str, then: dict[str, Any], given: Data) -> Data:
    """The given data, checked to be the checkpoint's; None gives the checkpoint's copy."""
    if given is None and then["structure"] is None:
        raise ValueError(
            "data: expected the data of the checkpoint, of which it has no copy, since they are a "
            "Stream, larger than 256 MiB or in containers of their own; got None; try "
            "jaxvi.resume(folder, target, data=...)."
        )
    if given is None:
        given = load_data(folder, run, then["structure"])
    now = describe_data(given)
    _same("kind of data", then["kind"], now["kind"], f"{then['kind']} as data, as then")
    if now["shapes"] != then["shapes"]:
        shapes = [
            ", ".join(f"{p or 'data'} {d}{s}" for p, s, d in x["shapes"]) for x in (then, now)
        ]
        raise ValueError(
            f"data: expected those of the checkpoint, {shapes[0] or 'none'}; got "
            f"{shapes[1] or 'none'}; try the data of then, or a fresh fit in another folder."
        )
    if now["digest"] != then["digest"]:
        raise ValueError(
            "data: expected those of the checkpoint; got others of the same shapes, or a stream of "
            "another window or of files that were changed since; try the data of then, or a fresh "
            "fit in another folder."
        )
    return given
