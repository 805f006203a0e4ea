"""Mixtures fitted to blocks of rows: stochastic variational inference, then exact passes."""

import math
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxvi._types import Scalar
from jaxvi.diagnostics import agreement
from jaxvi.estimators._row_layout import as_data
from jaxvi.models import ConjugateGaussianMixture, MixtureData, MixturePhi, Sums


class StreamedSums(NamedTuple):
    """State between two blocks of a stream: mean statistics of a row, centre, rows seen."""

    sums: Sums
    centre: Float[np.ndarray, "dim"]
    seen: int


class RowMoments(NamedTuple):
    """Number, mean and scatter matrix of all rows of an iterable."""

    num: int
    mean: Float[np.ndarray, "dim"]
    scatter: Float[np.ndarray, "dim dim"]

    def surrogate(self) -> Float[np.ndarray, "rows dim"]:
        """2 `dim` rows with the same mean and covariance, to compute default priors from."""
        values, vectors = np.linalg.eigh(self.scatter / (self.num - 1))
        dim = len(values)
        arms = vectors * np.sqrt(np.maximum(values, 0.0) * (2 * dim - 1) / 2.0)[None]
        return self.mean[None] + np.concatenate([arms.T, -arms.T])


def is_stream(X: Any) -> bool:
    """Whether X is an iterator or an iterable of blocks of rows, rather than rows themselves."""
    if hasattr(X, "__next__"):
        return True
    if any(hasattr(X, name) for name in ("__array__", "shape", "dtype", "__dataframe__")):
        return False
    if isinstance(X, list | tuple):
        return bool(X) and all(getattr(block, "ndim", 0) == 2 for block in X)
    return isinstance(X, Iterable) and not isinstance(X, str | bytes | dict)


def fit(mixture: Any, stream: Iterable[Any]) -> Any:
    """Fit to an iterable: stochastic steps, then exact ones if it can be iterated again."""
    mixture.__dict__.pop("_stream", None)
    blocks = iter(stream)
    if blocks is stream:
        for block in blocks:
            step(mixture, block)
        if not hasattr(mixture, "_stream"):
            raise ValueError("expected an iterator of at least one block of rows; it was empty.")
        return mixture
    moments = _moments(mixture, blocks)
    mixture._check_parameters(moments.surrogate().astype(mixture._stream_dtype))
    for number, block in enumerate(stream):
        x = mixture._rows(block, reset=False)
        if number == 0:
            _begin(mixture, x)
        else:
            _step(mixture, x, moments.num)
    _exact(mixture, stream, moments.num)
    return mixture


def step(mixture: Any, X: Any) -> Any:
    """Take a stochastic step on one block; the first block is fitted as a whole."""
    first = not hasattr(mixture, "_stream")
    x = mixture._rows(X, reset=first)
    if first:
        if len(x) < mixture.n_components:
            raise ValueError(
                f"expected a first block of at least n_components = {mixture.n_components} rows; "
                f"got {len(x)}; try larger blocks."
            )
        mixture._check_parameters(x)
        _begin(mixture, x)
    else:
        _step(mixture, x, None)
    return mixture


def _moments(mixture: Any, blocks: Iterator[Any]) -> RowMoments:
    """Moments of all rows, merged block by block as Chan et al. (1983) do."""
    found = None
    for block in blocks:
        x = mixture._rows(block, reset=found is None)
        mixture._stream_dtype = x.dtype
        wide = np.asarray(x, np.float64)
        mean = wide.mean(axis=0)
        wide = wide - mean
        scatter, num = wide.T @ wide, len(x)
        if found is not None:
            total, gap = found.num + num, mean - found.mean
            scatter += found.scatter + np.outer(gap, gap) * (found.num * num / total)
            mean, num = found.mean + gap * (num / total), total
        found = RowMoments(num, mean, scatter)
    if found is None:
        raise ValueError("expected an iterable of at least one block of rows; it was empty.")
    return found


def _begin(mixture: Any, x: Float[np.ndarray, "rows dim"]) -> None:
    """Fit all restarts to the first block, and keep the best one for the stream."""
    mixture._fit_rows(x)
    centre = np.asarray(mixture.mean_prior_, x.dtype)
    with mixture._place(x.dtype):
        data = _data(mixture, x, centre)
        sums = expect(mixture._phi(centre, x.dtype), data, model=mixture._model)
        by_row = jax.tree.map(lambda leaf: np.asarray(leaf) / len(x), sums)
    mixture._stream = StreamedSums(by_row, centre, len(x))
    mixture.n_steps_ = 0


