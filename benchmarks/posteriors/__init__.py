"""Posteriors with known answers: 28 targets, their data, and summaries of reference draws.

All of it is meant for float64. README.md in this folder says where data and references come from.

Example:
    >>> from benchmarks import posteriors
    >>> posterior = posteriors.load("arK__arK")
    >>> fit = jaxvi.fit(key, posterior.target, jaxvi.FullRank(), data=posterior.data)
    >>> posterior.score(fit.sample(key, 4000)).within
"""

from benchmarks.posteriors._catalogue import load, names
from benchmarks.posteriors._posterior import Posterior
from benchmarks.posteriors._score import (
    MEAN_TOLERANCE,
    SD_TOLERANCE,
    W1_TOLERANCE,
    Reference,
    Score,
    Summary,
    score,
)

__all__ = [
    "MEAN_TOLERANCE",
    "SD_TOLERANCE",
    "W1_TOLERANCE",
    "Posterior",
    "Reference",
    "Score",
    "Summary",
    "load",
    "names",
    "score",
]
