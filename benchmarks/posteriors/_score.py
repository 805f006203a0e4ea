"""What is known of a posterior's marginals, and how far draws are from it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

MEAN_TOLERANCE = 0.1  # of the reference's sd
SD_TOLERANCE = 0.1  # relative
W1_TOLERANCE = 0.1  # of the reference's sd
LEVELS = np.arange(1, 200) / 200.0
SCALES = ("constrained", "unconstrained")


@dataclass(frozen=True, eq=False)
class Summary:
    """Marginals of a posterior on one scale, by coordinate.

    `quantiles` has one row for each of `LEVELS` (0.005 to 0.995). Where `sd_judged` is False no
    finite sample settles the sd (heavy tails), and `Score.within` leaves it out.
    """

    names: tuple[str, ...]
    mean: Float[np.ndarray, " coords"]
    sd: Float[np.ndarray, " coords"]
    quantiles: Float[np.ndarray, "levels coords"]
    sd_judged: Bool[np.ndarray, " coords"]


@dataclass(frozen=True, eq=False)
class Reference:
    """Both scales of one posterior; `mean`, `sd`, `quantiles` are of `scale`, the one to judge on.

    `num_draws` draws are behind mean and sd on the constrained scale (0: exact), and
    `num_quantile_draws` behind the quantiles. `ess_bulk` and `ess_tail` are the smallest over all
    coordinates; the error of a mean is its sd over the root of `ess_bulk`.
    """

    constrained: Summary
    unconstrained: Summary
    scale: str
    num_draws: int
    num_quantile_draws: int
    ess_bulk: float
    ess_tail: float

    def on(self, scale: str | None = None) -> Summary:
        """The summary on "constrained" or "unconstrained"; by default on `self.scale`."""
        scale = self.scale if scale is None else scale
        if scale not in SCALES:
            raise ValueError(
                f"scale: expected one of {SCALES}; got {scale!r}; try scale={self.scale!r}"
            )
        return self.constrained if scale == "constrained" else self.unconstrained

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the coordinates."""
        return self.on().names

    @property
    def mean(self) -> Float[np.ndarray, " coords"]:
        """Means by coordinate."""
        return self.on().mean

    @property
    def sd(self) -> Float[np.ndarray, " coords"]:
        """Standard deviations by coordinate."""
        return self.on().sd

    @property
    def quantiles(self) -> Float[np.ndarray, "levels coords"]:
        """Quantiles at `LEVELS` by coordinate."""
        return self.on().quantiles


@dataclass(frozen=True, eq=False)
class Score:
    """Distance of draws from a summary, by coordinate; the largest of each in the singular.

    `mean_errors` are in sds of the reference, `sd_errors` relative to it, and `w1s` are
    1-Wasserstein distances in sds: the mean over levels of |quantile - reference's quantile|,
    which leaves the outer half percent on either side to the mean and the sd. A NaN anywhere in
    the draws is a NaN here, and is not `within`.
    """

    summary: Summary
    mean_errors: Float[np.ndarray, " coords"]
    sd_errors: Float[np.ndarray, " coords"]
    w1s: Float[np.ndarray, " coords"]

    @property
    def mean_error(self) -> float:
        """Largest |mean - reference's| in its sds."""
        return float(np.max(self.mean_errors))

    @property
    def sd_error(self) -> float:
        """Largest |sd / reference's - 1| among the sds that are judged; 0 where none is."""
        return float(np.max(np.where(self.summary.sd_judged, self.sd_errors, 0.0)))

    @property
    def w1(self) -> float:
        """Largest W1 in sds."""
        return float(np.max(self.w1s))

    @cached_property
    def within_by_coordinate(self) -> Bool[np.ndarray, " coords"]:
        """Whether mean, sd and W1 of each coordinate are all within the tolerances."""
        sd_within = (self.sd_errors <= SD_TOLERANCE) | ~self.summary.sd_judged
        return (self.mean_errors <= MEAN_TOLERANCE) & sd_within & (self.w1s <= W1_TOLERANCE)

    @property
    def within(self) -> bool:
        """Whether every coordinate is within the tolerances."""
        return bool(np.all(self.within_by_coordinate))

    @property
    def worst(self) -> str:
        """Name of the coordinate that is farthest off in any of the three; a NaN is farthest."""
        sd_errors = np.where(self.summary.sd_judged, self.sd_errors, 0.0) / SD_TOLERANCE
        parts = self.mean_errors / MEAN_TOLERANCE, sd_errors, self.w1s / W1_TOLERANCE
        return self.summary.names[int(np.argmax(np.max(parts, axis=0)))]


def score(draws: Any, reference: Reference | Summary) -> Score:
    """Means, sds and quantiles of draws against those of the reference.

    Args:
        draws: `[draws, coords]`, flat on the reference's scale: `Posterior.flatten(params)`.
            The Monte Carlo error of the draws counts too: take 4000 or more.
        reference: a reference, judged on its own scale, or a summary on one scale.

    Raises:
        ValueError: where the number of coordinates differs, or draws are fewer than two.
    """
    summary = reference.on() if isinstance(reference, Reference) else reference
    values = np.asarray(draws, np.float64)
    if values.ndim != 2 or values.shape[1] != summary.mean.size or values.shape[0] < 2:
        raise ValueError(
            f"score: expected draws of shape (2 or more, {summary.mean.size}); got "
            f"{values.shape}; try posterior.flatten(params)"
        )
    # infinite draws give NaN here, which is not within any tolerance
    with np.errstate(invalid="ignore", over="ignore"):
        mean_errors = np.abs(values.mean(0) - summary.mean) / summary.sd
        sd_errors = np.abs(values.std(0, ddof=1) / summary.sd - 1.0)
        distances = np.abs(np.quantile(values, LEVELS, axis=0) - summary.quantiles)
        return Score(summary, mean_errors, sd_errors, distances.mean(0) / summary.sd)
