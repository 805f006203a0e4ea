"""Shared problems with exact answers, and the members that tests cross them with.

Every problem is off-centre and off-scale, and its log evidence is not 0. `PROBLEMS` is crossed
with families, objectives and solvers; `FAMILIES`, `OBJECTIVES` and `SOURCES` are read from the
packages, so that a new member is tested without a new line. tests/objectives/ checks the
catalogue's own numbers.
"""

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln as jgammaln
from scipy.optimize import root
from scipy.special import betaln, digamma, expit, gammaln, polygamma

import jaxvi
from jaxvi import families, noise, objectives
from jaxvi.families import Family, FullRankParams, HasCovariance, HasMoments
from jaxvi.supports import Interval, Positive, Real

LOG_2PI = math.log(2.0 * math.pi)
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(100)
WEIGHTS = WEIGHTS / WEIGHTS.sum()  # the mean of a function of a standard normal


@dataclass(frozen=True, eq=False)
class GaussianOptimum:
    """The Gaussian of one structure with the largest evidence lower bound, and that bound."""

    mean: np.ndarray
    covariance: np.ndarray
    bound: float

    @property
    def full_rank(self) -> FullRankParams:
        """As variational parameters of `FullRank`, in JAX's default float."""
        factor = np.linalg.cholesky(self.covariance)
        parts = self.mean, np.log(np.diag(factor)), np.tril(factor, -1)
        return FullRankParams(*(jnp.asarray(part, float) for part in parts))


@dataclass(frozen=True, eq=False)
class Problem:
    """A target with exact answers, all in unconstrained coordinates z.

    `expected_log_prob(mean, covariance, data)` is E_q[log p(z, data)] for a Gaussian q (for any q
    with these moments where `gaussian`), differentiable, in the dtype of `mean`.
    """

    name: str
    target: jaxvi.Target
    data: Any
    log_evidence: float
    mean: np.ndarray
    covariance: np.ndarray
    full: GaussianOptimum
    diagonal: GaussianOptimum
    expected_log_prob: Callable[[Any, Any, Any], Any]
    gaussian: bool = False

    @property
    def dim(self) -> int:
        """Number of unconstrained coordinates."""
        return self.target.dim

    def data_as(self, dtype: Any) -> Any:
        """The data with its arrays in one dtype, None where there is none."""
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), self.data)

    def __repr__(self) -> str:
        return self.name


def normal_log_prob(z: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """log N(z | mean, covariance) of the rows of z, in NumPy."""
    factor = np.linalg.cholesky(covariance)
    white = np.linalg.solve(factor, np.asarray(z - mean).T)
    return -0.5 * (white**2).sum(0) - np.log(np.diag(factor)).sum() - 0.5 * len(mean) * LOG_2PI


def _gaussian_optima(
    mean: np.ndarray, covariance: np.ndarray, log_evidence: float
) -> tuple[GaussianOptimum, GaussianOptimum]:
    """Of a Gaussian posterior: itself, and variances 1 / P_ii with P the precision."""
    precision = np.linalg.inv(covariance)
    loss = 0.5 * (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1])
    return (
        GaussianOptimum(mean, covariance, log_evidence),
        GaussianOptimum(mean, np.diag(1.0 / np.diag(precision)), log_evidence - loss),
    )


def _gaussian(name: str, supports: Any, mean: Any, sds: Any, correlation: Any) -> Problem:
    """A correlated Gaussian with a chosen log evidence that no constant of it gives away."""
    mean, sds = np.asarray(mean), np.asarray(sds)
    lower = np.eye(len(mean))
    lower[np.tril_indices(len(mean), -1)] = correlation
    lower /= np.linalg.norm(lower, axis=1, keepdims=True)
    covariance = sds[:, None] * (lower @ lower.T) * sds[None, :]
    precision, offset = np.linalg.inv(covariance), 7.3

    def log_density(params: Any, data: Any) -> Any:
        white = jnp.concatenate([jnp.ravel(p) for p in jax.tree.leaves(params)]) - data["mean"]
        return offset - 0.5 * white @ data["precision"] @ white

    def expected(m: Any, cov: Any, data: Any) -> Any:
        white = m - data["mean"]
        trace = jnp.sum(data["precision"] * cov)
        return offset - 0.5 * (white @ data["precision"] @ white + trace)

    log_evidence = offset + 0.5 * (len(mean) * LOG_2PI + np.linalg.slogdet(covariance)[1])
    full, diagonal = _gaussian_optima(mean, covariance, log_evidence)
    return Problem(
        name,
        jaxvi.Target(log_density, supports),
        {"mean": mean, "precision": precision},
        log_evidence,
        mean,
        covariance,
        full,
        diagonal,
        expected,
        gaussian=True,
    )


