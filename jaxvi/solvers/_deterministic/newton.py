"""Damped Newton's method on a log density, and a certificate that its end is a mode.

Everything is measured in standard deviations of the local quadratic: with H the Hessian of log p,
W W^T = |H|^-1, so that a point is z + W e, and a Newton step has the length
delta = |W^T g|, the root of the decrement. Absolute eigenvalues make the step go uphill where log p
is not concave.

A small decrement is no proof of a mode: on the tail of log p = -exp(z) the Newton step is 1 and
its decrement exp(z), which is arbitrarily small although there is no mode. Kantorovich's condition
distinguishes the two: over the step, and a little beyond, curvatures may not change by more than a
quarter (on that tail they change by a factor of e).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxvi._numerics import pytrees
from jaxvi._status import Status
from jaxvi._types import Scalar
from jaxvi.solvers._base import Problem
from jaxvi.solvers._deterministic.lbfgs import Point

_FIRST_RADIUS_SD = 3.0
_MAX_RADIUS_SD = 1e3
_PROBE_SD = 1e-3  # by which the certificate's probe goes beyond the Newton step
_MAX_CURVATURE_CHANGE = 0.25  # relative, for a mode to be certified
_MAX_DOUBTS = 3  # refused certificates
_MAX_REJECTED = 8  # trial points in a row
_MAX_STEPS = 25
_MAX_HESSIAN_COLUMNS = 64  # computed at a time


class Curvature(NamedTuple):
    """The Hessian at a point as W with W W^T = |H|^-1, whose columns lie along eigenvectors.

    Eigenvalues are those of H scaled to a diagonal of +-1, which does not depend on the units of
    the coordinates; those below rounding count as `flat` and are raised to it.
    """

    whiten: Float[Array, "dim dim"]
    rising: Bool[Array, "dim"]  # log p is convex along this column
    flat: Bool[Array, "dim"]


class Newton(NamedTuple):
    """State of a Newton search: its point, the trial point to evaluate next, and its status."""

    at: Point
    hessian: Float[Array, "dim dim"]
    curvature: Curvature
    trial: Float[Array, "dim"]
    step: Float[Array, "dim"]  # the Newton step from the point
    gain: Scalar  # predicted by the quadratic model at the trial point, nats
    decrement: Scalar  # g^T |H|^-1 g at the point
    last_length: Scalar  # of the last step, in coordinates; 0 if it was rejected
    reach: Scalar  # largest distance to the trial along a column, standard deviations
    radius: Scalar  # largest step along any column, standard deviations
    probing: Bool[Array, ""]  # the trial is a probe to certify the point
    settled: Bool[Array, ""]  # the decrement no longer shrinks
    doubts: Int[Array, ""]  # certificates refused
    rejected: Int[Array, ""]  # trial points in a row
    steps: Int[Array, ""]
    overflowed: Bool[Array, ""]  # log p was +inf at a trial point
    not_finite: Bool[Array, ""]  # something was not finite at a trial point
    usable: Bool[Array, ""]  # the Hessian at the point is finite
    status: Int[Array, ""]


def start_newton(at: Point) -> Newton:
    """A search whose first trial point is the point itself."""
    dim, dtype = at.z.size, at.z.dtype
    square, zero = jnp.zeros((dim, dim), dtype), jnp.zeros((), dtype)
    no, count = jnp.zeros((), bool), jnp.zeros((), jnp.int32)
    return Newton(
        at=at,
        hessian=square,
        curvature=Curvature(square, jnp.zeros(dim, bool), jnp.zeros(dim, bool)),
        trial=at.z,
        step=jnp.zeros_like(at.z),
        gain=zero,
        decrement=zero,
        last_length=zero,
        reach=zero,
        radius=zero + _FIRST_RADIUS_SD,
        probing=no,
        settled=no,
        doubts=count,
        rejected=count,
        steps=count,
        overflowed=no,
        not_finite=no,
        usable=~no,
        status=jnp.full((), Status.RUNNING, jnp.int32),
    )


def unfinished(newton: Newton) -> Bool[Array, ""]:
    """Whether the search can go on."""
    going = (newton.status == Status.RUNNING) & newton.usable
    return going & (newton.rejected < _MAX_REJECTED) & (newton.steps < _MAX_STEPS)


def newton_step(newton: Newton, problem: Problem, tolerance: float) -> Newton:
    """Evaluate log p, gradient and Hessian at the trial; accept or reject it; propose the next."""
    trial = newton.trial
    values, grads = problem.values_and_gradients(trial[None])
    value, grad, hessian = values[0], grads[0], dense_hessian(trial, problem)
    finite = jnp.isfinite(value) & jnp.isfinite(grad).all() & jnp.isfinite(hessian).all()
    first = newton.steps == 0
    seen = newton._replace(
        steps=newton.steps + 1,
        overflowed=newton.overflowed | (value == jnp.inf),
        not_finite=newton.not_finite | ~finite,
        usable=newton.usable & (finite | ~first),
    )
    hessian = jnp.where(finite, hessian, newton.hessian)
    point = pytrees.where(finite, Point(trial, value, grad), newton.at)
    certified = newton.probing & finite & _curvature_is_unchanged(newton, hessian)
    moved = pytrees.where(
        newton.probing,
        _conclude_probe(seen, certified),
        _accept_or_reject(seen, point, hessian, finite),
    )
    return pytrees.where(certified, moved, _propose(moved, tolerance))


def dense_hessian(z: Float[Array, "dim"], problem: Problem) -> Float[Array, "dim dim"]:
    """Hessian of log p, computed 64 columns at a time to bound memory."""
    eye = jnp.eye(z.size, dtype=z.dtype)
    if z.size <= _MAX_HESSIAN_COLUMNS:
        hessian = problem.hessian_products(z[None], eye[None])[0]
    else:
        columns = jnp.pad(eye, ((0, -z.size % _MAX_HESSIAN_COLUMNS), (0, 0))).reshape(
            -1, _MAX_HESSIAN_COLUMNS, z.size
        )
        rows = lax.map(lambda some: problem.hessian_products(z[None], some[None])[0], columns)
        hessian = rows.reshape(-1, z.size)[: z.size]
    return 0.5 * (hessian + hessian.T)


def measure(hessian: Float[Array, "dim dim"]) -> Curvature:
    """Whitening factor of a finite Hessian, and the signs of its eigenvalues."""
    eps = jnp.finfo(hessian.dtype).eps
    diagonal = jnp.abs(jnp.diagonal(hessian))
    # where a diagonal is 0 (log p = x y), the row gives the size of its curvatures
    size = jnp.where(diagonal > 0.0, diagonal, jnp.abs(hessian).max(axis=-1))
    scale = jnp.sqrt(jnp.where(size > 0.0, size, 1.0))
    scaled = hessian / scale[:, None] / scale[None, :]
    scaled = jnp.where(jnp.isfinite(scaled).all(), scaled, jnp.eye(scale.size, dtype=scale.dtype))
    values, vectors = jnp.linalg.eigh(scaled)
    floor = 10.0 * eps * jnp.maximum(jnp.abs(values).max(), 1.0)
    flat = jnp.abs(values) <= floor
    root = jnp.sqrt(jnp.maximum(jnp.abs(values), floor))
    return Curvature(vectors / scale[:, None] / root[None, :], (values > 0.0) & ~flat, flat)


def scale_tril(curvature: Curvature) -> Float[Array, "dim dim"]:
    """Cholesky factor of W W^T, which at a mode is the inverse of -H."""
    upper = jnp.linalg.qr(curvature.whiten.T, mode="r")
    sign = jnp.where(jnp.diagonal(upper) < 0.0, -1.0, 1.0).astype(upper.dtype)
    return (upper * sign[:, None]).T


def _curvature_is_unchanged(newton: Newton, hessian: Float[Array, "dim dim"]) -> Bool[Array, ""]:
    """Whether curvatures at the trial point differ by at most a quarter from those at the point."""
    whiten = newton.curvature.whiten
    change = whiten.T @ (hessian - newton.hessian) @ whiten
    return jnp.all(jnp.abs(change) <= _MAX_CURVATURE_CHANGE)


def _conclude_probe(newton: Newton, certified: Bool[Array, ""]) -> Newton:
    """Converge if the point is certified, after its own Newton step; else count a doubt.

    A point that is refused repeatedly either runs away, its steps growing no shorter, or has no
    curvature in the limit: its steps shrink and the curvature with them.
    """
    at = newton.at
    there = Point(at.z + newton.step, at.value + 0.5 * newton.decrement, jnp.zeros_like(at.grad))
    doubts = newton.doubts + ~certified
    running = jnp.max(jnp.abs(newton.step)) >= 0.8 * newton.last_length
    running &= newton.last_length > 0.0
    refused = jnp.where(running, Status.UNBOUNDED, Status.SINGULAR)
    refused = jnp.where(doubts >= _MAX_DOUBTS, refused, Status.RUNNING)
    return newton._replace(
        at=pytrees.where(certified, there, at),
        doubts=doubts,
        rejected=jnp.zeros((), jnp.int32),
        status=jnp.where(certified, Status.CONVERGED, refused).astype(jnp.int32),
    )


def _accept_or_reject(
    newton: Newton, point: Point, hessian: Float[Array, "dim dim"], finite: Bool[Array, ""]
) -> Newton:
    """Accept or reject the trial point by actual against predicted gain, and adapt the radius."""
    first, at = newton.steps == 1, newton.at
    actual_gain = point.value - at.value
    ratio = actual_gain / jnp.where(newton.gain > 0.0, newton.gain, 1.0)
    there = jnp.sum((newton.curvature.whiten.T @ point.grad) ** 2)
    # below rounding of the value, the gradient decides
    level = newton.gain < rounding(at.value)
    level &= (actual_gain >= -rounding(at.value)) & (there < newton.decrement)
    taken = finite & (first | (ratio >= 0.1) | level)
    length = jnp.max(jnp.abs(newton.trial - at.z))
    wider = jnp.minimum(3.0 * newton.radius, _MAX_RADIUS_SD)
    radius = jnp.where((ratio > 0.75) & taken & ~first, wider, newton.radius)
    narrower = 0.25 * jnp.minimum(newton.radius, newton.reach)
    return newton._replace(
        at=pytrees.where(taken, point, at),
        hessian=jnp.where(taken, hessian, newton.hessian),
        radius=jnp.where(taken & ((ratio >= 0.25) | level | first), radius, narrower),
        last_length=jnp.where(taken, length, 0.0),
        settled=~first & ~(taken & (there < 0.5 * newton.decrement)),
        rejected=jnp.where(taken, 0, newton.rejected + 1).astype(jnp.int32),
    )


def _propose(newton: Newton, tolerance: float) -> Newton:
    """Choose the next trial point: a Newton step within the radius, a probe, or the end."""
    curvature = measure(newton.hessian)
    ascent = curvature.whiten.T @ newton.at.grad
    decrement = ascent @ ascent
    sign = jnp.where(ascent < 0.0, -1.0, 1.0).astype(ascent.dtype)
    # along a convex direction longer steps gain more, also without a slope, on a saddle
    least = jnp.where(curvature.rising, jnp.minimum(newton.radius, 1.0), 0.0)
    cut = sign * jnp.clip(jnp.abs(ascent), least, newton.radius)
    bend = jnp.where(curvature.rising, 0.5, -0.5).astype(cut.dtype)
    small = (decrement < tolerance) | ((decrement < rounding(newton.at.value)) & newton.settled)
    stationary = small & ~curvature.rising.any()
    singular = stationary & curvature.flat.any() & newton.usable
    # after a refused certificate, an ordinary step comes first
    probing = stationary & ~singular & ~newton.probing
    beyond = jnp.where(probing, _PROBE_SD * sign / ascent.size**0.5, 0.0)
    step = curvature.whiten @ ascent
    status = jnp.where(singular, Status.SINGULAR, newton.status).astype(jnp.int32)
    return newton._replace(
        curvature=curvature,
        trial=newton.at.z + curvature.whiten @ (cut + beyond),
        step=step,
        gain=jnp.sum(cut * ascent + bend * cut * cut),
        decrement=decrement,
        reach=jnp.max(jnp.abs(cut)),
        probing=probing,
        status=jnp.where(newton.status == Status.RUNNING, status, newton.status),
    )


def rounding(value: Scalar) -> Scalar:
    """Nats by which two equal values may differ through rounding."""
    return 20.0 * jnp.finfo(value.dtype).eps * (1.0 + jnp.abs(value))
