"""Draws with heavier tails than q's: they see mass that q's own miss. Made on the host.

As a part of the program that weighs draws this took a third of that one's time to compile, and few
fits ask for it.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Key

from jaxvi._numerics import generator_of
from jaxvi.families import CouplingFlow, Family, FullRank, MeanField, scale_tril_on_host

_DF = 5  # degrees of freedom


def has_heavy_tailed_draws(family: Family) -> bool:
    """Whether q maps as many normals as there are coordinates, one to one."""
    return isinstance(family, FullRank | MeanField | CouplingFlow)


def widened(
    key: Key[Array, ""], phi: Any, noise: Float[Array, "draws dim"]
) -> tuple[Float[np.ndarray, "draws dim"], Float[np.ndarray, "draws"]]:
    """Normal noise with tails of t's of 5 degrees of freedom, and its log density over a normal's.

    Every other row is a multivariate t, times a factor of its own. Others are so along one
    direction, that in which one coordinate of z varies, each coordinate in turn: a tail of one
    coordinate is not met by rows that are far out in all of them at once.
    """
    rows = np.asarray(noise, float)
    num, dim = rows.shape
    factor = np.sqrt(_DF / generator_of(key).chisquare(_DF, size=(num, 1)))
    directions = _directions(phi, dim)
    along = directions[np.arange(num) // 2 % dim]
    part = np.sum(rows * along, axis=1, keepdims=True) * along
    whole = np.arange(num)[:, None] % 2 == 0
    rows = rows + (factor - 1.0) * np.where(whole, rows, part)
    every = _t_over_normal(np.sum(rows**2, axis=1), dim)
    one = _t_over_normal((rows @ directions.T) ** 2, 1)
    each = np.logaddexp.reduce(one, axis=1) - math.log(dim)
    over = np.logaddexp(every, each) - math.log(2.0)
    return rows.astype(noise.dtype), over


def _directions(phi: Any, dim: int) -> Float[np.ndarray, "dim dim"]:
    """Unit vectors of noise, one a row, along which a coordinate of z varies, and others with it.

    Of a flow those of the Gaussian at its end, where its layers do nothing.
    """
    lower = getattr(phi, "lower", None)
    if lower is None or lower.shape[0] == 0:  # independent
        return np.eye(dim)
    factor = scale_tril_on_host(phi.log_diag, lower)
    return factor / np.linalg.norm(factor, axis=1, keepdims=True)


def _t_over_normal(square: Float[np.ndarray, "*rows"], dim: int) -> Float[np.ndarray, "*rows"]:
    """Log density of a standard multivariate t over a normal's where the norm has this square."""
    half = 0.5 * (_DF + dim)
    constant = math.lgamma(half) - math.lgamma(0.5 * _DF) - 0.5 * dim * math.log(0.5 * _DF)
    return constant - half * np.log1p(square / _DF) + 0.5 * square
