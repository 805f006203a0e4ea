"""Ranking of restarts on all rows of data, a block of rows at a time, to bound memory."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, Key

from jaxvi._compilation import Lowering
from jaxvi._engine.lanes import lane_results
from jaxvi._engine.ranking import RankedDraws, Ranking, ranking_of
from jaxvi._engine.setup import Setup
from jaxvi._numerics import Keys
from jaxvi._types import Data, Phi
from jaxvi.families import Family, transform_and_log_prob
from jaxvi.target import Target, num_rows

_DRAWS_PER_SLICE = 64  # evaluated together on a block of rows


@dataclass(frozen=True, eq=False)
class RowBlocks:
    """Blocks that together hold all `total` rows once.

    With `instead`, a source that raises ends the blocks with a warning, and if none had been read,
    those of `instead` follow.
    """

    total: int
    blocks: Iterable[Any]
    instead: Callable[[], Iterator[Any]] | None = None

    def __iter__(self) -> Iterator[Any]:
        came = False
        try:
            for block in self.blocks:
                yield block
                came = True
        except Exception as error:
            if self.instead is None:
                raise
            warnings.warn(
                f"the data stream raised {type(error).__name__} ({error}) while lanes were ranked: "
                "their bounds are those of the rows read by then, scaled up, and their standard "
                "errors leave out how these rows differ from the others",
                RuntimeWarning,
                stacklevel=5,
            )
        if not came and self.instead is not None:
            yield from self.instead()


def slices(rows: Any, size: int) -> RowBlocks:
    """Blocks of at most `size` rows, cut from rows on the device."""
    total = num_rows(rows)
    firsts = range(0, total, size)
    return RowBlocks(total, (_slice(rows, np.int32(i), min(size, total - i)) for i in firsts))


@partial(jax.jit, static_argnums=2)
def _slice(rows: Any, first: Any, size: int) -> Any:
    return jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, first, size), rows)


def rank_by_rows(
    keys: Keys,
    phi: Phi,
    status: Int[np.ndarray, "lanes"],
    blocks: RowBlocks,
    target: Target,
    setup: Setup,
    num_draws: int,
) -> Ranking:
    """Bounds of every lane's parameters on common draws, each weighed on all rows.

    Sums over blocks are taken in float64. If the source gave fewer rows than there are, their log
    likelihood is scaled up.
    """
    z, params, base = _draw(keys.ranking, phi, target=target, family=setup.family, num=num_draws)
    total, seen = np.zeros(base.shape), 0
    with np.errstate(invalid="ignore"):
        for block in blocks:
            total += np.asarray(_log_likelihoods(z, block, target=target), float)
            seen += num_rows(block)
        weights = np.asarray(base, float) + total * (blocks.total / seen)
    ranking = ranking_of(weights, status)
    best = ranking.best
    drawn = RankedDraws(np.asarray(z[best]), np.asarray(params[best]))
    return ranking._replace(draws=drawn)


def lower_ranking_by_rows(
    keys: Keys, lanes: Any, block: Any, target: Target, setup: Setup, num_draws: int
) -> list[Lowering]:
    """The programs of `rank_by_rows` for lanes and blocks of these shapes."""
    phi = jax.eval_shape(partial(lane_results, setup=setup), lanes)
    choices: dict[str, Any] = {"target": target, "family": setup.family, "num": num_draws}
    z, _, _ = jax.eval_shape(partial(_draw, **choices), keys.ranking, phi)
    return [
        partial(_draw.lower, keys.ranking, phi, **choices),
        partial(_log_likelihoods.lower, z, block, target=target),
    ]


@partial(jax.jit, static_argnames=("target", "family", "num"))
def _draw(
    key: Key[Array, ""], phis: Phi, *, target: Target, family: Family, num: int
) -> tuple[
    Float[Array, "lanes draws dim"], Float[Array, "lanes draws params"], Float[Array, "lanes draws"]
]:
    """Draws, the parameters that they stand for, and log prior + log |det J| - log q."""
    dtype = jax.tree.leaves(phis)[0].dtype
    noise = family.draw_noise(key, num, target.dim, dtype)

    def one(phi: Phi, row: Array) -> tuple[Array, Array, Array]:
        z, log_q = transform_and_log_prob(family, phi, row)
        params, log_det = target.constrain_and_log_det(z)
        flat = ravel_pytree(params)[0].astype(dtype)
        return z, flat, target.log_prior(params) + log_det - log_q

    return lax.map(lambda phi: jax.vmap(partial(one, phi))(noise), phis)


@partial(jax.jit, static_argnames="target")
def _log_likelihoods(
    z: Float[Array, "lanes draws dim"], rows: Data, *, target: Target
) -> Float[Array, "lanes draws"]:
    def one(z: Array) -> Array:
        return jnp.sum(target.log_likelihood(target.constrain(z), rows))

    flat = z.reshape(-1, z.shape[-1])
    return lax.map(one, flat, batch_size=min(_DRAWS_PER_SLICE, len(flat))).reshape(z.shape[:2])
