"""What a measurement was taken on, in words that name no host and no path."""

import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any


def describe() -> dict[str, str | int]:
    """Processor, device, and versions of what was measured."""
    import jax
    import jax.numpy as jnp

    device = jax.devices()[0]
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": _cores(),
        "processor": _processor(),
        "platform": device.platform,
        "device": device.device_kind,
        "devices": len(jax.devices()),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "numpyro": _version("numpyro"),
        "optax": _version("optax"),
        "dtype": str(jnp.zeros(()).dtype),
    }


def label(machine: dict[str, str | int]) -> str:
    """`cpu`, or a slug of the accelerator's name: what result files are called by."""
    if machine["platform"] == "cpu":
        return "cpu"
    return re.sub(r"[^a-z0-9]+", "-", str(machine["device"]).lower()).strip("-")


def sentence(machine: dict[str, str | int]) -> str:
    """The machine in one line."""
    device = machine["device"] if machine["platform"] != "cpu" else machine["processor"]
    return (
        f"{machine['platform']} ({device}), {machine['cores']} cores, {machine['system']}; "
        f"Python {machine['python']}, jax {machine['jax']}, optax {machine['optax']}, "
        f"NumPyro {machine['numpyro']}; {machine['dtype']}"
    )


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown processor"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def heading(name: str, results: dict[str, Any]) -> str:
    """What was measured by which command, when, for how long and on what."""
    machine, sections = results["machine"], results["sections"]
    note = "A quick run, too short to quote. " if results["quick"] else ""
    dates = sorted({section["date"] for section in sections.values()})
    minutes = sum(section.get("minutes", 0.0) for section in sections.values())
    return (
        f"### {name}, {label(machine)}\n\n"
        f"{note}`{results['command']}`, {' and '.join(dates)}, {minutes:.1f} minutes. "
        f"{sentence(machine)}; BlackJAX {machine['blackjax']}. Seconds of warm runs are "
        f"medians of {results['plan']['warm']} with other keys."
    )
