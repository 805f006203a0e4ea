"""Log densities of two parts: a log prior, and a log likelihood that sums over rows of data."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxvi._numerics import pytrees
from jaxvi._types import Data, Scalar
from jaxvi.target._checks import check_arguments, check_function, check_value, explain

_NUM_CHECKED_ROWS = 16  # on which a likelihood is tested
_NUM_CHECKED_POINTS = 4  # at scales that halve, towards the origin


@dataclass(frozen=True)
class FactoredDensity:
    """Log density of all data: log prior plus the log likelihood of all rows."""

    log_prior: Any
    log_likelihood: Any

    def __call__(self, params: Any, data: Data) -> Scalar:
        """The log density of one parameters' pytree."""
        return self.log_prior(params) + jnp.sum(self.log_likelihood(params, data))


@dataclass(frozen=True)
class ScaledDensity:
    """Log density from a subset of rows: log prior plus their log likelihood, scaled up.

    Data are `(scale, rows)`, the scale being the number of all rows over that of these. It
    is unbiased if every row is equally likely to be among them.
    """

    log_prior: Any
    log_likelihood: Any

    def __call__(self, params: Any, data: tuple[Scalar, Any]) -> Scalar:
        """The log density of one parameters' pytree."""
        scale, rows = data
        return self.log_prior(params) + scale * jnp.sum(self.log_likelihood(params, rows))


@dataclass(frozen=True)
class RowsStart:
    """A model's own start for data `(scale, rows)`: it is called with the rows alone."""

    start: Any

    def __call__(self, key: Any, data: tuple[Scalar, Any]) -> Any:
        """Initial parameters, inside the supports."""
        return self.start(key, data[1])


def num_rows(data: Data) -> int:
    """Number of rows of data: the length of the leading axis, common to all leaves.

    Raises:
        ValueError: no leaves, a leaf without axes, or lengths that differ.
    """
    paths, leaves, _ = pytrees.flatten_with_paths(data)
    lengths = {np.shape(leaf)[:1] for leaf in leaves}
    if len(lengths) == 1 and lengths != {()}:
        (found,) = lengths
        if found[0] > 0:
            return int(found[0])
    shapes = ", ".join(f"{p} {np.shape(x)}".strip() for p, x in zip(paths, leaves, strict=True))
    raise ValueError(
        "expected data whose leaves all have one row for each observation on their leading axis, "
        f"as a log_likelihood takes them; got {shapes or 'no arrays'}; try data[None] or "
        "jnp.broadcast_to, or closing over what does not go by rows"
    )


def check_functions(target: Any) -> None:
    """Checks that both parts are functions, and that no other log_density is given."""
    prior, likelihood = target.log_prior, target.log_likelihood
    if prior is None or likelihood is None:
        missing = "log_prior" if prior is None else "log_likelihood"
        raise TypeError(
            f"expected log_prior and log_likelihood together; got no {missing}; try "
            "Target(log_prior=..., log_likelihood=..., supports=...)"
        )
    check_function("log_prior", prior)
    check_function("log_likelihood", likelihood)
    density, factored = target.log_density, FactoredDensity(prior, likelihood)
    if density is not None and not (isinstance(density, FactoredDensity) and density == factored):
        raise TypeError(
            "expected log_density, or log_prior and log_likelihood; got all three; try leaving "
            "log_density out"
        )


def check_shapes(target: Any, params: Any, data: Data, dtype: np.dtype) -> None:
    """Checks shapes and dtypes of what both parts return; `params` and `data` may be abstract."""
    if data is None:
        raise TypeError(
            "expected data for the log_likelihood; got none; try passing data=, or a log_density "
            "without data"
        )
    rows = num_rows(data)
    check_arguments("log_prior", target.log_prior, "params", None)
    check_arguments("log_likelihood", target.log_likelihood, "params", data)
    try:
        name = "log_prior"
        prior = jax.eval_shape(target.log_prior, params)
        name = "log_likelihood"
        found = jax.eval_shape(target.log_likelihood, params, data)
    except Exception as error:
        raise ValueError(explain(error, params, data, name)) from error
    check_value(prior, dtype, "log_prior")
    wanted = {None: ((rows,), ()), "rows": ((rows,),), "sum": ((),)}[target.likelihood]
    shape = getattr(found, "shape", None)
    if shape is not None and shape not in wanted:
        raise ValueError(
            f"expected log_likelihood to give shape {' or '.join(map(str, wanted))}, a value for "
            f"each of the {rows} rows or their sum; got shape {shape}; try summing over all axes "
            "but that of the rows"
        )
    value = found.update(shape=()) if isinstance(found, jax.ShapeDtypeStruct) else found
    check_value(value, dtype, "log_likelihood")


