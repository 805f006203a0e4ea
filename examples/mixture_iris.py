"""Four mixtures of Fisher's irises side by side.

    python examples/mixture_iris.py [picture.png]

`jaxvi.fit` is given the log density of a mixture and knows nothing else of it: any model will do.
`jaxvi.estimators.BayesianGaussianMixture` knows the mixture's structure, has its bound in closed
form, and gives scikit-learn's answers to every digit. The two agree as far as weak priors of
different shapes and their families let them: one has a Gaussian over all parameters and sums over
assignments, the other takes assignments to be independent of parameters. Beside them scikit-learn's
`KMeans` and `GaussianMixture`. All get three components with diagonal covariances, and the same
rows.
"""

import argparse

import jax
import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.datasets import load_iris
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

import jaxvi
from jaxvi.estimators import BayesianGaussianMixture
from jaxvi.models import gaussian_mixture, mean_responsibilities

K, RESTARTS = 3, 64


def black_box(rows):
    """Labels, and draws of parameters, by a mean-field Gaussian over all of them."""
    target = gaussian_mixture(K, rows.shape[1])
    fit = jaxvi.fit(
        jax.random.key(0),
        target,
        jaxvi.MeanField(),
        solver=jaxvi.FrozenNoise(),
        data=rows,
        num_restarts=RESTARTS,
        progress=False,
    )
    draws = fit.sample(jax.random.key(1), 1_000)
    found = np.asarray(mean_responsibilities(draws, rows)).argmax(axis=0)
    return found, np.asarray(draws["weights"]), np.asarray(draws["means"])


def conjugate(rows):
    """Labels, weights and means by coordinate ascent on the exact bound."""
    mixture = BayesianGaussianMixture(
        n_components=K,
        covariance_type="diag",
        weight_concentration_prior_type="dirichlet_distribution",
        weight_concentration_prior=2.0,
        mean_precision_prior=0.05,  # weak priors, as the log density has
        covariance_prior=np.full(rows.shape[1], 0.25),
        n_init=RESTARTS,
        max_iter=5_000,
        tol=1e-8,
        random_state=0,
    )
    found = mixture.fit_predict(rows)
    sizes = ", ".join(f"{size}" for size in mixture.agreement_.sizes)
    print(f"coordinate ascent: {len(mixture.agreement_.sizes)} optima, restarts in each: {sizes}")
    return found, mixture.weights_, mixture.means_


def matched(labels, others):
    """For each component of `others` the one of `labels` that shares most rows with it."""
    shared = np.array([[np.sum((others == i) & (labels == j)) for j in range(K)] for i in range(K)])
    return linear_sum_assignment(-shared)[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", nargs="?", default="mixture_iris.png")
    path = parser.parse_args().picture
    iris = load_iris()
    rows = (iris.data - iris.data.mean(axis=0)) / iris.data.std(axis=0)
    with jax.enable_x64(True):
        labels, weights, means = black_box(rows)
    best, their_weights, their_means = conjugate(rows)
    order = matched(labels, best)
    alike = int(np.sum(np.argsort(order)[labels] == best))
    gaps = [
        np.abs((drawn.mean(axis=0)[order] - theirs) / drawn.std(axis=0)[order]).max()
        for drawn, theirs in ((weights, their_weights), (means, their_means))
    ]
    print(
        f"jaxvi.fit and the estimator: {alike} of {len(rows)} rows labelled alike; weights differ "
        f"by at most {gaps[0]:.2f} posterior standard deviations, means by {gaps[1]:.2f}"
    )
    found = {"jaxvi.fit, log density alone": labels, "BayesianGaussianMixture": best}
    gaussian = GaussianMixture(K, covariance_type="diag", n_init=10, random_state=0)
    found["GaussianMixture"] = gaussian.fit_predict(rows)
    found["KMeans"] = KMeans(K, n_init=10, random_state=0).fit_predict(rows)

    figure = Figure(figsize=(13, 3.6), layout="constrained")
    axes = figure.subplots(1, len(found), sharex=True, sharey=True)
    for ax, (name, labels) in zip(axes, found.items(), strict=True):
        species = adjusted_rand_score(iris.target, labels)
        print(f"{name:30s} adjusted Rand index with species {species:.3f}")
        order = matched(labels, best)
        for label, colour in zip(order, ("#0072B2", "#D55E00", "#009E73"), strict=True):
            for kind, marker in enumerate("os^"):
                here = (labels == label) & (iris.target == kind)
                ax.scatter(*iris.data[here][:, 2:].T, s=16, color=colour, marker=marker, alpha=0.7)
        ax.set(title=f"{name}\nadjusted Rand index {species:.2f}", xlabel="petal length (cm)")
    axes[0].set_ylabel("petal width (cm)")
    figure.suptitle("colours: components found; markers: species, which none was told", fontsize=10)
    figure.savefig(path, dpi=120)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
