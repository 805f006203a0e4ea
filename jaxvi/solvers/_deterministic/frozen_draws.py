"""How many frozen draws a family needs for the frozen bound to have a maximum."""

import math

import jax
import jax.numpy as jnp

from jaxvi.families import Family, HasMirror, NormalNoiseFamily
from jaxvi.noise import Antithetic, Fresh, Frozen, MomentMatched, NoiseSource
from jaxvi.solvers._deterministic.local_coordinates import has_dense_factor

_MIN_DRAWS = 64  # that a fit takes by default
_DRAWS_PER_NEEDED_DRAW = 2


def frozen_source(family: Family) -> Frozen:
    """The frozen noise of least variance that the family allows."""
    if isinstance(family, NormalNoiseFamily):
        return Frozen(MomentMatched())
    return Frozen(Antithetic() if isinstance(family, HasMirror) else Fresh())


def num_draws_for(family: Family, noise: NoiseSource, dim: int) -> int:
    """Default number of draws: twice as many as the family needs, and at least 64."""
    num = _DRAWS_PER_NEEDED_DRAW * draws_needed(family, dim)
    return max(_MIN_DRAWS, 2 * num if _is_mirrored(noise) else num)


def check_num_draws(owner: str, family: Family, num: int, noise: NoiseSource, dim: int) -> None:
    """Raise if there are too few draws for the frozen bound to have a maximum.

    A frozen bound depends on q at its draws only. If phi can change while every draw stays in its
    place, the entropy grows without limit: FullRank needs dim + 1 draws. A mirrored pair counts as
    one draw, apart from the centre that all pairs share.
    """
    needed = draws_needed(family, dim)
    least = 2 * (needed - 1) if _is_mirrored(noise) else needed
    if num >= least:
        return
    enough = 1 << (num_draws_for(family, noise, dim) - 1).bit_length()
    raise ValueError(
        f"{owner}: expected at least {least} draws of {noise!r}, without which the frozen bound "
        f"of {family!r} has no maximum in dimension {dim}; got {num}; try "
        f"num_draws={enough}."
    )


def _is_mirrored(noise: NoiseSource) -> bool:
    """Whether the second half of the draws mirrors the first."""
    return isinstance(getattr(noise, "source", noise), Antithetic | MomentMatched)


def draws_needed(family: Family, dim: int) -> int:
    """Fewest independent draws whose coordinates are at least as many as phi's numbers.

    Exact if every coordinate has equally many numbers of its own, and for a dense factor, whose
    last row has dim + 1 numbers with the location; an upper bound elsewhere.
    """
    phi = jax.eval_shape(lambda: family.init(jax.random.key(0), dim, start=jnp.zeros(dim)))
    size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(phi))
    if has_dense_factor(phi):
        size -= dim  # the factor is stored as a full square, whose diagonal is not used
    return max(1, -(-size // dim))