def check_additive(target: Any, data: Data, dtype: np.dtype) -> None:
    """Checks numerically that the log likelihood is a sum over rows.

    It is evaluated on a few rows, on their halves and on the rows twice, at points drawn around
    the origin. Points where a value is not finite are skipped.

    Raises:
        ValueError: a row's value depends on other rows, the sum of twice the rows is not twice
            the sum, or the sums of halves don't add up.
    """
    total = num_rows(data)
    chosen = np.unique(np.linspace(0, total - 1, _NUM_CHECKED_ROWS).round().astype(int))
    rows = jax.tree.map(lambda leaf: jnp.asarray(leaf[chosen]), data)
    scales = 0.5 ** np.arange(_NUM_CHECKED_POINTS)[:, None]
    z = scales * np.random.default_rng(0).normal(size=(_NUM_CHECKED_POINTS, target.dim))
    values = _likelihoods(jnp.asarray(z, dtype), rows, target=target)
    for point in zip(*(np.asarray(x, float) for x in values), strict=True):
        if not all(np.isfinite(x).all() for x in point):
            continue  # the search for a start reports it, if no point is finite
        once, twice, first, second = point
        slack = float(np.finfo(dtype).eps) ** 0.5 * (1.0 + np.abs(once).sum())
        if once.ndim == 1:
            halves = np.concatenate([first, second]) - once
            if max(np.abs(halves).max(), np.abs(twice - np.tile(once, 2)).max()) > slack:
                raise ValueError(
                    "expected a log_likelihood in which the value of a row depends on that row "
                    f"alone; got values that change with the rows beside it; {_NO_SCALING}"
                )
            continue
        if abs(twice - 2.0 * once) > slack:
            raise ValueError(
                "expected a log likelihood that doubles when the data are doubled, as a sum over "
                f"rows does; got {float(once):.6g} for {len(chosen)} rows and {float(twice):.6g} "
                f"for the same rows twice; {_NO_SCALING}"
            )
        if len(chosen) > 1 and abs(first + second - once) > slack:
            raise ValueError(
                "expected a log likelihood that is a sum over rows, each by itself; got "
                f"{float(once):.6g} for {len(chosen)} rows and {float(first + second):.6g} for "
                f"their halves; {_NO_SCALING}"
            )


_NO_SCALING = (
    "try sums in place of means, the prior in log_prior, and no scaling: scaling to all the data "
    "is done for you"
)


@partial(jax.jit, static_argnames="target")
def _likelihoods(
    z: Float[Array, "points dim"], rows: Any, *, target: Any
) -> tuple[Array, Array, Array, Array]:
    """The log likelihood of the rows, of the rows twice, and of each half."""
    middle = max(num_rows(rows) // 2, 1)
    first = jax.tree.map(lambda leaf: leaf[:middle], rows)
    second = jax.tree.map(lambda leaf: leaf[middle:], rows)
    twice = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), rows)

    def at(z: Array) -> tuple[Array, Array, Array, Array]:
        params = target.constrain(z)
        once, double, one = (target.log_likelihood(params, d) for d in (rows, twice, first))
        other = jnp.zeros_like(once)[..., middle:] if once.ndim else jnp.zeros_like(once)
        if num_rows(rows) > 1:
            other = target.log_likelihood(params, second)
        return once, double, one, other

    return jax.vmap(at)(z)
