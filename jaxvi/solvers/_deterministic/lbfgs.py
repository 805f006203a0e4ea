"""L-BFGS that climbs a log density, one evaluation at a time.

A search is a state that asks and is told: evaluate at `trial_point(search)`, hand the value and
gradient to `absorb`, and the line search goes on from there. A step of a solver is then one
evaluation, whatever the lane is at: lanes that are mapped together never wait for the one with
the longest line search. `climb` is the loop to the next accepted point, where that is wanted.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxvi._numerics import pytrees
from jaxvi._types import Scalar

_RISE = 1e-4  # Armijo: share of the slope's promise that a step must keep
_LEVEL = 0.9  # Wolfe: share of the first slope that may be left
_NOT_OVER = 0.8  # share of the first slope, downhill, where values differ by rounding only
_TRIES = 25  # evaluations a line search
_NO_BOUND = 1e30  # upper end of a line search that has none yet; finite, as states are


class Pairs(NamedTuple):
    """The last steps s and changes y of the gradient of -log p, newest last; zeros where empty.

    A pair is kept only where s.y > 0. `diagonal` is the diagonal inverse Hessian of -log p after
    Gilbert and Lemaréchal (1989), which Pathfinder starts its covariances from.
    """

    steps: Float[Array, "memory dim"]
    changes: Float[Array, "memory dim"]
    products: Float[Array, "memory"]  # s.y; 0 where empty
    diagonal: Float[Array, "dim"]


class Point(NamedTuple):
    """A point, and log p and its gradient there."""

    z: Float[Array, "dim"]
    value: Scalar
    grad: Float[Array, "dim"]


class Lbfgs(NamedTuple):
    """A search: the last accepted point, and where its line search is.

    `accepted` says that the last evaluation completed a step to a new point, `failures` how many
    line searches in a row ended where they began (the pairs are then forgotten). `overflowed` and
    `walled` speak of the evaluations since the last accepted point.
    """

    at: Point
    pairs: Pairs
    direction: Float[Array, "dim"]
    length: Scalar  # of the step to the trial point, in units of the direction
    low: Scalar  # a length that rises enough, 0 at first
    high: Scalar  # a length that does not
    held: Point  # at `low`
    tries: Int[Array, ""]  # evaluations in this line search
    failures: Int[Array, ""]
    accepted: Bool[Array, ""]
    overflowed: Bool[Array, ""]  # log p was +inf
    walled: Bool[Array, ""]  # log p or its gradient was not finite


def start_search(
    z: Float[Array, "dim"], value: Scalar, grad: Float[Array, "dim"], memory: int
) -> Lbfgs:
    """A search at z, where log p and its gradient are known and finite."""
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
        high=zero + _NO_BOUND,
        held=at,
        tries=count,
        failures=count,
        accepted=no,
        overflowed=no,
        walled=no,
    )


def trial_point(search: Lbfgs) -> Float[Array, "dim"]:
    """Where the density is wanted next."""
    return search.at.z + search.length * search.direction


def absorb(search: Lbfgs, value: Scalar, grad: Float[Array, "dim"]) -> Lbfgs:
    """The search after log p and its gradient at `trial_point(search)`, finite or not.

    Bisection to the weak Wolfe conditions (Lewis and Overton 2013), which asks for no more
    smoothness than a density has; a value that isn't finite counts as too low. Where values
    differ by rounding only, slopes decide (Hager and Zhang 2005).
    """
    at, length = search.at, search.length
    finite = jnp.isfinite(value) & jnp.isfinite(grad).all()
    trial = pytrees.where(finite, Point(trial_point(search), value, grad), at)
    first, slope = search.direction @ at.grad, search.direction @ trial.grad
    slack = 10.0 * jnp.finfo(value.dtype).eps * jnp.abs(at.value)
    level = (trial.value >= at.value - slack) & (slope >= -_NOT_OVER * first)
    still = jnp.all(trial_point(search) == at.z)  # a step so short that rounding swallows it
    rises = finite & ~still & ((trial.value >= at.value + _RISE * length * first) | level)
    done = rises & (slope <= _LEVEL * first)
    low = jnp.where(rises, length, search.low)
    high = jnp.where(rises | still, search.high, length)
    tries = search.tries + 1
    searching = search._replace(
        length=_next_length(search, trial.value, first, low, high, finite),
        low=low,
        high=high,
        held=pytrees.where(rises, trial, search.held),
        tries=tries,
        accepted=jnp.zeros((), bool),
        overflowed=search.overflowed | (value == jnp.inf),
        walled=search.walled | ~finite,
    )
    return pytrees.where(done | (tries >= _TRIES), _turn(searching), searching)


def climb(
    search: Lbfgs,
    value_and_gradient: Callable[[Float[Array, "dim"]], tuple[Scalar, Float[Array, "dim"]]],
) -> Lbfgs:
    """One line search: to the next accepted point, or to one more failure.

    One call site of the density, evaluated at most 25 times.
    """

    def evaluate(search: Lbfgs) -> Lbfgs:
        return absorb(search, *value_and_gradient(trial_point(search)))

    begun = search._replace(tries=jnp.zeros((), jnp.int32), accepted=jnp.zeros((), bool))
    return lax.while_loop(
        lambda now: ~now.accepted & (now.failures == search.failures), evaluate, begun
    )


def inverse_product(pairs: Pairs, vector: Float[Array, "dim"]) -> Float[Array, "dim"]:
    """The inverse Hessian of -log p that the pairs stand for, times a vector (Nocedal 1980)."""
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
    """The pairs with one more, unless log p doesn't curve downwards along the step."""
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
    """Gilbert and Lemaréchal's update; the old diagonal where rounding spoils it."""
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
    """Along the gradient, at most a unit far, or as far as is asked for."""
    largest = jnp.abs(grad).max()
    unit = grad / jnp.where(largest > 0.0, largest, 1.0)  # whose square can't overflow
    unit = unit / jnp.maximum(jnp.linalg.norm(unit), 1.0)
    return unit * jnp.maximum(jnp.minimum(largest, 1.0), farther)


