"""Pytrees, packed arrays, triangular algebra, log weights, random numbers, the gamma function."""

from jaxvi._numerics import pytrees
from jaxvi._numerics.gamma import LOG_2PI, betaln, digamma, gammaln
from jaxvi._numerics.log_weights import relative_weights, softmax
from jaxvi._numerics.packed import Flat, Packed
from jaxvi._numerics.pytrees import on_device
from jaxvi._numerics.random import Keys, fold_in, generator_of, normals, split_key
from jaxvi._numerics.triangular import (
    diagonal_of,
    extract_lower,
    fill_lower,
    log_det_lower,
    outer_square,
    running_sum,
    triangle_size,
    with_diagonal,
)

__all__ = [
    "LOG_2PI",
    "Flat",
    "Keys",
    "Packed",
    "betaln",
    "diagonal_of",
    "digamma",
    "extract_lower",
    "fill_lower",
    "fold_in",
    "gammaln",
    "generator_of",
    "log_det_lower",
    "normals",
    "on_device",
    "outer_square",
    "pytrees",
    "relative_weights",
    "running_sum",
    "softmax",
    "split_key",
    "triangle_size",
    "with_diagonal",
]
