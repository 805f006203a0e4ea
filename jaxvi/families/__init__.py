"""Variational families: the distributions q that a bound is maximised over."""

from jaxvi.families._base import (
    Family,
    HasCovariance,
    HasEntropy,
    HasGaussianInit,
    HasJointTransform,
    HasMirror,
    HasMoments,
    HasUniform,
    Moments,
    NormalNoiseFamily,
    transform_and_log_prob,
)
from jaxvi.families._full_rank import FullRank, FullRankParams
from jaxvi.families._low_rank import LowRank, LowRankParams
from jaxvi.families._mean_field import MeanField, MeanFieldParams
from jaxvi.families._student_t import StudentT, StudentTParams

__all__ = [
    "Family",
    "FullRank",
    "FullRankParams",
    "HasCovariance",
    "HasEntropy",
    "HasGaussianInit",
    "HasJointTransform",
    "HasMirror",
    "HasMoments",
    "HasUniform",
    "LowRank",
    "LowRankParams",
    "MeanField",
    "MeanFieldParams",
    "Moments",
    "NormalNoiseFamily",
    "StudentT",
    "StudentTParams",
    "transform_and_log_prob",
]
