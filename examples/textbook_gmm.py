"""Variational inference from its pieces: a Gaussian mixture on the iris data.

    python examples/textbook_gmm.py [picture.png]

We want the posterior p(z | X) of all parameters z of a mixture, given the rows X. Variational
inference turns that into optimisation, in four steps: choose a family of simple distributions
q(z), define a bound that says how good a q is, take the bound's gradient, iterate.
"""

import argparse

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jax.scipy.stats import norm
from matplotlib.figure import Figure
from sklearn.datasets import load_iris

import jaxvi

K, D = 3, 4  # components, measurements of a flower
DIM = 2 * K * D + K  # numbers in z

# ---- The model: log p(X, z). Every density in it is normalised, so the bound means something.


def unpack(z):
    """The vector z as means, log standard deviations and weight logits."""
    return z[: K * D].reshape(K, D), z[K * D : 2 * K * D].reshape(K, D), z[2 * K * D :]


def parts(z, X):
    """log weights, shape (K,); log N(x_n | mean_k, scale_k) of flowers and components, (N, K)."""
    means, log_scales, logits = unpack(z)
    return jax.nn.log_softmax(logits), norm.logpdf(X[:, None], means, jnp.exp(log_scales)).sum(-1)


def log_joint(z, X):
    """log p(X | z) + log p(z); which flower belongs where is summed out."""
    (means, log_scales, logits), (log_weights, log_normal) = unpack(z), parts(z, X)
    # The mixture's density is a SUM of weighted densities, so we need the log OF the sum. The sum
    # of the weighted logs is something else: see the end.
    log_likelihood = jax.nn.logsumexp(log_weights + log_normal, axis=1).sum()
    log_prior = norm.logpdf(means).sum() + norm.logpdf(logits).sum()
    return log_likelihood + log_prior + norm.logpdf(log_scales, jnp.log(0.5), 0.5).sum()


# ---- Step 1: choose a family. Here q is one independent Gaussian a coordinate. A draw is written
# as a function of q's parameters phi and of noise: then we can differentiate through it.


def transform(phi, noise):
    return phi["loc"] + jnp.exp(phi["log_scale"]) * noise


def entropy(phi):
    return jnp.sum(phi["log_scale"]) + 0.5 * DIM * jnp.log(2 * jnp.pi * jnp.e)


# ---- Step 2: define the bound. For every q,
#     log p(X) >= E_q[log p(X, z)] + entropy(q),
# and the gap is the divergence KL(q || posterior): raising the bound brings q to the posterior.
# The expectation is replaced by a mean over draws, the rows of `noise`.


def bound(phi, noise, X):
    draws = jax.vmap(transform, (None, 0))(phi, noise)
    return jax.vmap(log_joint, (0, None))(draws, X).mean() + entropy(phi)


# ---- Step 3: take its gradient. `bound` is a pure function of phi and noise, so JAX does it.

value_and_grad = jax.value_and_grad(bound)

# ---- Step 4: iterate. Draw fresh noise, step uphill; optax steps downhill, hence the minus.


def optimise(key, phi, X, optimizer, num_steps):
    def step(carry, key):
        phi, state = carry
        noise = jax.random.normal(key, (8, DIM))
        value, grad = value_and_grad(phi, noise, X)
        updates, state = optimizer.update(jax.tree.map(jnp.negative, grad), state)
        return (optax.apply_updates(phi, updates), state), value

    keys = jax.random.split(key, num_steps)
    (phi, _), values = jax.lax.scan(step, (phi, optimizer.init(phi)), keys)
    return phi, values


# ---- Step 4 again, with curvature. Frozen noise makes the bound an ordinary function, and Newton's
# method divides its gradient by its curvature: no step size to tune, and near the top each step
# squares the error. Elsewhere curvature may have the wrong sign (a saddle), so take its absolute
# value, and of several lengths of the step the one that rises most.


