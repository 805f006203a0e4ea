"""The tables of the engine benchmark, from its raw numbers alone."""

from typing import Any

from benchmarks import _machine
from benchmarks._markdown import number, table
from benchmarks._timing import median, ratio

BARE_TARGETS = {1: 1.6, 64: 1.25}
PEER_TARGETS = {64: 3.0}
SECOND_TARGET = 20.0
IMPORT_TARGET = 0.3
SAME_ANSWER = 1.0  # nats
_FIT_NAMES = {
    "jaxvi": "`jaxvi.fit`",
    "numpyro_run": "NumPyro, `svi.run`",
    "numpyro_jit": "NumPyro, its steps jitted by hand",
}


def render(results: dict[str, Any]) -> str:
    """Everything, as Markdown."""
    parts = [
        _heading(results),
        "**1. A step of the engine over the bare gradients**",
        _bare(results["steps"]),
        "**2. A step of one restart, beside NumPyro**",
        _peer(results["steps"]),
        "**The bounds that both reach**, nats",
        _bounds(results["bounds"]),
        f"**3. Fits of {results['plan']['fit_steps']:,} steps to the mixture, one restart**",
        _fits(results["fits"]),
        "**4. Import**",
        _imports(results["imports"]),
    ]
    return "\n\n".join(parts)


def _heading(results: dict[str, Any]) -> str:
    machine, plan = results["machine"], results["plan"]
    words = "A quick run, too short to quote. " if results["quick"] else ""
    return (
        f"### engine, {_machine.label(machine)}\n\n"
        f"{words}`{results['command']}`, {results['date']}, {results['minutes']} minutes. "
        f"{_machine.sentence(machine)}. Medians of {plan['repeats']} repeats taken in turn; "
        "a ratio is the median of the repeats' ratios."
    )


def _verdict(value: float, target: float | None, *, at_most: bool) -> str:
    if target is None:
        return ""
    good = value <= target if at_most else value >= target
    return f"{'at most' if at_most else 'at least'} {target:g}: {'met' if good else '**missed**'}"


def _same(ours: float, theirs: float | None) -> str:
    """Whether two bounds are one answer; where they aren't, their times don't compare."""
    if theirs is None:
        return "-"
    apart = abs(ours - theirs)
    return "yes" if apart <= SAME_ANSWER else f"**no**, {apart:.1f} nats apart"


def _micro(values: list[float], share: int = 1) -> str:
    return number(1e6 * median(values) / share)


def _bare(rows: list[dict[str, Any]]) -> str:
    header = [
        "problem",
        "lanes",
        "engine, us",
        "gradients in a loop, us",
        "ratio",
        "target",
        "gradients called singly, us",
        "ratio",
        "compile engine, s",
        "compile gradients, s",
    ]
    lines = []
    for row in rows:
        seconds, lanes = row["seconds"], row["lanes"]
        strict = ratio(seconds["engine"], seconds["bare_loop"])
        lines.append(
            [
                row["problem"],
                str(lanes),
                _micro(seconds["engine"]),
                _micro(seconds["bare_loop"]),
                f"{strict:.2f}",
                _verdict(strict, BARE_TARGETS.get(lanes), at_most=True),
                _micro(seconds["bare_calls"]),
                f"{ratio(seconds['engine'], seconds['bare_calls']):.2f}",
                f"{row['compile']['engine']:.1f}",
                f"{row['compile']['bare_loop']:.1f}",
            ]
        )
    return table(header, lines)


def _peer(rows: list[dict[str, Any]]) -> str:
    header = [
        "problem",
        "lanes",
        "jaxvi, us per lane-step",
        "NumPyro, us per lane-step",
        "times faster",
        "target",
        "compile jaxvi, s",
        "compile NumPyro, s",
    ]
    lines = []
    for row in rows:
        seconds, lanes = row["seconds"], row["lanes"]
        ours = [row["problem"], str(lanes), _micro(seconds["engine"], lanes)]
        compile_ours = f"{row['compile']['engine']:.1f}"
        if "numpyro" not in seconds:
            lines.append([*ours, row["errors"]["numpyro"], "-", "-", compile_ours, "-"])
            continue
        faster = ratio(seconds["numpyro"], seconds["engine"])
        lines.append(
            [
                *ours,
                _micro(seconds["numpyro"], lanes),
                f"{faster:.2f}",
                _verdict(faster, PEER_TARGETS.get(lanes), at_most=False),
                compile_ours,
                f"{row['compile']['numpyro']:.1f}",
            ]
        )
    return table(header, lines)


def _bounds(rows: list[dict[str, Any]]) -> str:
    header = [
        "problem",
        "restarts",
        "steps",
        "jaxvi, best",
        "NumPyro, best",
        "jaxvi, median",
        "NumPyro, median",
        "exact optimum",
        "same answer",
    ]
    lines = []
    for row in rows:
        found = row["bounds"]
        cells = [row["problem"], str(row["lanes"]), f"{row['steps']:,}"]
        for statistic in (max, median):
            cells += [
                f"{statistic(found[name]):.2f}" if name in found else "-"
                for name in ("engine", "numpyro")
            ]
        optimum = row["optimum"]
        cells.append("-" if optimum is None else f"{optimum:.2f}")
        theirs = max(found["numpyro"]) if "numpyro" in found else None
        lines.append([*cells, _same(max(found["engine"]), theirs)])
    return table(header, lines)


def _fits(fits: dict[str, dict[str, Any]]) -> str:
    header = [
        "",
        "first, cold process, s",
        "second, new data, s",
        "second: jaxvi faster by",
        "target",
        "bound of the second, nats",
        "same answer",
    ]
    ours, reference = fits["jaxvi"]["second"], fits["jaxvi"]["bounds"]
    lines = []
    for kind, fit in fits.items():
        if not fit["second"]:
            lines.append([_FIT_NAMES[kind], fit["error"], *"-----"])
            continue
        faster = median(fit["second"]) / median(ours) if ours else float("nan")
        target = SECOND_TARGET if kind == "numpyro_run" else None
        lines.append(
            [
                _FIT_NAMES[kind],
                number(median(fit["first"])),
                number(median(fit["second"])),
                "" if kind == "jaxvi" else number(faster),
                _verdict(faster, target, at_most=False),
                f"{fit['bounds']['second']:.2f}",
                _same(reference["second"], fit["bounds"]["second"]) if reference else "-",
            ]
        )
    return table(header, lines)


def _imports(imports: dict[str, list[float]]) -> str:
    base = imports["jax, optax"]
    more = median(imports["jaxvi"]) - median(base)
    lines = [
        ["`import jax, optax`", number(median(base)), "", ""],
        [
            "`import jaxvi`",
            number(median(imports["jaxvi"])),
            f"{more:.2f}",
            _verdict(more, IMPORT_TARGET, at_most=True),
        ],
    ]
    return table(["", "seconds", "more", "target"], lines)
