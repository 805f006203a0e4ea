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

_MAX_PRODUCTS = 250  # in one step's conjugate gradients
_MAX_RADIUS = 1e12  # so that it stays finite
_MAX_RELATIVE_RESIDUAL = 0.3  # to the gradient
Product = Callable[[Float[Array, "size"]], Float[Array, "size"]]


class ConjugateGradientResult(NamedTuple):
    """Result of conjugate gradients from the origin: the step s, H s, and the residual g + H s.

    `inside`: the step reached neither the boundary nor a direction without positive curvature.
    `solved`: inside, and the residual is at most its target.
    """

    step: Float[Array, "size"]
    product: Float[Array, "size"]
    residual: Float[Array, "size"]
    inside: Bool[Array, ""]
    solved: Bool[Array, ""]
    flat: Bool[Array, ""]  # no curvature, or none that is finite, along the last direction
    num_products: Int[Array, ""]


class TrustRegionSearch(NamedTuple):
    """State of a trust-region search: the last accepted point, and the trial to evaluate next.

    `decrement` is the quadratic model's predicted gain at the trial, nats; where `solved` it is
    half the squared Newton decrement, which is scale-free, up to the residual. `finite` says
    whether loss and gradient were finite where last evaluated; those stored here always are.
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
    residual: Scalar  # norm of the model's gradient at the trial
    flat: Bool[Array, ""]
    started: Bool[Array, ""]  # loss and gradient at `phi` are known
    finite: Bool[Array, ""]
    actual_gain: Scalar  # of the last trial, nats; 0 if it was rejected
    num_products: Int[Array, ""]  # of the Hessian with a vector, so far


def start_trust_region_search(phi: Phi) -> TrustRegionSearch:
    """A search from phi, whose first trial point is phi itself."""
    flat = ravel_pytree(phi)[0]
    zero, no = jnp.zeros((), flat.dtype), jnp.zeros((), bool)
    return TrustRegionSearch(
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
        actual_gain=zero,
        num_products=jnp.zeros((), jnp.int32),
    )


def trust_region_step(
    search: TrustRegionSearch,
    loss: Callable[[Phi], Estimate],
    local_map: Callable[[Phi], Move],
    done: Bool[Array, ""],
) -> TrustRegionSearch:
    """Evaluate the trial, accept it if actual and predicted gain agree, and find the next trial.

    Cost: one gradient, and a Hessian-vector product for every iteration of conjugate gradients,
    none in a lane that is `done`.
    """

    def gradient(phi: Phi) -> tuple[Phi, Estimate]:
        def value(phi: Phi) -> tuple[Scalar, Estimate]:
            estimate = loss(phi)
            return estimate.loss, estimate

        return jax.grad(value, has_aux=True)(phi)

    grad, estimate = gradient(search.trial)
    search = _accept_or_reject(search, estimate, grad)
    move = local_map(search.phi)

    def product(flat: Float[Array, "size"]) -> Float[Array, "size"]:
        return jax.jvp(lambda at: _pull(move, at, gradient(move(at))[0]), (origin,), (flat,))[1]

    origin = jnp.zeros_like(ravel_pytree(search.phi)[0])
    local_grad = _pull(move, origin, search.grad)
    local_grad = jnp.where(done, 0.0, local_grad)
    path = solve_within(product, local_grad, search.radius, _target(local_grad))
    curvature = path.step @ path.product
    predicted_gain = -(
        local_grad @ path.step + 0.5 * jnp.where(jnp.isfinite(curvature), curvature, 0.0)
    )
    return search._replace(
        trial=move(path.step),
        decrement=predicted_gain,
        length=jnp.linalg.norm(path.step),
        inside=path.inside,
        solved=path.solved & search.started,
        residual=jnp.linalg.norm(path.residual),
        flat=path.flat,
        num_products=search.num_products + path.num_products,
    )


def is_certain(search: TrustRegionSearch, tolerance: Scalar | float) -> Bool[Array, ""]:
    """Whether the loss at the trial is within `tolerance` nats of its minimum nearby.

    Curvature in local coordinates is about 1 where the posterior's equals q's, and may be far
    larger where draws are few. So the residual must be small in absolute terms, not relative to
    the gradient; the limit suffices for curvatures down to 0.005.
    """
    small = search.residual <= 0.1 * jnp.sqrt(jnp.asarray(tolerance))
    return search.solved & (search.decrement < tolerance) & small


def _accept_or_reject(
    search: TrustRegionSearch, estimate: Estimate, grad: Phi
) -> TrustRegionSearch:
    """Accept or reject the trial by actual against predicted gain, and adapt the radius."""
    flat = ravel_pytree(grad)[0]
    finite = jnp.isfinite(estimate.loss) & jnp.isfinite(estimate.bound) & jnp.isfinite(flat).all()
    actual_gain, predicted_gain = _actual_gain(search, estimate.loss, grad), search.decrement
    good = (actual_gain > 0.1 * predicted_gain) & (predicted_gain > 0.0)
    accepted = finite & (good | ~search.started)
    wider = jnp.where(
        (actual_gain > 0.75 * predicted_gain) & ~search.inside, 2.0 * search.radius, search.radius
    )
    radius_is_kept = finite & ((actual_gain > 0.25 * predicted_gain) | ~(predicted_gain > 0.0))
    radius = jnp.where(radius_is_kept, wider, 0.25 * search.length)
    return search._replace(
        phi=pytrees.where(accepted, search.trial, search.phi),
        grad=pytrees.where(accepted, grad, search.grad),
        loss=jnp.where(accepted, estimate.loss, search.loss),
        bound=jnp.where(accepted, estimate.bound, search.bound),
        radius=jnp.where(search.started, jnp.minimum(radius, _MAX_RADIUS), search.radius),
        started=search.started | accepted,
        finite=finite,
        actual_gain=jnp.where(accepted & search.started, actual_gain, 0.0),
    )


def _actual_gain(search: TrustRegionSearch, value: Scalar, grad: Phi) -> Scalar:
    """Decrease of the loss; by the mean of both slopes if the values differ mostly by rounding."""
    rounding = 1e3 * jnp.finfo(value.dtype).eps * (1.0 + jnp.abs(search.loss))
    way = ravel_pytree(search.trial)[0] - ravel_pytree(search.phi)[0]
    slopes = way @ (ravel_pytree(search.grad)[0] + ravel_pytree(grad)[0])
    return jnp.where(search.decrement < rounding, -0.5 * slopes, search.loss - value)


def _pull(move: Move, at: Float[Array, "size"], grad: Phi) -> Float[Array, "size"]:
    """A gradient in phi, pulled back to local coordinates."""
    return jax.vjp(move, at)[1](grad)[0]


def _target(grad: Float[Array, "size"]) -> Scalar:
    """Target norm of a step's residual; it decreases faster than the gradient."""
    norm = jnp.linalg.norm(grad)
    return norm * jnp.clip(norm, jnp.finfo(grad.dtype).eps ** 0.5, _MAX_RELATIVE_RESIDUAL)


