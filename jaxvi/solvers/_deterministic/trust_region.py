"""Newton's method in a trust region, for a deterministic loss of phi (Steihaug 1983).

Hessian-vector products are forward over reverse; the Hessian itself is never formed.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from jaxvi._numerics import pytrees
from jaxvi._types import Phi, Scalar
from jaxvi.objectives import Estimate
from jaxvi.solvers._deterministic.local_coordinates import Move

_MOST_PRODUCTS = 250  # of a step's conjugate gradients
_WIDEST = 1e12  # radius, so that it stays finite
_FORCING = 0.3  # of the gradient, is the residual allowed at most
Product = Callable[[Float[Array, "size"]], Float[Array, "size"]]


class Path(NamedTuple):
    """Where conjugate gradients from the origin ended: the step s, H s, g + H s.

    `inside`: they met neither the boundary nor a direction without curvature.
    `solved`: inside, and the residual is as small as was asked for.
    """

    step: Float[Array, "size"]
    product: Float[Array, "size"]
    residual: Float[Array, "size"]
    inside: Bool[Array, ""]
    solved: Bool[Array, ""]
    flat: Bool[Array, ""]  # no curvature, or none that is finite, along the last direction
    num_products: Int[Array, ""]


class Newton(NamedTuple):
    """A search: the last accepted point, and the trial point that is to be evaluated next.

    `decrement` is what the quadratic model promises of the trial, nats; where `solved`, half the
    squared Newton decrement, which is scale-free, but for the residual. `finite` says that loss
    and gradient were so where last evaluated; what is kept here always is.
    """

    phi: Phi
    grad: Phi
    loss: Scalar
    bound: Scalar
    trial: Phi
    decrement: Scalar
    length: Scalar  # of the step to the trial, in local coordinates
    radius: Scalar
    inside: Bool[Array, ""]
    solved: Bool[Array, ""]
    residual: Scalar  # norm of what the trial leaves of the gradient, by the model
    flat: Bool[Array, ""]
    started: Bool[Array, ""]  # loss and gradient at `phi` are known
    finite: Bool[Array, ""]
    gain: Scalar  # of the last evaluation, nats; 0 where the trial was rejected
    num_products: Int[Array, ""]  # so far


def start_newton(phi: Phi) -> Newton:
    """A search at phi, where nothing is known yet: the first trial is phi itself."""
    flat = ravel_pytree(phi)[0]
    zero, no = jnp.zeros((), flat.dtype), jnp.zeros((), bool)
    return Newton(
        phi=phi,
        grad=jax.tree.map(jnp.zeros_like, phi),
        loss=zero,
        bound=zero,
        trial=phi,
        decrement=zero,
        length=zero,
        radius=zero + flat.size**0.5,
        inside=no,
        solved=no,
        residual=zero,
        flat=no,
        started=no,
        finite=~no,
        gain=zero,
        num_products=jnp.zeros((), jnp.int32),
    )


def newton_step(
    search: Newton,
    loss: Callable[[Phi], Estimate],
    local_map: Callable[[Phi], Move],
    done: Bool[Array, ""],
) -> Newton:
    """Evaluate the trial, accept it where the loss fell as promised, and find the next one.

    One gradient, and a Hessian-vector product for every iteration of conjugate gradients; none
    in a lane that is `done`.
    """

    def gradient(phi: Phi) -> tuple[Phi, Estimate]:
        def value(phi: Phi) -> tuple[Scalar, Estimate]:
            estimate = loss(phi)
            return estimate.loss, estimate

        return jax.grad(value, has_aux=True)(phi)

    grad, estimate = gradient(search.trial)
    search = judge(search, estimate, grad)
    move = local_map(search.phi)

    def product(flat: Float[Array, "size"]) -> Float[Array, "size"]:
        return jax.jvp(lambda at: _pull(move, at, gradient(move(at))[0]), (origin,), (flat,))[1]

    origin = jnp.zeros_like(ravel_pytree(search.phi)[0])
    local_grad = _pull(move, origin, search.grad)
    local_grad = jnp.where(done, 0.0, local_grad)
    path = solve_within(product, local_grad, search.radius, _target(local_grad))
    curvature = path.step @ path.product
    promise = -(local_grad @ path.step + 0.5 * jnp.where(jnp.isfinite(curvature), curvature, 0.0))
    return search._replace(
        trial=move(path.step),
        decrement=promise,
        length=jnp.linalg.norm(path.step),
        inside=path.inside,
        solved=path.solved & search.started,
        residual=jnp.linalg.norm(path.residual),
        flat=path.flat,
        num_products=search.num_products + path.num_products,
    )


def is_certain(search: Newton, tolerance: Scalar | float) -> Bool[Array, ""]:
    """Whether the loss at the trial is within `tolerance` nats of its minimum nearby.

    Curvature in local coordinates is about 1 where the posterior's is as q's, and may be far
    larger where draws are few: a residual is negligible only if it is small in itself, and not
    beside the gradient. For curvatures down to 0.005 it is.
    """
    small = search.residual <= 0.1 * jnp.sqrt(jnp.asarray(tolerance))
    return search.solved & (search.decrement < tolerance) & small


def judge(search: Newton, estimate: Estimate, grad: Phi) -> Newton:
    """Accept or reject the trial, and widen or narrow the region."""
    flat = ravel_pytree(grad)[0]
    finite = jnp.isfinite(estimate.loss) & jnp.isfinite(estimate.bound) & jnp.isfinite(flat).all()
    gain, promise = _gain(search, estimate.loss, grad), search.decrement
    good = (gain > 0.1 * promise) & (promise > 0.0)
    accepted = finite & (good | ~search.started)
    wider = jnp.where((gain > 0.75 * promise) & ~search.inside, 2.0 * search.radius, search.radius)
    kept = finite & ((gain > 0.25 * promise) | ~(promise > 0.0))
    radius = jnp.where(kept, wider, 0.25 * search.length)
    return search._replace(
        phi=pytrees.where(accepted, search.trial, search.phi),
        grad=pytrees.where(accepted, grad, search.grad),
        loss=jnp.where(accepted, estimate.loss, search.loss),
        bound=jnp.where(accepted, estimate.bound, search.bound),
        radius=jnp.where(search.started, jnp.minimum(radius, _WIDEST), search.radius),
        started=search.started | accepted,
        finite=finite,
        gain=jnp.where(accepted & search.started, gain, 0.0),
    )


def _gain(search: Newton, value: Scalar, grad: Phi) -> Scalar:
    """Fall of the loss; by the mean of both slopes where values differ by little but rounding."""
    rounding = 1e3 * jnp.finfo(value.dtype).eps * (1.0 + jnp.abs(search.loss))
    way = ravel_pytree(search.trial)[0] - ravel_pytree(search.phi)[0]
    slopes = way @ (ravel_pytree(search.grad)[0] + ravel_pytree(grad)[0])
    return jnp.where(search.decrement < rounding, -0.5 * slopes, search.loss - value)


def _pull(move: Move, at: Float[Array, "size"], grad: Phi) -> Float[Array, "size"]:
    """A gradient by phi as one by local coordinates."""
    return jax.vjp(move, at)[1](grad)[0]


def _target(grad: Float[Array, "size"]) -> Scalar:
    """Residual that a step is solved to; it falls faster than the gradient, as do the steps."""
    norm = jnp.linalg.norm(grad)
    return norm * jnp.clip(norm, jnp.finfo(grad.dtype).eps ** 0.5, _FORCING)


def solve_within(
    product: Product,
    grad: Float[Array, "size"],
    radius: Scalar | float,
    target: Scalar,
    most: int = _MOST_PRODUCTS,
) -> Path:
    """Conjugate gradients on H s = -g that stop at the ball's boundary or at bad curvature.

    They are done where the residual's norm is at most `target`, and give up after `most`
    products, or twice as many as there are unknowns.
    """
    zeros, no = jnp.zeros_like(grad), jnp.zeros((), bool)
    solved = jnp.linalg.norm(grad) <= target
    first = Path(zeros, zeros, grad, ~no, solved, no, jnp.zeros((), jnp.int32))

    def going(carry: tuple[Path, Array]) -> Array:
        path = carry[0]
        left = jnp.linalg.norm(path.residual) > target
        return left & path.inside & (path.num_products < min(most, 2 * grad.size + 10))

    def extend(carry: tuple[Path, Array]) -> tuple[Path, Array]:
        path, direction = carry
        along = product(direction)
        curvature = direction @ along
        curved = jnp.isfinite(along).all() & (curvature > 0.0)
        square = path.residual @ path.residual
        length = square / jnp.where(curved, curvature, 1.0)
        inside = curved & (jnp.linalg.norm(path.step + length * direction) < radius)
        length = jnp.where(inside, length, _to_boundary(path.step, direction, radius))
        residual = path.residual + length * along
        turn = (residual @ residual) / square
        extended = Path(
            step=path.step + length * direction,
            product=path.product + length * along,
            residual=residual,
            inside=inside,
            solved=inside & (jnp.linalg.norm(residual) <= target),
            flat=~curved,
            num_products=path.num_products + 1,
        )
        return extended, turn * direction - residual

    return lax.while_loop(going, extend, (first, -grad))[0]


def _to_boundary(
    step: Float[Array, "size"], direction: Float[Array, "size"], radius: Scalar | float
) -> Scalar:
    """How far along the direction the ball ends."""
    a, b = direction @ direction, step @ direction
    c = jnp.minimum(step @ step - radius * radius, 0.0)
    root = jnp.sqrt(jnp.maximum(b * b - a * c, 0.0))
    # the form without cancellation for either sign of b
    safe = jnp.where(b > 0.0, b + root, 1.0)
    return jnp.where(b > 0.0, -c / safe, (root - b) / jnp.where(a > 0.0, a, 1.0))
