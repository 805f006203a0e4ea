"""How many frozen draws a family needs, so that the frozen bound has a maximum."""

import math

import jax
import jax.numpy as jnp

from jaxvi.families import Family, HasMirror, NormalNoiseFamily
from jaxvi.noise import Antithetic, Fresh, Frozen, MomentMatched, NoiseSource
from jaxvi.solvers._deterministic.local_coordinates import has_dense_factor

_FEWEST = 64  # draws that a fit takes by default
_AMPLE = 2  # times as many as it can't do without


def frozen_source(family: Family) -> Frozen:
    """The best frozen noise that the family can take."""
    if isinstance(family, NormalNoiseFamily):
        return Frozen(MomentMatched())
    return Frozen(Antithetic() if isinstance(family, HasMirror) else Fresh())


def num_draws_for(family: Family, noise: NoiseSource, dim: int) -> int:
    """Draws for a fit: twice as many as the family can't do without, and at least 64."""
    ample = _AMPLE * draws_needed(family, dim)
    return max(_FEWEST, 2 * ample if _is_mirrored(noise) else ample)


def check_num_draws(owner: str, family: Family, num: int, noise: NoiseSource, dim: int) -> None:
    """Raise where the frozen bound has no maximum.

    A frozen bound sees q at its draws only. If phi can move with every draw in its place, the
    entropy grows without limit: FullRank needs dim + 1 draws. Of mirrored draws each pair says
    no more than one, beyond the centre, which they share.
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
    return isinstance(getattr(noise, "source", noise), Antithetic | MomentMatched)


def draws_needed(family: Family, dim: int) -> int:
    """Independent draws below which phi has more numbers than the draws have coordinates.

    Exact where every coordinate has as many numbers to itself, and for a dense factor, whose
    last row has dim + 1 with the location; on the safe side elsewhere.
    """
    phi = jax.eval_shape(lambda: family.init(jax.random.key(0), dim, start=jnp.zeros(dim)))
    size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(phi))
    if has_dense_factor(phi):
        size -= dim  # of a full square; its diagonal is never read
    return max(1, -(-size // dim))
