"""Base noise of a heavy-tailed importance proposal, which reaches mass that q's tails miss.

It is drawn on the host: inside the program for importance weights it took a third of that program's
time to compile, and few fits need it.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Key

from jaxvi._numerics import generator_of
from jaxvi.families import CouplingFlow, Family, FullRank, MeanField, scale_tril_on_host

_DF = 5  # degrees of freedom


def has_heavy_tailed_draws(family: Family) -> bool:
    """Whether q maps a normal to each coordinate, one to one, as heavy-tailed draws need."""
    return isinstance(family, FullRank | MeanField | CouplingFlow)


def heavy_tailed_noise(
    key: Key[Array, ""], phi: Any, noise: Float[Array, "draws dim"]
) -> tuple[Float[np.ndarray, "draws dim"], Float[np.ndarray, "draws"]]:
    """Noise with t tails of 5 degrees of freedom, and its log density relative to the normal's.

    Half of the rows follow a multivariate t. The others are t along one direction only, that in
    which one coordinate of z varies, each coordinate in turn: rows that are far out in all
    coordinates at once do not cover the tail of one coordinate.
    """
    rows = np.asarray(noise, float)
    num, dim = rows.shape
    factor = np.sqrt(_DF / generator_of(key).chisquare(_DF, size=(num, 1)))
    directions = _directions(phi, dim)
    along = directions[np.arange(num) // 2 % dim]
    part = np.sum(rows * along, axis=1, keepdims=True) * along
    in_all = np.arange(num)[:, None] % 2 == 0
    rows = rows + (factor - 1.0) * np.where(in_all, rows, part)
    every = _t_over_normal(np.sum(rows**2, axis=1), dim)
    one = _t_over_normal((rows @ directions.T) ** 2, 1)
    each = np.logaddexp.reduce(one, axis=1) - math.log(dim)
    over = np.logaddexp(every, each) - math.log(2.0)
    return rows.astype(noise.dtype), over


def _directions(phi: Any, dim: int) -> Float[np.ndarray, "dim dim"]:
    """Unit vectors in noise along which each coordinate of z varies most, one a row.

    For a flow they are those of its Gaussian, as if its layers were the identity.
    """
    lower = getattr(phi, "lower", None)
    if lower is None or lower.shape[0] == 0:  # independent
        return np.eye(dim)
    factor = scale_tril_on_host(phi.log_diag, lower)
    return factor / np.linalg.norm(factor, axis=1, keepdims=True)


def _t_over_normal(square: Float[np.ndarray, "*rows"], dim: int) -> Float[np.ndarray, "*rows"]:
    """Log ratio of a standard multivariate t density to the normal's, given the squared norm."""
    half = 0.5 * (_DF + dim)
    constant = math.lgamma(half) - math.lgamma(0.5 * _DF) - 0.5 * dim * math.log(0.5 * _DF)
    return constant - half * np.log1p(square / _DF) + 0.5 * square
