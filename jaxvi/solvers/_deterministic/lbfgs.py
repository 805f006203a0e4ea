"""L-BFGS for maximising a log density, one evaluation at a time.

A search is a state: the caller evaluates at `trial_point(search)` and passes the value and gradient
to `absorb`, which continues the line search. So a solver's step is one evaluation, and lanes that
are mapped together do not wait for the one with the longest line search. `climb` is the loop to the
next accepted point.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxvi._numerics import pytrees
from jaxvi._types import Scalar

_ARMIJO = 1e-4  # smallest ratio of the actual gain to that predicted by the slope
_WOLFE = 0.9  # largest ratio of the slope at the end to that at the beginning
# largest slope downhill at the end, as a share of the first, if values differ by rounding only
_MAX_DOWNHILL_SLOPE = 0.8
_MAX_EVALUATIONS = 25  # in a line search
_UNBOUNDED_LENGTH = 1e30  # upper end of a line search that has none yet; finite, as states must be


class Pairs(NamedTuple):
    """The last steps s, and changes y of the gradient of -log p, newest last; zeros where empty.

    A pair is kept only where s.y > 0. `diagonal` is the diagonal inverse Hessian of -log p after
    Gilbert and Lemaréchal (1989), which Pathfinder starts its covariances from.
    """

    steps: Float[Array, "memory dim"]
    changes: Float[Array, "memory dim"]
    products: Float[Array, "memory"]  # s.y; 0 where empty
    diagonal: Float[Array, "dim"]


class Point(NamedTuple):
    """A point z with log p and its gradient there."""

    z: Float[Array, "dim"]
    value: Scalar
    grad: Float[Array, "dim"]


class Lbfgs(NamedTuple):
    """State of an L-BFGS search: the last accepted point and the current line search.

    `accepted` says that the last evaluation completed a step to a new point. `failures` counts
    line searches in a row that ended where they began (the pairs are then dropped). `overflowed`
    and `not_finite` are about the evaluations since the last accepted point.
    """

    at: Point
    pairs: Pairs
    direction: Float[Array, "dim"]
    length: Scalar  # of the step to the trial point, in units of the direction
    low: Scalar  # a length at which log p has risen enough, 0 at first
    high: Scalar  # a length at which it has not
    at_low: Point  # the point at `low`
    tries: Int[Array, ""]  # evaluations in this line search
    failures: Int[Array, ""]
    accepted: Bool[Array, ""]
    overflowed: Bool[Array, ""]  # log p was +inf
    not_finite: Bool[Array, ""]  # log p or its gradient was not finite


def start_search(
    z: Float[Array, "dim"], value: Scalar, grad: Float[Array, "dim"], memory: int
) -> Lbfgs:
    """A search that starts at z, where log p and its gradient are known and finite."""
    empty = jnp.zeros((memory, z.size), z.dtype)
    pairs = Pairs(empty, empty, jnp.zeros(memory, z.dtype), jnp.ones_like(z))
    zero, count, no = jnp.zeros((), z.dtype), jnp.zeros((), jnp.int32), jnp.zeros((), bool)
    at = Point(z, value, grad)
    return Lbfgs(
        at=at,
        pairs=pairs,
        direction=_steepest(grad),
        length=zero + 1.0,
        low=zero,
        high=zero + _UNBOUNDED_LENGTH,
        at_low=at,
        tries=count,
        failures=count,
        accepted=no,
        overflowed=no,
        not_finite=no,
    )


def trial_point(search: Lbfgs) -> Float[Array, "dim"]:
    """The point at which the log density is to be evaluated next."""
    return search.at.z + search.length * search.direction


def absorb(search: Lbfgs, value: Scalar, grad: Float[Array, "dim"]) -> Lbfgs:
    """Continue the search with log p and its gradient at `trial_point(search)`, finite or not.

    The line search bisects to the weak Wolfe conditions (Lewis and Overton 2013), and needs little
    smoothness; a value that is not finite counts as too low. Where values differ by rounding only,
    slopes decide (Hager and Zhang 2005).
    """
    at, length = search.at, search.length
    finite = jnp.isfinite(value) & jnp.isfinite(grad).all()
    trial = pytrees.where(finite, Point(trial_point(search), value, grad), at)
    first, slope = search.direction @ at.grad, search.direction @ trial.grad
    slack = 10.0 * jnp.finfo(value.dtype).eps * jnp.abs(at.value)
    level = (trial.value >= at.value - slack) & (slope >= -_MAX_DOWNHILL_SLOPE * first)
    still = jnp.all(trial_point(search) == at.z)  # the step is lost in rounding
    rises = finite & ~still & ((trial.value >= at.value + _ARMIJO * length * first) | level)
    done = rises & (slope <= _WOLFE * first)
    low = jnp.where(rises, length, search.low)
    high = jnp.where(rises | still, search.high, length)
    tries = search.tries + 1
    searching = search._replace(
        length=_next_length(search, trial.value, first, low, high, finite),
        low=low,
        high=high,
        at_low=pytrees.where(rises, trial, search.at_low),
        tries=tries,
        accepted=jnp.zeros((), bool),
        overflowed=search.overflowed | (value == jnp.inf),
        not_finite=search.not_finite | ~finite,
    )
    return pytrees.where(done | (tries >= _MAX_EVALUATIONS), _turn(searching), searching)


def climb(
    search: Lbfgs,
    value_and_gradient: Callable[[Float[Array, "dim"]], tuple[Scalar, Float[Array, "dim"]]],
) -> Lbfgs:
    """Run one line search: to the next accepted point, or to one more failure.

    The density has one call site, and is evaluated at most 25 times.
    """

    def evaluate(search: Lbfgs) -> Lbfgs:
        return absorb(search, *value_and_gradient(trial_point(search)))

    begun = search._replace(tries=jnp.zeros((), jnp.int32), accepted=jnp.zeros((), bool))
    return lax.while_loop(
        lambda now: ~now.accepted & (now.failures == search.failures), evaluate, begun
    )


def inverse_product(pairs: Pairs, vector: Float[Array, "dim"]) -> Float[Array, "dim"]:
    """The pairs' estimate of the inverse Hessian of -log p, times a vector (Nocedal 1980)."""
    used = pairs.products > 0.0
    rho = jnp.where(used, 1.0 / jnp.where(used, pairs.products, 1.0), 0.0)
    rows = (pairs.steps, pairs.changes, rho)

    def backward(v: Array, row: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        step, change, inverse = row
        weight = inverse * (step @ v)
        return v - weight * change, weight

    def forward(v: Array, row: tuple[tuple[Array, Array, Array], Array]) -> tuple[Array, None]:
        (step, change, inverse), weight = row
        return v + (weight - inverse * (change @ v)) * step, None

    inner, weights = lax.scan(backward, vector, rows, reverse=True)
    newest = pairs.changes[-1] @ pairs.changes[-1]
    scale = jnp.where(used[-1], pairs.products[-1] / jnp.where(used[-1], newest, 1.0), 1.0)
    return lax.scan(forward, scale * inner, (rows, weights))[0]


def add_pair(pairs: Pairs, step: Float[Array, "dim"], change: Float[Array, "dim"]) -> Pairs:
    """The pairs with one more, unless log p is not concave along the step."""
    product = step @ change
    square = change @ change
    curved = product > jnp.finfo(step.dtype).eps * jnp.maximum(square, 0.0)
    curved &= jnp.isfinite(square) & (product > jnp.finfo(step.dtype).tiny)
    product = jnp.where(curved, product, 1.0)
    longer = Pairs(
        jnp.concatenate([pairs.steps[1:], step[None]]),
        jnp.concatenate([pairs.changes[1:], change[None]]),
        jnp.concatenate([pairs.products[1:], product[None]]),
        _next_diagonal(pairs.diagonal, step, change, product),
    )
    return pytrees.where(curved, longer, pairs)


def _next_diagonal(
    diagonal: Float[Array, "dim"],
    step: Float[Array, "dim"],
    change: Float[Array, "dim"],
    product: Scalar,
) -> Float[Array, "dim"]:
    """Gilbert and Lemaréchal's update of the diagonal; the old one if rounding spoils it."""
    weighted = change @ (diagonal * change)
    inverse = step @ (step / diagonal)
    curvature = (
        weighted / (product * diagonal)
        + change * change / product
        - weighted * (step / diagonal) ** 2 / (product * inverse)
    )
    new = 1.0 / curvature
    return jnp.where(jnp.all(jnp.isfinite(new) & (new > 0.0)), new, diagonal)


def _steepest(grad: Float[Array, "dim"], farther: Scalar | float = 0.0) -> Float[Array, "dim"]:
    """The gradient shortened to at most unit length, or lengthened to `farther`."""
    largest = jnp.abs(grad).max()
    unit = grad / jnp.where(largest > 0.0, largest, 1.0)  # so that its square cannot overflow
    unit = unit / jnp.maximum(jnp.linalg.norm(unit), 1.0)
    return unit * jnp.maximum(jnp.minimum(largest, 1.0), farther)


def _next_length(
    search: Lbfgs, value: Scalar, first: Scalar, low: Scalar, high: Scalar, finite: Bool[Array, ""]
) -> Scalar:
    """Next length to try: double while none is too long, else between, by a parabola if any."""
    length, width = search.length, high - low
    drop = search.at.value + first * length - value  # of log p below its tangent
    parabola = 0.5 * first * length * length / jnp.where(drop > 0.0, drop, 1.0)
    usable = (search.low == 0.0) & (low == 0.0) & (drop > 0.0) & finite
    inside = jnp.clip(parabola, 0.1 * width, 0.5 * width)
    middle = low + jnp.where(usable, inside, jnp.where(finite, 0.5, 0.2) * width)
    return jnp.where(high >= _UNBOUNDED_LENGTH, 2.0 * length, middle)


def _turn(search: Lbfgs) -> Lbfgs:
    """End a line search: accept its best point, add a pair, choose a new direction."""
    at, at_low = search.at, search.at_low
    moved = search.low > 0.0
    step = at_low.z - at.z
    pairs = add_pair(search.pairs, step, at.grad - at_low.grad)
    # still rising after all doublings: no curvature is known, and the next step starts as long
    endless = moved & (search.high >= _UNBOUNDED_LENGTH) & (search.tries >= _MAX_EVALUATIONS)
    empty = pairs._replace(
        steps=jnp.zeros_like(pairs.steps),
        changes=jnp.zeros_like(pairs.changes),
        products=jnp.zeros_like(pairs.products),
    )
    pairs = pytrees.where(moved & ~endless, pairs, empty)
    guess = inverse_product(pairs, at_low.grad)
    slope = guess @ at_low.grad
    steepest = _steepest(at_low.grad, jnp.where(endless, jnp.linalg.norm(step), 0.0))
    usable = (pairs.products[-1] > 0.0) & jnp.isfinite(guess).all() & (slope > 0.0)
    zero = jnp.zeros_like(search.length)
    return search._replace(
        at=at_low,
        pairs=pairs,
        direction=jnp.where(usable, guess, steepest),
        length=zero + 1.0,
        low=zero,
        high=zero + _UNBOUNDED_LENGTH,
        tries=jnp.zeros((), jnp.int32),
        failures=jnp.where(moved, 0, search.failures + 1).astype(jnp.int32),
        accepted=moved,
        overflowed=search.overflowed & ~moved,
        not_finite=search.not_finite & ~moved,
    )