def newton(key, phi, X, num_steps):
    noise = jax.random.normal(key, (16, DIM))
    noise = jnp.concatenate([noise, -noise])  # mirrored: fewer draws do
    flat, unravel = ravel_pytree(phi)

    def frozen(flat):
        return bound(unravel(flat), noise, X)

    def step(flat, _):
        value, gradient = jax.value_and_grad(frozen)(flat)
        curvature, axes = jnp.linalg.eigh(jax.hessian(frozen)(flat))
        uphill = axes @ (axes.T @ gradient / jnp.maximum(jnp.abs(curvature), 1e-3))
        tries = flat + 0.5 ** jnp.arange(8.0)[:, None] * uphill
        values = jnp.nan_to_num(jax.lax.map(frozen, tries), nan=-jnp.inf)
        return jnp.where(values.max() > value, tries[values.argmax()], flat), value

    flat, values = jax.lax.scan(step, flat, None, num_steps)
    return unravel(flat), values


def start(key, X):
    """Narrow, with the means at three flowers drawn at random."""
    means = jax.random.choice(key, X, (K,), replace=False)
    loc = jnp.concatenate([means.ravel(), jnp.full(K * D, jnp.log(0.5)), jnp.zeros(K)])
    return {"loc": loc, "log_scale": jnp.full(DIM, jnp.log(0.05))}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", nargs="?", default="textbook_gmm.png")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--newton-steps", type=int, default=40)
    parser.add_argument("--restarts", type=int, default=16)
    args = parser.parse_args()
    flowers = load_iris().data
    X = jnp.asarray((flowers - flowers.mean(0)) / flowers.std(0), jnp.float32)

    # The bound is NOT convex: where you start decides where you end, so start in several places.
    # vmap runs all restarts together. Gradient descent needs tiny steps, since some directions are
    # far steeper than others; Adam scales every coordinate's step by its own gradients.
    key_start, key_steps, key_fit = jax.random.split(jax.random.key(0), 3)
    starts = jax.vmap(start, (0, None))(jax.random.split(key_start, args.restarts), X)
    results = {}
    for name, optimizer in {"gradient descent": optax.sgd(2e-4), "Adam": optax.adam(0.02)}.items():
        run = jax.jit(jax.vmap(lambda p, o=optimizer: optimise(key_steps, p, X, o, args.steps)))
        results[name] = phis, values = run(starts)
        ends = values[:, -args.steps // 10 :].mean(1)  # one value is noisy: average the last ones
        print(f"{name}, bound of each restart:", *(f"{end:.1f}" for end in sorted(ends.tolist())))
    best = jax.tree.map(lambda leaf: leaf[ends.argmax()], phis)
    run = jax.jit(jax.vmap(lambda p: newton(key_steps, p, X, args.newton_steps)))
    results["Newton"] = phis, values = run(starts)
    ends = sorted(values[:, -1].tolist())
    print("Newton on frozen noise, bound of each restart:", *(f"{end:.1f}" for end in ends))

    # What the bound is not: with the log pulled inside the sum over components the number is far
    # lower, and so is its use: each component would have to suit every flower.
    log_weights, log_normal = parts(best["loc"], X)
    log_of_sum = jax.nn.logsumexp(log_weights + log_normal, axis=1).sum()
    sum_of_logs = (jnp.exp(log_weights) * log_normal).sum()
    print(f"log of the weighted sum {log_of_sum:.1f}, weighted sum of the logs {sum_of_logs:.1f}")

    # The same in two lines. jaxvi adds stopping, step sizes, restarts and an error bar.
    target = jaxvi.Target(log_joint, jaxvi.Real((DIM,)), start=lambda key, X: start(key, X)["loc"])
    fit = jaxvi.fit(key_fit, target, jaxvi.MeanField(), data=X, num_restarts=args.restarts)
    print(fit)
    draw(args.picture, results, flowers, labels=(log_weights + log_normal).argmax(1))


def draw(path, results, flowers, labels):
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (name, (_, values)), colour in zip(results.items(), ("C1", "C0", "C3"), strict=True):
        steps = jnp.arange(1, values.shape[1] + 1)
        left.plot(steps, values.T, color=colour, alpha=0.4, linewidth=0.6)
        left.plot([], color=colour, label=name)
    top = max(float(values.max()) for _, values in results.values())
    left.set(xlabel="step", ylabel="bound (nats)", ylim=(top - 130, top + 5), xscale="log")
    left.set_title("all restarts; Newton's on frozen noise")
    left.legend(loc="lower right")
    right.scatter(flowers[:, 2], flowers[:, 3], c=labels, cmap="viridis", s=20, alpha=0.7)
    right.set(xlabel="petal length (cm)", ylabel="petal width (cm)", title="components found")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
