"""The pure pieces by themselves: loops of the user's own, of public names, against `jaxvi.run`.

Equal programs on one machine round equally, so that most of these compare bit for bit. Where XLA
may add in another order, the comparison is in float64: a rounding of 1e-16 in a step grows by at
most a few powers of ten over a run of a thousand steps that contracts, and 1e-9 is far above it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import jaxvi
from jaxvi import Status, engine

KEY = jax.random.key(7)
FAMILY = jaxvi.FullRank()
ADAM = jaxvi.Stochastic(optax.adam, learning_rate=0.05, tolerance=None)
Y = jnp.float32([1.0, 2.0, 3.0])


def density(z, y):
    """Off-centre, off-scale and not Gaussian."""
    return -0.5 * jnp.sum((z - y) ** 2 / jnp.array([1.0, 2.0, 0.5], y.dtype)) + jnp.sin(z).sum()


def holey(z, y):
    """The same, not finite on a slab that few draws hit: some blocks fail and are undone."""
    return jnp.where(abs(z[0] - y[0]) < 0.002, jnp.nan, density(z, y))


TARGET = jaxvi.Target(density, jaxvi.Real(3))
HOLEY = jaxvi.Target(holey, jaxvi.Real(3))


def same(one, other):
    """Every leaf, every bit."""
    jax.tree.map(np.testing.assert_array_equal, one, other)


def close(one, other):
    """To rounding in float64, as above."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), one, other)


def init_step_review(setup, key, y, num_blocks, lane=0):
    """Phi and status by a solver's own functions, in a loop that the package has no part in."""
    solver, problem = setup.solver, setup.problem(y)
    stream = engine.noise_key(key, setup, lane=lane)
    phi = solver.result(engine.begin_lane(key, setup, y, lane=lane).state)

    def block(carry, _):
        state, status, step = carry
        noise = engine.block_noise(stream, setup, step, setup.target.dtype(y))
        after, _ = lax.scan(lambda s, row: solver.step(s, row, problem), state, noise)
        step = step + len(noise)
        reviewed = solver.review(after, engine.block_trace(setup, noise, step, y))
        running = status == Status.RUNNING
        kept = jax.tree.map(lambda new, old: jnp.where(running, new, old), reviewed, carry[:2])
        return (*kept, step), None

    first = solver.init(phi, problem), jnp.int32(Status.RUNNING), jnp.int32(0)
    (state, status, _), _ = lax.scan(block, first, length=num_blocks)
    return solver.result(state), status


def by_run_block(setup, key, y, num_blocks, **options):
    """The lane after so many blocks."""
    stream = engine.noise_key(key, setup, lane=options.get("lane", 0))

    def block(lane, _):
        noise = engine.block_noise(stream, setup, lane.step, setup.target.dtype(y))
        lane = engine.run_block(setup, lane, noise, y)
        return lane, None

    return lax.scan(block, engine.begin_lane(key, setup, y, **options), length=num_blocks)[0]


@pytest.mark.parametrize(
    "solver", [ADAM, jaxvi.NaturalGradient(), jaxvi.FrozenNoise("lbfgs")], ids=repr
)
def test_a_loop_of_init_step_and_review_is_a_run(solver):
    """The same phi, bit for bit, from the same key; lanes that converge stop where the run does."""
    setup = engine.make_setup(TARGET, FAMILY, solver=solver)
    setup.check()
    num_blocks = 600 // solver.block_steps
    phi, status = jax.jit(lambda: init_step_review(setup, KEY, Y, num_blocks))()
    run = jax.jit(
        lambda: jaxvi.run(
            KEY, TARGET, FAMILY, solver=solver, data=Y, max_steps=num_blocks * solver.block_steps
        )
    )()
    same(phi, run.phi)
    expected = Status.RUNNING if run.status == Status.STEP_LIMIT else run.status
    assert status == expected
    assert (solver is ADAM) == (expected == Status.RUNNING)


@pytest.mark.parametrize(
    "options",
    [{}, {"lane": 3, "start_scale": 2.0}, {"start": jnp.float32([0.5, 0.0, 1.0])}],
    ids=["drawn", "lane 3", "given"],
)
def test_blocks_that_fail_are_undone_as_in_a_run(options):
    """Lanes with noise of their own, on a density with a hole."""
    noise = jaxvi.Fresh(shared=False)
    setup = engine.make_setup(HOLEY, FAMILY, solver=ADAM, noise=noise)
    lane = jax.jit(lambda: by_run_block(setup, KEY, Y, 12, **options))()
    assert lane.state.penalty > 0.0 or options  # a block has failed
    run = jaxvi.run(KEY, HOLEY, FAMILY, solver=ADAM, noise=noise, data=Y, max_steps=600, **options)
    same(ADAM.result(lane.state), run.phi)
    assert lane.step == run.step
    # a mean of 50 terms, which the two programs may add in other orders
    np.testing.assert_allclose(lane.bound, run.bound, rtol=50 * np.finfo(np.float32).eps)