def _data(
    mixture: Any, x: Float[np.ndarray, "rows dim"], centre: Float[np.ndarray, "dim"]
) -> MixtureData:
    tied = mixture.covariance_type == "tied"
    return as_data(x, centre, mixture._prior(centre, x.dtype), mixture._layout(x), tied)


def _step(mixture: Any, x: Float[np.ndarray, "rows dim"], total: int | None) -> None:
    """Take one natural gradient step on a block, with a decreasing rate."""
    sums, centre, seen = mixture._stream
    x, seen = x.astype(centre.dtype, copy=False), seen + len(x)
    total = total or mixture.total_samples or seen
    rate = (mixture.learning_offset + mixture.n_steps_ + 1.0) ** -mixture.learning_decay
    with mixture._place(x.dtype):
        phi, sums, bound = _stochastic_step(
            mixture._phi(centre, x.dtype),
            sums,
            _data(mixture, x, centre),
            jnp.asarray(rate, x.dtype),
            jnp.asarray(len(x), x.dtype),
            jnp.asarray(total, x.dtype),
            model=mixture._model,
        )
        phi, sums = jax.tree.map(np.asarray, (phi, sums))
    if not np.isfinite(bound):
        raise ValueError(
            "the covariances became ill-defined in a stochastic step, whose outcome is left out: "
            "try larger blocks, a larger reg_covar, or float64 data."
        )
    mixture._set_phi(phi, centre, x.dtype)
    mixture._stream = StreamedSums(sums, centre, seen)
    mixture.n_steps_ += 1
    mixture.converged_ = False  # more blocks may follow
    mixture.lower_bound_ = float(bound)


@partial(jax.jit, static_argnames="model")
def _stochastic_step(
    phi: MixturePhi,
    by_row: Sums,
    data: MixtureData,
    rate: Scalar,
    rows: Scalar,
    total: Scalar,
    *,
    model: ConjugateGaussianMixture,
) -> tuple[MixturePhi, Sums, Scalar]:
    """A natural gradient step: the mean statistics of a row move towards those of the block."""
    fresh = model.expect(phi, data)
    mixed = jax.tree.map(lambda old, new: old + rate * (new / rows - old), by_row, fresh)
    sums = jax.tree.map(lambda leaf: total * leaf, mixed)
    phi = model.maximise(sums, data)
    return phi, mixed, model.bound(phi, sums, data)


@partial(jax.jit, static_argnames="model")
def expect(phi: MixturePhi, data: MixtureData, *, model: ConjugateGaussianMixture) -> Sums:
    """Expected sufficient statistics of a block under q."""
    return model.expect(phi, data)


@partial(jax.jit, static_argnames="model")
def _update(
    sums: Sums, data: MixtureData, *, model: ConjugateGaussianMixture
) -> tuple[MixturePhi, Array]:
    phi = model.maximise(sums, data)
    return phi, model.bound(phi, sums, data)


def _exact(mixture: Any, stream: Iterable[Any], total: int) -> None:
    """Coordinate ascent on all rows, with statistics summed block by block."""
    _, centre, _ = mixture._stream
    mixture.converged_, mixture.lower_bounds_, before = False, [], -math.inf
    for passes in range(1, mixture.max_iter + 1):
        with mixture._place(centre.dtype):
            sums, phi = None, mixture._phi(centre, centre.dtype)
            for block in stream:
                x = mixture._rows(block, reset=False).astype(centre.dtype, copy=False)
                data = _data(mixture, x, centre)
                part = expect(phi, data, model=mixture._model)
                sums = part if sums is None else jax.tree.map(jnp.add, sums, part)
            new, bound = _update(sums, data, model=mixture._model)
            new, bound = jax.tree.map(np.asarray, new), float(bound)
            by_row = jax.tree.map(lambda leaf: np.asarray(leaf) / total, sums)
        mixture._set_phi(new, centre, centre.dtype)
        mixture._stream = StreamedSums(by_row, centre, total)
        mixture.lower_bounds_.append(bound)
        mixture.lower_bound_, mixture.n_iter_ = bound, passes
        if abs(bound - before) < mixture.tol:
            mixture.converged_ = True
            break
        before = bound
    mixture.restart_bounds_ = np.asarray([mixture.lower_bound_])
    mixture.agreement_ = agreement(mixture.restart_bounds_, np.zeros(1))
