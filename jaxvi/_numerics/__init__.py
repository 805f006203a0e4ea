"""Pytrees, packed matrices, triangular algebra, random numbers and the gamma function."""

from jaxvi._numerics import pytrees
from jaxvi._numerics.gamma import betaln, digamma, gammaln
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
    "running_sum",
    "split_key",
    "triangle_size",
    "with_diagonal",
]
