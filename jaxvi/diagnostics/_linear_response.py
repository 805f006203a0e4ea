"""Covariances corrected by linear response, and the Monte Carlo error of a frozen optimum."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, Key

from jaxvi._arguments import typed_key
from jaxvi._numerics import split_key
from jaxvi._status import Status
from jaxvi._types import Data, Noise, Phi, Scalar
from jaxvi.data import in_memory
from jaxvi.diagnostics._frozen_noise_error import (
    Design,
    design_of,
    find_optimum,
    jackknife_error,
    leave_out,
)
from jaxvi.families import HasMoments
from jaxvi.noise import Frozen
from jaxvi.solvers import ConjugateGradientResult, Move, local_map, solve_within

_ROUGH_RELATIVE_RESIDUAL = 1e-3  # where only a standard error depends on it
_MAX_PRODUCTS = 2_000
_MAX_SYSTEMS_AT_ONCE = 64
_UNBOUNDED_RADIUS = 1e15  # of a trust region that never binds


class LinearResponse(NamedTuple):
    """Posterior means and covariances of functions of the parameters, by linear response.

    `mean`, `sd` and their standard errors are pytrees like the function's value; `covariance` is
    dense, over the value's numbers in the order of `jax.tree.leaves`, row-major.

    The Monte Carlo standard errors are those of the frozen draws: how far mean and sd would
    differ on other draws of the same kind. NaN where draws are too few to leave some out. The
    bias of linear response itself is not in them.
    """

    mean: Any
    sd: Any
    covariance: Float[np.ndarray, "size size"]
    mean_mcse: Any
    sd_mcse: Any
    residual: float  # the largest relative one of the linear systems
    status: Status  # CONVERGED; else not to be used

    @property
    def covariance_tree(self) -> Any:
        """Covariances between leaves: for leaves a and b an array of shape a.shape + b.shape."""
        leaves, treedef = jax.tree.flatten(self.mean)
        cuts = np.cumsum([np.size(leaf) for leaf in leaves])[:-1]
        rows = [
            [
                block.reshape(np.shape(a) + np.shape(b))
                for block, b in zip(np.split(row, cuts, axis=1), leaves, strict=True)
            ]
            for row, a in zip(np.split(self.covariance, cuts), leaves, strict=True)
        ]
        return jax.tree.unflatten(treedef, [jax.tree.unflatten(treedef, row) for row in rows])


class FrozenError(NamedTuple):
    """Mean and sd of q by coordinate, and their Monte Carlo standard errors; unconstrained."""

    mean: Float[np.ndarray, "dim"]
    sd: Float[np.ndarray, "dim"]
    mean_mcse: Float[np.ndarray, "dim"]
    sd_mcse: Float[np.ndarray, "dim"]
    status: Status


def linear_response(
    fit: Any,
    function: Any = None,
    *,
    key: Array | None = None,
    num_draws: Any = None,
    lane: Any = None,
) -> LinearResponse:
    r"""Posterior covariances from the response of q's means to a change of the log density.

    Where $\log p$ is tilted by $t \cdot g$, the posterior mean of g moves by its covariance
    times t. A fitted q answers too, by $J H^{-1} J^T$ with H the Hessian of the negative bound
    in phi and J the derivative of $E_q[g]$: that is the estimate (Giordano, Broderick and
    Jordan 2018; on frozen draws, Giordano, Ingram and Broderick 2024). It is exact for a
    Gaussian posterior already from `MeanField`, whose own variances are too small, and where
    means answer well it is good for others. Nothing is gained where q is wrong about the means.

    All right-hand sides are solved together by conjugate gradients on Hessian-vector products;
    equal shapes do not compile again. Monte Carlo errors come from a jackknife: draws are left
    out group by group, with one Newton step and a new solution each, about as dear again as
    the estimate for every four groups of at least 16.

    Args:
        fit: a `jaxvi.Fit` by an `ELBO`.
        function: of the constrained parameters, returning arrays in any pytree; by default the
            unconstrained vector z itself.
        key: by default that of the fit, for its own draws where it was fitted on frozen noise.
            On other draws phi is first polished by a few Newton steps, in which it moves by the
            Monte Carlo error of the two.
        num_draws: frozen draws; the fit's own where it has some, else at least 64, more where
            the family needs them.
        lane: which restart; the best by default.

    Returns:
        A `LinearResponse`; look at its `status`.

    Raises:
        TypeError: an objective other than the ELBO.
        ValueError: a lane that has not converged, draws that are too few for the family.

    Example:
        >>> fit = jaxvi.fit(key, target, jaxvi.MeanField(), solver=jaxvi.solvers.FrozenNoise())
        >>> found = jaxvi.diagnostics.linear_response(fit, lambda p: p["mu"][0])
        >>> float(found.sd), float(found.sd_mcse)
        (...)
    """
    _check_fit("linear_response", fit)
    if function is not None:
        _check_function(function, fit)
    data = in_memory(fit.data, "linear_response")
    design, phi, own = _prepare("linear_response", fit, key, num_draws, lane)
    found = _respond(phi, own, data, design=design, function=function)
    return LinearResponse(
        mean=jax.tree.map(np.asarray, found.mean),
        sd=jax.tree.map(np.asarray, found.sd),
        covariance=np.asarray(found.covariance),
        mean_mcse=jax.tree.map(np.asarray, found.mean_mcse),
        sd_mcse=jax.tree.map(np.asarray, found.sd_mcse),
        residual=float(found.residual),
        status=Status(int(found.status)),
    )


def frozen_error(fit: Any, *, key: Array | None = None, lane: Any = None) -> FrozenError:
    """How far q's own means and sds are off because its draws were frozen.

    By the jackknife of `linear_response`: one Newton step for each group of draws left out.
    Not in it is what the family can't represent, nor the bias, of the order of the squared
    error, that a nonlinear target has besides.

    Args:
        fit: a `jaxvi.Fit` on frozen noise, by a family with moments.
        key: by default the fit's.
        lane: which restart; the best by default.

    Raises:
        TypeError: noise that is not frozen, a family without moments.
        ValueError: a lane that has not converged.

    Example:
        >>> fit = jaxvi.fit(key, target, jaxvi.MeanField(), solver=jaxvi.solvers.FrozenNoise())
        >>> error = jaxvi.diagnostics.frozen_error(fit)
        >>> bool((error.mean_mcse < 0.1 * error.sd).all())
        True
    """
    _check_fit("frozen_error", fit)
    if not isinstance(fit.setup.noise, Frozen):
        raise TypeError(
            f"frozen_error: expected a fit on frozen noise; got one on {fit.setup.noise!r}; try "
            "jaxvi.fit(..., solver=jaxvi.solvers.FrozenNoise())."
        )
    if not isinstance(fit.setup.family, HasMoments):
        raise TypeError(
            "frozen_error: expected a family with a moments(phi) method; got "
            f"{fit.setup.family!r}; try linear_response, which needs none."
        )
    design, phi, own = _prepare("frozen_error", fit, key, None, lane)
    found = _moment_errors(phi, own, fit.data, design=design)
    mean, sd, mean_mcse, sd_mcse = (np.asarray(part) for part in found[:4])
    return FrozenError(mean, sd, mean_mcse, sd_mcse, Status(int(found[4])))


def _check_fit(owner: str, fit: Any) -> None:
    """Raise unless `fit` has the attributes of a `Fit`, whose module cannot be imported here."""
    if not all(hasattr(fit, name) for name in ("setup", "lane", "best", "data")):
        raise TypeError(f"{owner}: expected what jaxvi.fit returns; got {fit!r:.80}.")


def _check_function(function: Any, fit: Any) -> None:
    """Raise unless `function` takes the constrained parameters and returns arrays."""
    target, phi = fit.setup.target, fit.phi
    z = jax.ShapeDtypeStruct((target.dim,), jax.tree.leaves(phi)[0].dtype)
    made = jax.eval_shape(lambda z: function(target.constrain(z)), z) if callable(function) else ()
    if not jax.tree.leaves(made):
        raise TypeError(
            "linear_response: expected a function of the constrained parameters that gives arrays; "
            f"got {function!r:.80}; try lambda params: params['mu']."
        )


def _prepare(
    owner: str, fit: Any, key: Array | None, num_draws: int | None, lane: int | None
) -> tuple[Design, Phi, Array]:
    """The frozen bound, the phi of a lane that has converged, and the key of its draws."""
    index = fit.best if lane is None else lane
    result = fit.lane(index)
    status = Status(int(result.status))
    if not status.ok:
        raise ValueError(
            f"{owner}: expected a lane that has converged, since the gradient must vanish; got "
            f"lane {index} with status {status.text!r}. {status.remedy}"
        )
    design = design_of(owner, fit, num_draws)
    own = split_key(fit.key if key is None else typed_key(key)).noise
    return design, result.phi, own if design.source.shared else jax.random.fold_in(own, index)


class _Found(NamedTuple):
    """A `LinearResponse` inside the compiled program."""

    mean: Any
    sd: Any
    covariance: Float[Array, "size size"]
    mean_mcse: Any
    sd_mcse: Any
    residual: Scalar
    status: Int[Array, ""]


@partial(jax.jit, static_argnames=("design", "function"))
def _respond(phi: Phi, key: Key[Array, ""], data: Data, *, design: Design, function: Any) -> _Found:
    """`linear_response` as a compiled program."""
    optimum = find_optimum(design, phi, key, data)
    system = _System(design, function, local_map(design.family, optimum.phi, optimum.noise), data)
    origin = jnp.zeros_like(ravel_pytree(phi)[0])
    draws, factor = leave_out(design, optimum.noise)
    slopes = jax.jacrev(system.mean)(origin, optimum.noise)
    precise = float(jnp.finfo(slopes.dtype).eps) ** 0.5
    path, steps = system.solve_with_steps(origin, optimum.noise, slopes, precise, draws)
    covariance = _covariance(slopes, path.step, path.residual)
    mean = system.mean(origin, optimum.noise)

    def again(group: tuple[Array, Noise]) -> tuple[Array, Array]:
        return system.mean(*group), _root(system.variances(*group, path.step))

    means, sds = lax.map(again, (steps, draws))
    status = jnp.where(jnp.any(path.flat), Status.SINGULAR, Status.STALLED)
    status = jnp.where(jnp.all(path.solved), optimum.status, status)
    status = jnp.where(jnp.isfinite(covariance).all(), status, Status.NOT_FINITE)
    unravel = ravel_pytree(system.values(origin, optimum.noise[0]))[1]
    return _Found(
        mean=unravel(mean),
        sd=unravel(_root(jnp.diagonal(covariance))),
        covariance=covariance,
        mean_mcse=unravel(jackknife_error(means, factor)),
        sd_mcse=unravel(jackknife_error(sds, factor)),
        residual=jnp.max(jnp.linalg.norm(path.residual, axis=1) / _norms(slopes)),
        status=status.astype(jnp.int32),
    )


@partial(jax.jit, static_argnames=("design",))
def _moment_errors(
    phi: Phi, key: Key[Array, ""], data: Data, *, design: Design
) -> tuple[Array, Array, Array, Array, Array]:
    """Mean and sd of q, their jackknife errors, and the status, as a compiled program."""
    family = design.family
    assert isinstance(family, HasMoments)
    optimum = find_optimum(design, phi, key, data)
    move = local_map(family, optimum.phi, optimum.noise)
    origin = jnp.zeros_like(ravel_pytree(phi)[0])
    draws, factor = leave_out(design, optimum.noise)
    nothing = jnp.zeros((0, origin.size), origin.dtype)
    system = _System(design, None, move, data)
    _, steps = system.solve_with_steps(
        origin, optimum.noise, nothing, _ROUGH_RELATIVE_RESIDUAL, draws
    )

    def moments(at: Float[Array, "size"]) -> tuple[Array, Array]:
        mean, variance = family.moments(move(at))
        return mean, _root(variance)

    means, sds = jax.vmap(moments)(steps)
    errors = jackknife_error(means, factor), jackknife_error(sds, factor)
    return *moments(origin), *errors, optimum.status


@dataclasses.dataclass(frozen=True, eq=False)
class _System:
    """The frozen bound, and a function's mean, in local coordinates around the optimum."""

    design: Design
    function: Callable[[Any], Any] | None
    move: Move
    data: Data

    def gradient(self, at: Float[Array, "size"], noise: Noise) -> Float[Array, "size"]:
        """Gradient of the frozen loss."""
        problem = self.design.problem(self.data)
        return jax.grad(lambda at: problem.loss(self.move(at), noise).loss)(at)

    def values(self, at: Float[Array, "size"], row: Float[Array, "noise"]) -> Any:
        """Value of the function at one draw."""
        z = self.design.family.transform(self.move(at), row)
        if self.function is None:
            return z
        return self.function(self.design.target.constrain(z))

    def mean(self, at: Float[Array, "size"], noise: Noise) -> Float[Array, "outputs"]:
        """The function's mean over the draws, as a flat vector."""
        flat = jax.vmap(lambda row: ravel_pytree(self.values(at, row))[0])(noise)
        return flat.mean(axis=0)

    def product(
        self, at: Float[Array, "size"], noise: Noise, vector: Float[Array, "size"]
    ) -> Float[Array, "size"]:
        """Hessian of the frozen loss times a vector."""
        return jax.jvp(lambda at: self.gradient(at, noise), (at,), (vector,))[1]

    def solve(
        self,
        at: Float[Array, "size"],
        noise: Noise,
        right: Float[Array, "systems size"],
        target: Float[Array, "systems"],
    ) -> ConjugateGradientResult:
        """Solve H x = right for many right-hand sides, to residuals of norm `target`."""

        def one(row: tuple[Array, Array]) -> ConjugateGradientResult:
            product = partial(self.product, at, noise)
            return solve_within(product, -row[0], _UNBOUNDED_RADIUS, row[1], _MAX_PRODUCTS)

        if len(right) <= _MAX_SYSTEMS_AT_ONCE:
            return jax.vmap(one)((right, target))
        return lax.map(one, (right, target), batch_size=_MAX_SYSTEMS_AT_ONCE)

    def solve_with_steps(
        self,
        at: Float[Array, "size"],
        noise: Noise,
        right: Float[Array, "outputs size"],
        relative: float,
        draws: Float[Array, "groups left noise"],
    ) -> tuple[ConjugateGradientResult, Float[Array, "groups size"]]:
        """Solve H x = right, together with the Newton steps to the jackknife samples' optima."""
        slopes = jax.vmap(self.gradient, (None, 0))(at, draws)
        target = jnp.concatenate(
            [relative * _norms(right), _ROUGH_RELATIVE_RESIDUAL * _norms(slopes)]
        )
        path = self.solve(at, noise, jnp.concatenate([right, -slopes]), target)
        num = len(right)
        return jax.tree.map(lambda leaf: leaf[:num], path), path.step[num:]

    def variances(
        self, at: Float[Array, "size"], noise: Noise, guess: Float[Array, "outputs size"]
    ) -> Float[Array, "outputs"]:
        """Variances by linear response from a guess of H^-1 J^T, exact enough for an error bar."""
        slopes = jax.jacrev(self.mean)(at, noise)
        known = jax.vmap(partial(self.product, at, noise))(guess)
        path = self.solve(at, noise, slopes - known, _ROUGH_RELATIVE_RESIDUAL * _norms(slopes))
        return jnp.diagonal(_covariance(slopes, guess + path.step, path.residual))


def _covariance(
    slopes: Float[Array, "outputs size"],
    solutions: Float[Array, "outputs size"],
    residuals: Float[Array, "outputs size"],
) -> Float[Array, "outputs outputs"]:
    """J H^-1 J^T from H x = J^T + r, up to an error of the second order in r."""
    covariance = solutions @ slopes.T - residuals @ solutions.T
    return 0.5 * (covariance + covariance.T)


def _norms(rows: Float[Array, "rows size"]) -> Float[Array, "rows"]:
    """Norms of the rows, and 1 for rows of zeros."""
    square = jnp.sum(rows * rows, axis=1)
    return jnp.sqrt(jnp.where(square > 0.0, square, 1.0))


def _root(variance: Float[Array, "..."]) -> Float[Array, "..."]:
    """Standard deviations from variances; NaN where an estimated variance is negative."""
    return jnp.sqrt(variance)
