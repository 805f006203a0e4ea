"""All posteriors by name."""

from benchmarks.posteriors import gp, hierarchical, mixture, regression, synthetic, time_series
from benchmarks.posteriors._posterior import Entry, Posterior, read, read_reference

ENTRIES: dict[str, Entry] = dict(
    sorted(
        (name, entry)
        for module in (gp, hierarchical, mixture, regression, synthetic, time_series)
        for name, entry in module.ENTRIES.items()
    )
)
GROUPS = ("small", "large")


def names(group: str | None = None) -> tuple[str, ...]:
    """Names of the posteriors: "small" (21, up to 26 dimensions), "large" (7), or all."""
    if group is not None and group not in GROUPS:
        raise ValueError(f"group: expected one of {GROUPS} or None; got {group!r}; try None")
    return tuple(name for name, entry in ENTRIES.items() if group in (None, entry.group))


def load(name: str) -> Posterior:
    """One posterior. Its target is the same object every time, so that programs are shared."""
    if name not in ENTRIES:
        raise ValueError(f"name: expected one of {names()}; got {name!r}; try {names()[0]!r}")
    entry = ENTRIES[name]
    data = entry.prepare(read(name))
    return Posterior(name, entry.target, data, read_reference(name), entry.report)