def test_a_loop_may_be_mapped_over_restarts(x64):
    """Lane i of the mapped loop is `jaxvi.run(..., lane=i)` and lane i of `jaxvi.fit`."""
    y = jnp.asarray(Y, jnp.float64)
    setup = engine.make_setup(TARGET, FAMILY, solver=ADAM)
    loop = jax.vmap(lambda lane: init_step_review(setup, KEY, y, 12, lane=lane)[0])
    phi = jax.jit(loop)(jnp.arange(3))
    solo = jaxvi.run(KEY, TARGET, FAMILY, solver=ADAM, data=y, max_steps=600, lane=2)
    close(jax.tree.map(lambda leaf: leaf[2], phi), solo.phi)
    fit = jaxvi.fit(
        KEY, TARGET, FAMILY, solver=ADAM, data=y, max_steps=600, num_restarts=3, progress=False
    )
    close(phi, fit.phi)


def test_a_loop_of_value_and_grad_and_optax_is_a_run(x64):
    """Without averages `Stochastic` is its optimiser, and blocks make no difference."""
    y = jnp.asarray(Y, jnp.float64)
    elbo, source, adam = jaxvi.ELBO(num_draws=4), jaxvi.Antithetic(), optax.adam(0.05)
    solver = jaxvi.Stochastic(optax.adam, learning_rate=0.05, average=False, tolerance=None)
    setup = engine.make_setup(TARGET, FAMILY, elbo, solver, source)

    def own(lane):
        key = engine.noise_key(KEY, setup, lane=lane)

        def step(carry, t):
            phi, opt = carry
            noise = source.draw(key, t, FAMILY, elbo.num_draws, TARGET.dim, y.dtype)
            loss, grad = jax.value_and_grad(lambda p: elbo(p, noise, FAMILY, TARGET, y).loss)(phi)
            updates, opt = adam.update(grad, opt, phi)
            return (optax.apply_updates(phi, updates), opt), loss

        phi = solver.result(engine.begin_lane(KEY, setup, y, lane=lane).state)
        return lax.scan(step, (phi, adam.init(phi)), jnp.arange(300))[0][0]

    lanes = jnp.arange(2)
    run = jax.vmap(
        lambda lane: jaxvi.run(
            KEY,
            TARGET,
            FAMILY,
            objective=elbo,
            solver=solver,
            noise=source,
            data=y,
            max_steps=300,
            lane=lane,
        )
    )
    close(jax.jit(jax.vmap(own))(lanes), jax.jit(run)(lanes).phi)


def test_the_bound_is_a_function_of_phi_noise_and_data():
    """Of N(y; z, 1) on mirrored draws, its gradients in y and in the mean are exact."""
    target = jaxvi.Target(lambda z, y: -0.5 * jnp.sum((y - z) ** 2), jaxvi.Real(3))
    family, elbo = jaxvi.MeanField(), jaxvi.ELBO(num_draws=6)
    phi = family.init(KEY, 3)
    noise = jaxvi.Antithetic().draw(KEY, 0, family, 6, 3, target.dtype(Y))

    def bound(phi, noise, y):
        return elbo(phi, noise, family, target, y).bound

    by_phi, by_y = jax.grad(bound, argnums=(0, 2))(phi, noise, Y)
    few_roundings = 20 * np.finfo(np.float32).eps * 4.0  # terms are of size 4
    np.testing.assert_allclose(by_y, phi.loc - Y, atol=few_roundings)
    np.testing.assert_allclose(by_phi.loc, Y - phi.loc, atol=few_roundings)


def test_runs_mapped_over_data_sets_are_separate_runs(x64):
    """Each data set's own phi, status and number of steps, under one jit and one vmap."""
    many = jnp.float64([[1.0, 2.0, 3.0], [-4.0, 0.0, 9.0]])
    solver = jaxvi.NaturalGradient()

    def one(y):
        return jaxvi.run(KEY, TARGET, FAMILY, solver=solver, data=y)

    together = jax.jit(jax.vmap(one))(many)
    for i, y in enumerate(many):
        alone = one(y)
        close(jax.tree.map(lambda leaf, i=i: leaf[i], together.phi), alone.phi)
        assert together.status[i] == alone.status == Status.CONVERGED
        assert together.step[i] == alone.step


def test_a_start_may_be_a_constant_of_a_traced_program():
    """`jit` stages what is computed from constants too: the start's check must not look there."""
    start = jnp.float32([0.5, 0.0, 1.0])
    run = jax.jit(lambda: jaxvi.run(KEY, TARGET, FAMILY, data=Y, start=start, max_steps=0))()
    same(run.phi.loc, start)
