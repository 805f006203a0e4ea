"""Initial responsibilities of a mixture's restarts, as scikit-learn draws them, or batched."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxvi._types import Scalar
from jaxvi.estimators._coordinate_ascent import first_step, from_responsibilities, given
from jaxvi.estimators._row_layout import Layout, padded_blocks
from jaxvi.models import ConjugateGaussianMixture, MixtureData, MixturePhi

MAX_RESTARTS_ONE_BY_ONE = 10  # up to which each in turn runs scikit-learn's own k-means
_MAX_LLOYD_STEPS = 300
_KMEANS_TOLERANCE = 1e-4  # on the squared movement of the centres, in variances of the data
_MAX_GROUP_NUMBERS = 2**22  # of several restarts' responsibilities, made together
_MAX_PIECE_NUMBERS = 2**19  # of one restart's responsibilities, made together


class Starter:
    """Draws the initial parameters of a mixture's restarts for some rows."""

    def __init__(
        self,
        model: ConjugateGaussianMixture,
        x: Float[np.ndarray, "rows dim"],
        data: MixtureData,
        centre: Float[np.ndarray, "dim"],
        init: str,
        num_restarts: int,
        rng: Any,
    ) -> None:
        self.model, self.x, self.data, self.init, self.rng = model, x, data, init, rng
        self.centre = jnp.asarray(centre)
        self.together = num_restarts > MAX_RESTARTS_ONE_BY_ONE and init in ("kmeans", "k-means++")

    def __call__(self, first: int, num: int) -> Any:
        """Initial parameters of the next `num` restarts, lanes leading."""
        blocks, _, rows = self.data.x.shape
        components = self.model.num_components
        some = min(num, max(1, _MAX_GROUP_NUMBERS // (blocks * rows * components)))
        found = []
        for begin in range(0, num, some):
            lanes = min(some, num - begin)
            if self.together:
                found.append(self._batched(lanes))
            elif blocks * rows * components > _MAX_PIECE_NUMBERS:
                found.append(self._in_pieces())
            else:
                found.append(self._first(self._all_responsibilities(lanes)))
        if len(found) == 1:
            return found[0]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *found)

    def _batched(self, lanes: int) -> MixturePhi:
        others = self.model.num_components - 1
        tries = 2 + int(math.log(others + 1))
        # restart by restart, the same random numbers as scikit-learn's k-means++ uses
        chances = self.rng.uniform(size=(lanes, 1 + others * tries)).astype(self.x.dtype)
        shares = batched_responsibilities(
            chances[:, 0],
            chances[:, 1:].reshape(lanes, others, tries),
            self.data.x,
            self.data.weight,
            init=self.init,
        )
        return self._first(shares)

    def _first(self, shares: Any) -> MixturePhi:
        return from_responsibilities(shares, self.data, self.centre, model=self.model)

    def _all_responsibilities(
        self, lanes: int
    ) -> Float[np.ndarray, "lanes blocks components rows"]:
        """Initial responsibilities of several restarts, in one array."""
        num, components = len(self.x), self.model.num_components
        blocks, _, rows = self.data.x.shape
        room = np.zeros((lanes, blocks * rows, components), self.x.dtype)
        if self.init == "random":  # restart by restart, the same numbers as scikit-learn's
            raw = self.rng.uniform(size=(lanes, num, components)).astype(self.x.dtype, copy=False)
            room[:, :num] = raw / raw.sum(axis=2, keepdims=True)
        else:
            for lane in room:
                (lane[:num],) = responsibilities(self.init, self.x, components, self.rng, num)
        return room.reshape(lanes, blocks, rows, components).transpose(0, 1, 3, 2)

    def _in_pieces(self) -> MixturePhi:
        """Initial parameters of one restart, its responsibilities made in pieces to save memory."""
        rows, components = self.data.x.shape[2], self.model.num_components
        blocks = max(1, _MAX_PIECE_NUMBERS // (rows * components))
        pieces = responsibilities(self.init, self.x, components, self.rng, blocks * rows)
        sums = None
        for number, shares in enumerate(pieces):
            place = Layout(-(-len(shares) // rows), rows)
            packed = padded_blocks(shares, place)
            found = given(packed, self.data, np.int32(number * blocks), model=self.model)
            sums = found if sums is None else sums.plus(found)
        assert sums is not None
        phi = first_step(sums, self.data, self.centre, model=self.model)
        return jax.tree.map(lambda leaf: leaf[None], phi)


def responsibilities(
    init: str, x: Float[np.ndarray, "rows dim"], num_components: int, rng: Any, piece: int
) -> Iterator[Float[np.ndarray, "some components"]]:
    """One restart's initial responsibilities as scikit-learn draws them, `piece` rows at a time."""
    num = len(x)
    if init == "random":
        for first in range(0, num, piece):
            some = min(piece, num - first)
            raw = rng.uniform(size=(some, num_components)).astype(x.dtype, copy=False)
            yield raw / raw.sum(axis=1, keepdims=True)
        return
    rows, columns = _chosen(init, x, num_components, rng)
    for first in range(0, num, piece):
        some = min(piece, num - first)
        here = (rows >= first) & (rows < first + some)
        found = np.zeros((some, num_components), x.dtype)
        found[rows[here] - first, columns[here]] = 1.0
        yield found


def _chosen(
    init: str, x: Float[np.ndarray, "rows dim"], num_components: int, rng: Any
) -> tuple[Int[np.ndarray, "ones"], Int[np.ndarray, "ones"]]:
    """Indices of rows whose initial responsibility is one, and their components."""
    from sklearn.cluster import KMeans, kmeans_plusplus

    components = np.arange(num_components)
    if init == "kmeans":
        labels = KMeans(n_clusters=num_components, n_init=1, random_state=rng).fit(x).labels_
        return np.arange(len(x)), labels
    if init == "random_from_data":
        return rng.choice(len(x), size=num_components, replace=False), components
    _, rows = kmeans_plusplus(x, num_components, random_state=rng)
    return rows, components


@partial(jax.jit, static_argnames="init")
def batched_responsibilities(
    first: Float[Array, "lanes"],
    others: Float[Array, "lanes others tries"],
    x: Float[Array, "blocks dim rows"],
    weight: Float[Array, "blocks rows"],
    *,
    init: str,
) -> Float[Array, "lanes blocks components rows"]:
    """Initial responsibilities of many restarts, by k-means++ and for "kmeans" Lloyd's algorithm.

    k-means++ is that of Arthur and Vassilvitskii (2007). `first` and `others` are uniform numbers
    in [0, 1) that choose the rows tried as the first and as the other centres. The same numbers
    give scikit-learn's labels, but for ties, rounding, and clusters that become empty: it moves
    their centres, and here they stay.
    """
    blocks, dim, size = x.shape
    num_components = others.shape[1] + 1
    flat = x.transpose(1, 0, 2).reshape(dim, blocks * size)
    mass = weight.reshape(-1)

    def one(first: Array, others: Array) -> Array:
        rows = _plusplus(first, others, flat, mass)
        if init == "k-means++":
            hard = jax.nn.one_hot(rows, flat.shape[1], dtype=x.dtype)
        else:
            labels = _lloyd(flat, mass, flat[:, rows])
            hard = jax.nn.one_hot(labels, num_components, dtype=x.dtype, axis=0) * mass[None]
        return hard.reshape(num_components, blocks, size).transpose(1, 0, 2)

    return jax.vmap(one)(first, others)


def _distances(
    x: Float[Array, "dim rows"], squares: Float[Array, "rows"], centres: Float[Array, "dim some"]
) -> Float[Array, "some rows"]:
    """Squared distances of all rows from each centre, not below zero."""
    cross = centres.T @ x
    found = squares[None] - 2.0 * cross + jnp.sum(centres**2, axis=0)[:, None]
    return jnp.maximum(found, 0.0)


def _plusplus(
    first: Scalar,
    others: Float[Array, "others tries"],
    x: Float[Array, "dim rows"],
    mass: Float[Array, "rows"],
) -> Int[Array, "components"]:
    """Centres by k-means++: rows drawn by squared distance, the best of several tries each."""
    squares = jnp.sum(x**2, axis=0)

    def draw(chances: Array, density: Array, side: str) -> Array:
        total = jnp.cumsum(density)
        # where all rows coincide with centres, draw any row
        total = jnp.where(total[-1] > 0.0, total, jnp.cumsum(mass))
        found = jnp.searchsorted(total, chances * total[-1], side=side)
        return jnp.minimum(found, len(mass) - 1)

    row = draw(first, mass, "right")
    nearest = _distances(x, squares, x[:, row][:, None])[0] * mass
    rows = jnp.zeros(len(others) + 1, row.dtype).at[0].set(row)

    def add(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        rows, nearest = carry
        some = draw(others[i], nearest, "left")
        closer = jnp.minimum(nearest[None], _distances(x, squares, x[:, some]) * mass[None])
        best = jnp.argmin(closer.sum(axis=1))
        return rows.at[i + 1].set(some[best]), closer[best]

    return lax.fori_loop(0, len(others), add, (rows, nearest))[0]


def _lloyd(
    x: Float[Array, "dim rows"], mass: Float[Array, "rows"], centres: Float[Array, "dim some"]
) -> Int[Array, "rows"]:
    """Labels by Lloyd's algorithm at convergence; an empty component keeps its centre."""
    squares = jnp.sum(x**2, axis=0)
    num = centres.shape[1]
    still = _KMEANS_TOLERANCE * jnp.sum(squares) / jnp.sum(mass) / x.shape[0]

    def nearest(centres: Array) -> Array:
        return jnp.argmin(_distances(x, squares, centres), axis=0)

    def step(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        count, centres, _ = carry
        hard = jax.nn.one_hot(nearest(centres), num, dtype=x.dtype) * mass[:, None]
        size = hard.sum(axis=0)[None]
        fresh = jnp.where(size > 0.0, x @ hard / jnp.maximum(size, 1.0), centres)
        return count + 1, fresh, jnp.sum((fresh - centres) ** 2)

    def going(carry: tuple[Array, Array, Array]) -> Array:
        return (carry[0] < _MAX_LLOYD_STEPS) & (carry[2] > still)

    start = (jnp.zeros((), jnp.int32), centres, jnp.full((), jnp.inf, x.dtype))
    return nearest(lax.while_loop(going, step, start)[1])