def solve_within(
    product: Product,
    grad: Float[Array, "size"],
    radius: Scalar | float,
    target: Scalar,
    most: int = _MAX_PRODUCTS,
) -> ConjugateGradientResult:
    """Conjugate gradients for H s = -g, stopped at the ball's boundary or at negative curvature.

    They end when the residual's norm is at most `target`, or after `most` products, or twice as
    many as there are unknowns.
    """
    zeros, no = jnp.zeros_like(grad), jnp.zeros((), bool)
    solved = jnp.linalg.norm(grad) <= target
    first = ConjugateGradientResult(zeros, zeros, grad, ~no, solved, no, jnp.zeros((), jnp.int32))

    def going(carry: tuple[ConjugateGradientResult, Array]) -> Array:
        path = carry[0]
        left = jnp.linalg.norm(path.residual) > target
        return left & path.inside & (path.num_products < min(most, 2 * grad.size + 10))

    def extend(
        carry: tuple[ConjugateGradientResult, Array],
    ) -> tuple[ConjugateGradientResult, Array]:
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
        extended = ConjugateGradientResult(
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
    """Length along a direction from a step inside the ball to its boundary."""
    a, b = direction @ direction, step @ direction
    c = jnp.minimum(step @ step - radius * radius, 0.0)
    root = jnp.sqrt(jnp.maximum(b * b - a * c, 0.0))
    # the form without cancellation for either sign of b
    safe = jnp.where(b > 0.0, b + root, 1.0)
    return jnp.where(b > 0.0, -c / safe, (root - b) / jnp.where(a > 0.0, a, 1.0))