def _normal_mean() -> Problem:
    """Six observations of two correlated quantities, known noise, a normal prior on the mean."""
    y = np.array([[4.1, -1.2], [5.9, -0.4], [3.3, -1.9], [6.2, -0.2], [4.8, -1.1], [5.5, -0.9]])
    noise_cov = np.array([[1.5, 0.6], [0.6, 0.5]])
    prior_mean, prior_cov = np.array([1.0, 2.0]), np.array([[4.0, -1.0], [-1.0, 2.0]])
    num, dim = y.shape
    noise_precision, prior_precision = np.linalg.inv(noise_cov), np.linalg.inv(prior_cov)
    constant = -0.5 * (
        (num + 1) * dim * LOG_2PI
        + num * np.linalg.slogdet(noise_cov)[1]
        + np.linalg.slogdet(prior_cov)[1]
    )

    def log_density(params: Any, data: Any) -> Any:
        like, prior = (
            jnp.asarray(noise_precision, data.dtype),
            jnp.asarray(prior_precision, data.dtype),
        )
        error = data - params["mu"][None, :]
        from_prior = params["mu"] - jnp.asarray(prior_mean, data.dtype)
        square = jnp.sum((error @ like) * error) + from_prior @ prior @ from_prior
        return constant - 0.5 * square

    precision = prior_precision + num * noise_precision
    covariance = np.linalg.inv(precision)
    mean = covariance @ (prior_precision @ prior_mean + noise_precision @ y.sum(0))
    # all observations together are one normal vector
    together = np.kron(np.eye(num), noise_cov) + np.kron(np.ones((num, num)), prior_cov)
    log_evidence = float(normal_log_prob(y.reshape(1, -1), np.tile(prior_mean, num), together)[0])

    def expected(m: Any, cov: Any, data: Any) -> Any:
        trace = jnp.sum(jnp.asarray(precision, m.dtype) * cov)
        return log_density({"mu": m}, data) - 0.5 * trace

    full, diagonal = _gaussian_optima(mean, covariance, log_evidence)
    target = jaxvi.Target(log_density, {"mu": Real((2,))})
    return Problem(
        "normal_mean",
        target,
        y,
        log_evidence,
        mean,
        covariance,
        full,
        diagonal,
        expected,
        gaussian=True,
    )


def _log_gamma_parts(shape: np.ndarray, rate: np.ndarray, log_evidence: float) -> dict[str, Any]:
    """Exact answers for z = log x, x ~ Gamma(shape, rate), independent.

    The best Gaussian has s^2 = 1 / shape and m = log(shape / rate) - s^2 / 2.
    """
    variance = 1.0 / shape
    mean = np.log(shape / rate) - 0.5 * variance
    energy = shape * np.log(rate) - gammaln(shape) + shape * mean - shape
    entropy = 0.5 * (np.log(variance) + 1.0 + LOG_2PI)
    optimum = GaussianOptimum(
        mean, np.diag(variance), float(log_evidence + energy.sum() + entropy.sum())
    )
    return {
        "log_evidence": log_evidence,
        "mean": digamma(shape) - np.log(rate),
        "covariance": np.diag(polygamma(1, shape)),
        "full": optimum,
        "diagonal": optimum,
    }


def _gamma_poisson() -> Problem:
    """Counts with a Gamma prior on their rate: the posterior is Gamma(shape, rate)."""
    counts, prior_shape, prior_rate = np.array([0.0, 1.0, 0.0, 2.0]), 0.7, 3.0
    constant = prior_shape * math.log(prior_rate) - gammaln(prior_shape)

    def log_density(params: Any, data: Any) -> Any:
        rate = params["rate"]
        log_prior = constant + (prior_shape - 1.0) * jnp.log(rate) - prior_rate * rate
        return log_prior + jnp.sum(data * jnp.log(rate) - rate - jgammaln(data + 1.0))

    shape, rate = prior_shape + counts.sum(), prior_rate + len(counts)
    factorials = gammaln(counts + 1.0).sum()
    log_evidence = float(constant + gammaln(shape) - shape * math.log(rate) - factorials)

    def expected(m: Any, cov: Any, data: Any) -> Any:
        growth = jnp.exp(m[0] + 0.5 * cov[0, 0])
        total = prior_shape + jnp.sum(data)
        joint = constant - jnp.sum(jgammaln(data + 1.0))
        return joint + total * m[0] - (prior_rate + data.size) * growth

    return Problem(
        name="gamma_poisson",
        target=jaxvi.Target(log_density, {"rate": Positive()}),
        data=counts,
        expected_log_prob=expected,
        **_log_gamma_parts(np.array([shape]), np.array([rate]), log_evidence),
    )


