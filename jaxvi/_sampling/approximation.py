"""The fitted approximation q with its target: sampling and density, in padded programs."""

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

_MIN_PADDED_DRAWS, _MAX_PADDED_DRAWS = 1_024, 2**14  # draws made in one call
_MAX_CHEAP_NORMALS = 2**18  # takes 2 ms
_SLICE_DRAWS = 512  # as for importance weights


@dataclass(frozen=True)
class Approximation:
    """The distribution q found by variational inference, without corrections.

    Attributes:
        target: the log density that it approximates.
        family: its family.
        phi: its parameters.
    """

    target: Target
    family: Family
    phi: Phi

    def sample(self, key: Array, num: Any) -> Any:
        """Draws of the constrained parameters: their pytree, with draws on the leading axis."""
        z, num = self._draw(key, num)
        return _first(constrain_all(z, target=self.target), num)

    def sample_unconstrained(self, key: Array, num: Any) -> Float[Array, "draws dim"]:
        """The same draws as flat unconstrained vectors z, one a row."""
        return _first(*self._draw(key, num))

    def _draw(self, key: Array, num: Any) -> tuple[Float[Array, "some dim"], int]:
        """At least `num` draws of z, and `num` as a checked integer."""
        key, num = typed_key(key), integer("num", num)
        dim, dtype = self.target.dim, jax.tree.leaves(self.phi)[0].dtype
        noise = draw_noise(key, self.family, sampling_rows(num, self.family, dim), dim, dtype)
        return _transform(self.phi, noise, family=self.family, num=_padded(num)), num

    def log_prob(self, z: Float[Array, "dim"]) -> Scalar:
        """log q(z) at an unconstrained z."""
        return self.family.log_prob(self.phi, z)


def noncentered(q: Approximation, target: Target, params: NoncenteringParams) -> Approximation:
    """A q that was fitted in non-centred coordinates, as one in the target's own coordinates."""
    family = Transformed(q.family, Noncentering())
    return Approximation(target, family, TransformedParams(q.phi, params))


def _padded(num: int) -> int:
    """Number of draws rounded up to a power of two, so that one program serves many numbers."""
    return num if num > _MAX_PADDED_DRAWS else max(_MIN_PADDED_DRAWS, 1 << (num - 1).bit_length())


def sampling_rows(num: int, family: Family, dim: int) -> int:
    """Rows of noise for `num` draws: where cheap, as many as ranking uses, to share its program."""
    usual = draws_each(1, dim)
    cheap = (
        isinstance(family, NormalNoiseFamily)
        and usual * family.noise_size(dim) <= _MAX_CHEAP_NORMALS
    )
    return usual if cheap and num <= usual else _padded(num)


def _first(draws: Any, num: int) -> Any:
    """The first `num` rows of every leaf."""
    return draws if num > _MAX_PADDED_DRAWS else _rows(draws, num)


def constrain_rows(target: Target, z: Float[Array, "draws dim"]) -> Any:
    """Constrained parameters of every row of z, by one program for many numbers of rows."""
    num = len(z)
    padded = z if num > _MAX_PADDED_DRAWS else np.resize(np.asarray(z), (_padded(num), z.shape[1]))
    return _first(constrain_all(padded, target=target), num)


@light_jit(ONCE, static_argnums=1)
def _rows(draws: Any, num: int) -> Any:
    """`_first` as a compiled program."""
    return jax.tree.map(lambda leaf: leaf[:num], draws)


def lower_sampling(
    key: Key[Array, ""], target: Target, family: Family, dtype: Any
) -> list[Lowering]:
    """Lowers the programs that `sample` runs for a few draws, except that of the noise."""
    dim = target.dim
    rows = sampling_rows(1, family, dim)
    noise = partial(draw_noise, family=family, num=rows, dim=dim, dtype=dtype)

    def lower_transform() -> jax.stages.Lowered:
        at = jax.ShapeDtypeStruct((dim,), dtype)
        phi = jax.eval_shape(lambda key, at: family.init(key, dim, start=at), key, at)
        return _transform.lower(
            phi, jax.eval_shape(noise, key), family=family, num=_MIN_PADDED_DRAWS
        )

    z = jax.ShapeDtypeStruct((_MIN_PADDED_DRAWS, dim), dtype)
    return [lower_transform, partial(constrain_all.lower, z, target=target)]


@light_jit(STEPS, static_argnames=("family", "num"))
def _transform(
    phi: Phi, noise: Float[Array, "rows noise"], *, family: Family, num: int
) -> Float[Array, "num dim"]:
    """z for the first `num` rows of noise."""
    return lax.map(partial(family.transform, phi), noise[:num], batch_size=min(_SLICE_DRAWS, num))


@light_jit(ONCE, static_argnames="target")
def constrain_all(z: Float[Array, "draws dim"], *, target: Target) -> Any:
    """Constrained parameters of every row of z."""
    return jax.vmap(target.constrain)(z)
