"""Sparse Hessians: the pattern of zeros is found once, then few products give the Hessian.

Hierarchical models have Hessians with blocks or arrows: groups of coordinates that interact only
through a few shared ones. Columns that share no row can be read off one product with their sum
(Curtis, Powell and Reid 1974), and symmetry saves more (Coleman and Moré 1984). Such a Hessian
costs as many products as its columns have colours, not one for each column.
"""

from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxvi.solvers._base import Problem

_NUM_POINTS, _POINT_SD, _SEED = 3, 0.5, 20040  # points at which zeros are searched for
_MAX_COLOURS_PER_DIM = 0.6  # above it a sparse Hessian does not save enough
_MAX_SPLITS = 12  # into dense and sparse columns that are tried
_MAX_RELATIVE_GAP = 1e-3  # between a product and that of the assembled Hessian


@dataclass(frozen=True)
class Sparsity:
    """Sparsity pattern of a Hessian, and a colouring of its columns.

    Two columns have the same colour only if every entry of both can be read off the product with
    their sum, or off another column by symmetry.
    """

    dim: int
    num_colours: int
    colours: tuple[int, ...] = field(repr=False)
    dense: tuple[int, ...] = field(repr=False)  # columns with a colour of their own
    packed: bytes = field(repr=False)  # the pattern, a bit an entry

    def pattern(self) -> Bool[np.ndarray, "dim dim"]:
        """True where an entry may differ from zero."""
        bits = np.unpackbits(np.frombuffer(self.packed, np.uint8), count=self.dim**2)
        return bits.reshape(self.dim, self.dim).astype(bool)

    def mean_hessian(
        self, problem: Problem, z: Float[Array, "some dim"]
    ) -> Float[Array, "dim dim"]:
        """Mean Hessian over the rows of z; NaN if it does not have this pattern.

        One product more than there are colours checks the pattern.
        """
        probe = np.random.default_rng(_SEED).normal(size=self.dim)
        seeds = np.zeros((self.num_colours + 1, self.dim))
        seeds[list(self.colours), np.arange(self.dim)] = 1.0
        seeds[-1] = probe
        vectors = jnp.broadcast_to(jnp.asarray(seeds, z.dtype)[None], (len(z), *seeds.shape))
        products = problem.hessian_products(z, vectors).mean(axis=0)
        by_column = products[np.asarray(self.colours)].T  # column j: the product of its colour
        own = np.zeros(self.dim, bool)
        own[list(self.dense)] = True
        direct = own[None, :] | (self.pattern() & ~own[:, None])
        mirrored = ~direct & own[:, None]
        hessian = jnp.where(direct, by_column, jnp.where(mirrored, by_column.T, 0.0))
        seen = products[-1]
        gap = jnp.linalg.norm(hessian @ probe.astype(z.dtype) - seen)
        return jnp.where(gap <= _MAX_RELATIVE_GAP * jnp.linalg.norm(seen), hessian, jnp.nan)


def find_sparsity(problem: Problem, dtype: jnp.dtype) -> Sparsity | None:
    """Sparsity pattern of the Hessian at a few points near zero; None if it would not save much.

    An entry that is zero at all of these points counts as zero everywhere; `mean_hessian` detects
    where that is wrong.
    """
    dim = problem.dim
    axes = jnp.eye(dim, dtype=dtype)[None]
    dense_hessian = jax.jit(lambda z, data: replace(problem, data=data).hessian_products(z, axes))
    rng, pattern = np.random.default_rng(_SEED), np.eye(dim, dtype=bool)
    seen = 0
    for _ in range(_NUM_POINTS):
        point = jnp.asarray(rng.normal(scale=_POINT_SD, size=(1, dim)), dtype)
        hessian = np.asarray(dense_hessian(point, problem.data)[0])
        if np.isfinite(hessian).all():
            pattern |= (hessian != 0.0) | (hessian.T != 0.0)
            seen += 1
    if seen == 0:
        return None
    colours, dense = colour(pattern)
    num_colours = int(colours.max()) + 1
    if num_colours > _MAX_COLOURS_PER_DIM * dim:
        return None
    packed = np.packbits(pattern).tobytes()
    return Sparsity(dim, num_colours, tuple(colours.tolist()), tuple(dense.tolist()), packed)


def colour(
    pattern: Bool[np.ndarray, "dim dim"],
) -> tuple[np.ndarray, np.ndarray]:
    """Colour of every column, and the columns that have a colour of their own.

    Columns are ordered by their number of non-zeros, and split at one of the largest drops. Each of
    the fullest has its own colour; the others are coloured greedily, so that no two columns of one
    colour share a row. Of several splits, the one with the fewest colours is used.
    """
    dim = len(pattern)
    degrees = pattern.sum(axis=0)
    order = np.argsort(-degrees, kind="stable")
    drops = np.argsort(np.diff(degrees[order]), kind="stable")[:_MAX_SPLITS] + 1
    best: tuple[np.ndarray, np.ndarray] | None = None
    for num_dense in sorted({0, *drops.tolist()}):
        dense, rest = order[:num_dense], order[num_dense:]
        sparse = pattern[np.ix_(rest, rest)].astype(np.float32)
        apart = sparse.T @ sparse > 0
        found = np.full(len(rest), -1)
        for column in range(len(rest)):
            taken = set(found[:column][apart[column, :column]].tolist())
            found[column] = next(c for c in range(column + 1) if c not in taken)
        colours = np.empty(dim, int)
        colours[dense] = np.arange(num_dense)
        colours[rest] = num_dense + found
        if best is None or colours.max() < best[0].max():
            best = colours, dense
    assert best is not None
    return best