def _log_gamma() -> Problem:
    """The density of the logarithms of two Gamma variables, without its constant; no data."""
    shape, rate, offset = np.array([1.5, 6.0]), np.array([0.2, 9.0]), -4.2

    def log_density(z: Any) -> Any:
        a, b = jnp.asarray(shape, z.dtype), jnp.asarray(rate, z.dtype)
        return offset + jnp.sum(a * z - b * jnp.exp(z))

    def expected(m: Any, cov: Any, data: Any) -> Any:
        a, b = jnp.asarray(shape, m.dtype), jnp.asarray(rate, m.dtype)
        return offset + jnp.sum(a * m - b * jnp.exp(m + 0.5 * jnp.diagonal(cov)))

    log_evidence = float(offset + (gammaln(shape) - shape * np.log(rate)).sum())
    return Problem(
        name="log_gamma",
        target=jaxvi.Target(log_density, Real((2,))),
        data=None,
        expected_log_prob=expected,
        **_log_gamma_parts(shape, rate, log_evidence),
    )


def _optimum_by_quadrature(
    log_prob: Callable[..., Any], slope: Callable[..., Any], bend: Callable[..., Any], start: Any
) -> GaussianOptimum:
    """Best Gaussian for a density of one z: E[slope] = 0 and E[bend] = -1 / s^2."""

    def conditions(x: np.ndarray) -> np.ndarray:
        mean, scale = x[0], math.exp(x[1])
        z = mean + scale * NODES
        return np.array([WEIGHTS @ slope(z) * scale, 1.0 + scale**2 * (WEIGHTS @ bend(z))])

    mean, log_scale = root(conditions, start, tol=1e-13).x
    z = mean + math.exp(log_scale) * NODES
    bound = float(WEIGHTS @ log_prob(z) + log_scale + 0.5 * (1.0 + LOG_2PI))
    variance = np.array([[math.exp(2.0 * log_scale)]])
    return GaussianOptimum(np.array([mean]), variance, bound)


def _expected_by_quadrature(target: jaxvi.Target) -> Callable[[Any, Any, Any], Any]:
    """E_q[log p] for a Gaussian q over one z, by Gauss-Hermite quadrature."""

    def expected(m: Any, cov: Any, data: Any) -> Any:
        nodes, weights = jnp.asarray(NODES, m.dtype), jnp.asarray(WEIGHTS, m.dtype)
        z = m[0] + jnp.sqrt(cov[0, 0]) * nodes
        return weights @ jax.vmap(target.log_prob, (0, None))(z[:, None], data)

    return expected


def _student_t() -> Problem:
    """A t density with 5 degrees of freedom, off-centre and off-scale; heavier than Gaussian."""
    df, loc, scale, offset = 5.0, -3.0, 2.5, 1.9

    def log_prob(z: Any, log1p: Callable[..., Any] = np.log1p) -> Any:
        return offset - 0.5 * (df + 1.0) * log1p(((z - loc) / scale) ** 2 / df)

    def log_density(params: Any) -> Any:
        return log_prob(params["x"], jnp.log1p)

    def slope(z: np.ndarray) -> np.ndarray:
        u = (z - loc) / scale
        return -(df + 1.0) * u / (df + u**2) / scale

    def bend(z: np.ndarray) -> np.ndarray:
        u = (z - loc) / scale
        return -(df + 1.0) * (df - u**2) / (df + u**2) ** 2 / scale**2

    target = jaxvi.Target(log_density, {"x": Real()})
    optimum = _optimum_by_quadrature(log_prob, slope, bend, [loc + 0.1, math.log(scale)])
    log_norm = gammaln(0.5 * (df + 1.0)) - gammaln(0.5 * df) - 0.5 * math.log(df * math.pi)
    return Problem(
        name="student_t",
        target=target,
        data=None,
        log_evidence=float(offset - log_norm + math.log(scale)),
        mean=np.array([loc]),
        covariance=np.array([[scale**2 * df / (df - 2.0)]]),
        full=optimum,
        diagonal=optimum,
        expected_log_prob=_expected_by_quadrature(target),
    )