def _next_length(
    search: Lbfgs, value: Scalar, first: Scalar, low: Scalar, high: Scalar, finite: Bool[Array, ""]
) -> Scalar:
    """Twice as far while nothing is too far; else between, by a parabola where there is one."""
    length, width = search.length, high - low
    drop = search.at.value + first * length - value  # of log p below its tangent
    parabola = 0.5 * first * length * length / jnp.where(drop > 0.0, drop, 1.0)
    usable = (search.low == 0.0) & (low == 0.0) & (drop > 0.0) & finite
    inside = jnp.clip(parabola, 0.1 * width, 0.5 * width)
    middle = low + jnp.where(usable, inside, jnp.where(finite, 0.5, 0.2) * width)
    return jnp.where(high >= _NO_BOUND, 2.0 * length, middle)


def _turn(search: Lbfgs) -> Lbfgs:
    """The end of a line search: its best point, one more pair, a new direction."""
    at, held = search.at, search.held
    moved = search.low > 0.0
    step = held.z - at.z
    pairs = add_pair(search.pairs, step, at.grad - held.grad)
    # still rising after so many doublings: no curvature to go by, and next time as far at once
    endless = moved & (search.high >= _NO_BOUND) & (search.tries >= _TRIES)
    empty = pairs._replace(
        steps=jnp.zeros_like(pairs.steps),
        changes=jnp.zeros_like(pairs.changes),
        products=jnp.zeros_like(pairs.products),
    )
    pairs = pytrees.where(moved & ~endless, pairs, empty)
    guess = inverse_product(pairs, held.grad)
    slope = guess @ held.grad
    steepest = _steepest(held.grad, jnp.where(endless, jnp.linalg.norm(step), 0.0))
    usable = (pairs.products[-1] > 0.0) & jnp.isfinite(guess).all() & (slope > 0.0)
    zero = jnp.zeros_like(search.length)
    return search._replace(
        at=held,
        pairs=pairs,
        direction=jnp.where(usable, guess, steepest),
        length=zero + 1.0,
        low=zero,
        high=zero + _NO_BOUND,
        tries=jnp.zeros((), jnp.int32),
        failures=jnp.where(moved, 0, search.failures + 1).astype(jnp.int32),
        accepted=moved,
        overflowed=search.overflowed & ~moved,
        walled=search.walled & ~moved,
    )
