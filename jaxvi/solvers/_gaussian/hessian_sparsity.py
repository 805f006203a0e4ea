"""Hessians whose zeros are known: found at the door, then taken from few products.

Hierarchies have Hessians with blocks or arrows: groups that touch each other only through a few
shared coordinates. Columns that share no row can be read off one product with their sum (Curtis,
Powell and Reid 1974), with symmetry still fewer (Coleman and Moré 1984), so that such a Hessian
costs as many products as it has colours, not as many as it has columns.
"""

from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxvi.solvers._base import Problem

_POINTS, _SPREAD, _SEED = 3, 0.5, 20040  # where zeros are looked for
_WORTH_IT = 0.6  # colours by dimension
_SPLITS = 12
_AGREES = 1e-3  # relative


@dataclass(frozen=True)
class Sparsity:
    """Which entries of a Hessian may differ from zero, and the colours of its columns.

    Two columns have the same colour only if every entry of both can be told apart in their
    product, or read off another column by symmetry.
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
        """The mean over the rows of z; NaN where it is not of this pattern.

        One product more than there are colours sees to that.
        """
        probe = np.random.default_rng(_SEED).normal(size=self.dim)
        seeds = np.zeros((self.num_colours + 1, self.dim))
        seeds[list(self.colours), np.arange(self.dim)] = 1.0
        seeds[-1] = probe
        vectors = jnp.broadcast_to(jnp.asarray(seeds, z.dtype)[None], (len(z), *seeds.shape))
        products = problem.hessian_products(z, vectors).mean(axis=0)
        spread = products[np.asarray(self.colours)].T  # column j: the product of its colour
        own = np.zeros(self.dim, bool)
        own[list(self.dense)] = True
        direct = own[None, :] | (self.pattern() & ~own[:, None])
        mirrored = ~direct & own[:, None]
        hessian = jnp.where(direct, spread, jnp.where(mirrored, spread.T, 0.0))
        seen = products[-1]
        gap = jnp.linalg.norm(hessian @ probe.astype(z.dtype) - seen)
        return jnp.where(gap <= _AGREES * jnp.linalg.norm(seen), hessian, jnp.nan)


def find_sparsity(problem: Problem, dtype: jnp.dtype) -> Sparsity | None:
    """The pattern at a few points near zero; None where it wouldn't save much.

    An entry that is zero at all of them counts as zero everywhere, until `mean_hessian` sees
    otherwise.
    """
    dim = problem.dim
    axes = jnp.eye(dim, dtype=dtype)[None]
    everything = jax.jit(lambda z, data: replace(problem, data=data).hessian_products(z, axes))
    rng, pattern = np.random.default_rng(_SEED), np.eye(dim, dtype=bool)
    seen = 0
    for _ in range(_POINTS):
        point = jnp.asarray(rng.normal(scale=_SPREAD, size=(1, dim)), dtype)
        hessian = np.asarray(everything(point, problem.data)[0])
        if np.isfinite(hessian).all():
            pattern |= (hessian != 0.0) | (hessian.T != 0.0)
            seen += 1
    if seen == 0:
        return None
    colours, dense = colour(pattern)
    num_colours = int(colours.max()) + 1
    if num_colours > _WORTH_IT * dim:
        return None
    packed = np.packbits(pattern).tobytes()
    return Sparsity(dim, num_colours, tuple(colours.tolist()), tuple(dense.tolist()), packed)


def colour(
    pattern: Bool[np.ndarray, "dim dim"],
) -> tuple[np.ndarray, np.ndarray]:
    """A colour for every column, and the columns that have one of their own.

    Columns are ordered by how full they are and split where that drops most. The fullest stand
    apart; the others are coloured greedily, so that no two of a colour share a row. Of several
    splits the fewest colours win.
    """
    dim = len(pattern)
    degrees = pattern.sum(axis=0)
    order = np.argsort(-degrees, kind="stable")
    drops = np.argsort(np.diff(degrees[order]), kind="stable")[:_SPLITS] + 1
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