def _beta_binomial() -> Problem:
    """Successes in trials, their rate quoted on the scale from 2 to 5: z = logit of the rate."""
    prior_a, prior_b, lower, upper = 2.5, 1.2, 2.0, 5.0
    data = {"successes": np.array(3.0), "trials": np.array(11.0)}
    num, k = 11.0, 3.0
    log_choose = -betaln(k + 1.0, num - k + 1.0) - math.log(num + 1.0)
    constant = log_choose - betaln(prior_a, prior_b) - math.log(upper - lower)

    def log_density(params: Any, data: Any) -> Any:
        rate = (params - lower) / (upper - lower)
        failures = data["trials"] - data["successes"]
        log_rates = (prior_a - 1.0 + data["successes"]) * jnp.log(rate)
        return constant + log_rates + (prior_b - 1.0 + failures) * jnp.log1p(-rate)

    a, b = prior_a + k, prior_b + num - k

    def log_prob(z: np.ndarray) -> np.ndarray:
        return constant + math.log(upper - lower) + a * z - (a + b) * np.logaddexp(0.0, z)

    def slope(z: np.ndarray) -> np.ndarray:
        return a - (a + b) * expit(z)

    def bend(z: np.ndarray) -> np.ndarray:
        return -(a + b) * expit(z) * expit(-z)

    target = jaxvi.Target(log_density, Interval(lower, upper))
    optimum = _optimum_by_quadrature(log_prob, slope, bend, [math.log(a / b), -0.5])
    return Problem(
        name="beta_binomial",
        target=target,
        data=data,
        log_evidence=float(log_choose + betaln(a, b) - betaln(prior_a, prior_b)),
        mean=np.array([digamma(a) - digamma(b)]),
        covariance=np.array([[polygamma(1, a) + polygamma(1, b)]]),
        full=optimum,
        diagonal=optimum,
        expected_log_prob=_expected_by_quadrature(target),
    )


GAUSSIAN_3 = _gaussian(
    "gaussian_3", Real((3,)), [1.5, -2.0, 4.0], [0.5, 2.0, 1.0], [0.7, -0.5, 0.4]
)
GAUSSIAN_5 = _gaussian(
    "gaussian_5",
    {"left": Real((2,)), "right": Real((3,))},
    [-4.0, 0.7, 2.2, -1.1, 5.0],
    [0.3, 3.0, 1.1, 0.6, 2.0],
    [0.9, -0.4, 0.3, 0.2, 0.8, -0.6, 0.5, -0.3, 0.1, 1.2],
)
NORMAL_MEAN = _normal_mean()
GAMMA_POISSON = _gamma_poisson()
LOG_GAMMA = _log_gamma()
STUDENT_T = _student_t()
BETA_BINOMIAL = _beta_binomial()

PROBLEMS: list[Problem] = [
    GAUSSIAN_3,
    GAUSSIAN_5,
    NORMAL_MEAN,
    GAMMA_POISSON,
    LOG_GAMMA,
    STUDENT_T,
    BETA_BINOMIAL,
]
GAUSSIAN_PROBLEMS = [problem for problem in PROBLEMS if problem.gaussian]


def concrete(names: Any, package: Any, base: type) -> list[type]:
    """The subclasses of `base` among a package's names that can be made."""
    found = [getattr(package, name) for name in names]
    return [
        cls
        for cls in found
        if inspect.isclass(cls) and issubclass(cls, base) and not inspect.isabstract(cls)
    ]


SMALL = {
    families.AutoregressiveFlow: families.AutoregressiveFlow(num_layers=2, hidden=(6,)),
    families.CouplingFlow: families.CouplingFlow(num_layers=2, hidden=(6,)),
}
"""Flows as they come have thousands of parameters; the laws hold for small ones as well."""

FAMILIES: list[Family] = [
    SMALL.get(cls) or cls() for cls in concrete(families.__all__, families, Family)
] + [
    families.LowRank(2),
    families.StudentT(structure="diagonal"),
    families.StudentT(df=6.0, learn_df=True),
    families.StudentT(df=6.5, structure="diagonal", learn_df=True),
    families.StudentT(df=1.5),
    families.CouplingFlow(
        num_layers=3, hidden=(6,), transformer="spline", num_bins=4, affine="diagonal"
    ),
    families.Transformed(
        families.AutoregressiveFlow(num_layers=1, hidden=(4,)),
        families.Affine(learned=True),
    ),
]
"""Every public family as it comes, and variants that a default does not reach."""


