"""Variational families: the distributions q that a bound is maximised over."""

from jaxvi.families._affine import Affine, AffineParams, Bijector, HasAffineForm
from jaxvi.families._autoregressive import AutoregressiveFlow
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
from jaxvi.families._base import standard_normal_log_prob as standard_normal_log_prob
from jaxvi.families._coupling import CouplingFlow
from jaxvi.families._fixed_array import FixedArray
from jaxvi.families._flow_base import FlowParams
from jaxvi.families._full_rank import FullRank, FullRankParams
from jaxvi.families._full_rank import cholesky_factor as cholesky_factor
from jaxvi.families._full_rank import scale_tril_on_host as scale_tril_on_host
from jaxvi.families._low_rank import LowRank, LowRankParams
from jaxvi.families._mean_field import MeanField, MeanFieldParams
from jaxvi.families._mixture import Mixture, MixtureParams
from jaxvi.families._noncentering import Noncentering, NoncenteringParams
from jaxvi.families._student_t import StudentT, StudentTParams
from jaxvi.families._transformed import Transformed, TransformedParams

__all__ = [
    "Affine",
    "AffineParams",
    "AutoregressiveFlow",
    "Bijector",
    "CouplingFlow",
    "Family",
    "FixedArray",
    "FlowParams",
    "FullRank",
    "FullRankParams",
    "HasAffineForm",
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
    "Mixture",
    "MixtureParams",
    "Moments",
    "Noncentering",
    "NoncenteringParams",
    "NormalNoiseFamily",
    "StudentT",
    "StudentTParams",
    "Transformed",
    "TransformedParams",
    "transform_and_log_prob",
]
