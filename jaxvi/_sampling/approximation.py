"""An approximation by itself, apart from the run that found it."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Key

from jaxvi._arguments import integer, typed_key
from jaxvi._compilation import ONCE, STEPS, Lowering, light_jit
from jaxvi._sampling.weighted_draws import draw_noise, draws_each
from jaxvi._types import Phi, Scalar
from jaxvi.families import (
    Family,
    Noncentering,
    NoncenteringParams,
    NormalNoiseFamily,
    Transformed,
    TransformedParams,
)
from jaxvi.target import Target

_FEWEST, _MOST_PADDED = 1_024, 2**14  # draws that are made at a time
_CHEAP = 2**18  # normals: 2 ms
_SLICE = 512  # draws at a time, as when they are weighed


@dataclass(frozen=True)
class Approximation:
    """q by itself: what variational inference alone gave.

    Attributes:
        target: the log density that it approximates.
        family: its family.
        phi: its parameters.
    """

    target: Target
    family: Family
    phi: Phi

    def sample(self, key: Array, num: Any) -> Any:
        """Draws: the parameters' pytree, constrained, draws leading."""
        z, num = self._draw(key, num)
        return _first(constrain_all(z, target=self.target), num)

    def sample_unconstrained(self, key: Array, num: Any) -> Float[Array, "draws dim"]:
        """The same draws as flat unconstrained vectors z."""
        return _first(*self._draw(key, num))

    def _draw(self, key: Array, num: Any) -> tuple[Float[Array, "some dim"], int]:
        """At least as many draws as are asked for, and how many that is."""
        key, num = typed_key(key), integer("num", num)
        dim, dtype = self.target.dim, jax.tree.leaves(self.phi)[0].dtype
        noise = draw_noise(key, self.family, sampling_rows(num, self.family, dim), dim, dtype)
        return _transform(self.phi, noise, family=self.family, num=_padded(num)), num

    def log_prob(self, z: Float[Array, "dim"]) -> Scalar:
        """log q at an unconstrained z."""
        return self.family.log_prob(self.phi, z)


def noncentered(q: Approximation, target: Target, params: NoncenteringParams) -> Approximation:
    """In the target's own coordinates, a q that was fitted in non-centred ones."""
    family = Transformed(q.family, Noncentering())
    return Approximation(target, family, TransformedParams(q.phi, params))


def _padded(num: int) -> int:
    """A power of two, of few draws, so that one program serves many numbers of them."""
    return num if num > _MOST_PADDED else max(_FEWEST, 1 << (num - 1).bit_length())


def sampling_rows(num: int, family: Family, dim: int) -> int:
    """Rows of noise: as many as rank lanes, by the same program, where these cost little."""
    usual = draws_each(1, dim)
    cheap = isinstance(family, NormalNoiseFamily) and usual * family.noise_size(dim) <= _CHEAP
    return usual if cheap and num <= usual else _padded(num)


def _first(draws: Any, num: int) -> Any:
    """The first rows."""
    return draws if num > _MOST_PADDED else _rows(draws, num)


def constrain_rows(target: Target, z: Float[Array, "draws dim"]) -> Any:
    """The parameters' pytree of every draw, by one program for many numbers of them."""
    num = len(z)
    padded = z if num > _MOST_PADDED else np.resize(np.asarray(z), (_padded(num), z.shape[1]))
    return _first(constrain_all(padded, target=target), num)


@light_jit(ONCE, static_argnums=1)
def _rows(draws: Any, num: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[:num], draws)


def lower_sampling(
    key: Key[Array, ""], target: Target, family: Family, dtype: Any
) -> list[Lowering]:
    """The programs of a few draws, but for that of their noise."""
    dim = target.dim
    rows = sampling_rows(1, family, dim)
    noise = partial(draw_noise, family=family, num=rows, dim=dim, dtype=dtype)

    def lower_transform() -> jax.stages.Lowered:
        at = jax.ShapeDtypeStruct((dim,), dtype)
        phi = jax.eval_shape(lambda key, at: family.init(key, dim, start=at), key, at)
        return _transform.lower(phi, jax.eval_shape(noise, key), family=family, num=_FEWEST)

    z = jax.ShapeDtypeStruct((_FEWEST, dim), dtype)
    return [lower_transform, partial(constrain_all.lower, z, target=target)]


@light_jit(STEPS, static_argnames=("family", "num"))
def _transform(
    phi: Phi, noise: Float[Array, "rows noise"], *, family: Family, num: int
) -> Float[Array, "num dim"]:
    return lax.map(partial(family.transform, phi), noise[:num], batch_size=min(_SLICE, num))


@light_jit(ONCE, static_argnames="target")
def constrain_all(z: Float[Array, "draws dim"], *, target: Target) -> Any:
    """The parameters' pytree of every row."""
    return jax.vmap(target.constrain)(z)