def is_first_of_its_kind(family: Family) -> bool:
    """Whether a family is what objectives and noise tell apart: its class, and what it learns.

    Its other options are seen by laws of families, and here with --long.
    """
    kinds = [(type(each), getattr(each, "learn_df", None)) for each in FAMILIES]
    place = FAMILIES.index(family)
    return kinds.index(kinds[place]) == place


OBJECTIVES: list[objectives.Objective] = [
    cls() for cls in concrete(objectives.__all__, objectives, objectives.Objective)
] + [
    objectives.ELBO(entropy="closed"),
    objectives.ELBO(entropy="sampled"),
    objectives.ELBO(stick_the_landing=True),
]
"""Every public objective as it comes, and its other estimators."""

SOURCES: list[noise.NoiseSource] = [
    cls() for cls in concrete(noise.__all__, noise, noise.NoiseSource)
]
"""Every noise source as it comes."""


@dataclass(frozen=True)
class Bare(Family):
    """A family with the four required methods and nothing else: unit Gaussians."""

    def init(self, key: Any, dim: int, *, start: Any = None) -> tuple[Any]:
        return (jnp.zeros(dim) if start is None else start,)

    def draw_noise(self, key: Any, num: int, dim: int, dtype: Any = None) -> Any:
        return jax.random.normal(key, (num, dim), dtype or float)

    def transform(self, phi: Any, noise: Any) -> Any:
        return phi[0] + noise

    def log_prob(self, phi: Any, z: Any) -> Any:
        return -0.5 * jnp.sum((z - phi[0]) ** 2) - 0.5 * z.size * LOG_2PI


def somewhere(family: Family, dim: int, start: Any = None, spread: float = 0.3) -> Any:
    """Variational parameters at no special place, in JAX's default float.

    Every leaf of `init`'s is moved by noise, those entries too that the family never reads, and
    networks, which add up many terms, by less.
    """
    rng = np.random.default_rng(11)
    start = jnp.asarray(np.linspace(-1.3, 2.1, dim) if start is None else start, float)
    phi = family.init(jax.random.key(5), dim, start=start)

    def moved(path: Any, leaf: jax.Array) -> jax.Array:
        terms = 8 if "nets" in jax.tree_util.keystr(path) else 1
        noise = spread / math.sqrt(terms) * rng.normal(size=leaf.shape)
        return leaf + jnp.asarray(noise, leaf.dtype)

    return jax.tree_util.tree_map_with_path(moved, phi)


@functools.cache
def is_gaussian(family: Family) -> bool:
    """Whether the family's densities are Gaussians with the covariance that it states."""
    if not (isinstance(family, HasCovariance) and isinstance(family, HasMoments)):
        return False
    with jax.enable_x64(True):
        phi = somewhere(family, 2)
        mean, covariance = family.moments(phi).mean, family.covariance(phi)
        if not np.isfinite(covariance).all():
            return False
        z = np.random.default_rng(0).multivariate_normal(mean, covariance, 4)
        found = [family.log_prob(phi, jnp.asarray(row)) for row in z]
    return np.allclose(found, normal_log_prob(z, np.asarray(mean), np.asarray(covariance)))


def has_moments(family: Family, order: int) -> bool:
    """Whether draws have finite moments of this order; families with a `df` may not."""
    return getattr(family, "df", math.inf) > order


def assert_within(mean: Any, exact: Any, error: Any, width: float = 5.0) -> None:
    """Every mean lies within `width` standard errors of the exact value, rounding aside."""
    mean, exact, error = np.asarray(mean, float), np.asarray(exact, float), np.asarray(error, float)
    assert np.isfinite(mean).all()
    assert np.isfinite(error).all()
    slack = width * error + 1e-9 * (1.0 + np.abs(exact))
    worst = np.max(np.abs(mean - exact) / slack)
    assert worst <= 1.0, f"{worst * width:.1f} standard errors: {mean} is not {exact} +- {error}"


def mean_and_error(values: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the leading axis, and its standard error."""
    values = np.asarray(values, float)
    return values.mean(0), values.std(0, ddof=1) / math.sqrt(len(values))
