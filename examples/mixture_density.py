"""Density estimation: how likely are measurements that the model has not seen?

    python examples/mixture_density.py [picture.png]

The data are two of scikit-learn's bundled sets: handwritten digits (1,797, their first ten
principal components) and breast cancer (569 biopsies, ten mean measurements). Mixtures with more
and more components are scored by the mean log density of held-out rows, by five-fold
cross-validation. With few components, both are much alike. With too many, maximum likelihood fits
its own sample: rows that it has not seen get less and less. The Bayesian mixture's prior holds it
back.
"""

import argparse

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import KFold
from sklearn.neighbors import KernelDensity
from sklearn.preprocessing import StandardScaler

from jaxvi.estimators import BayesianGaussianMixture


def bayesian(count):
    return BayesianGaussianMixture(
        n_components=count, n_init=2, max_iter=500, tol=1e-2, random_state=0
    )


def likelihood(count):
    return GaussianMixture(count, n_init=2, max_iter=500, random_state=0)


def held_out(make, rows):
    """Mean log density of rows, each by a model that has not seen it."""
    scores = []
    for train, test in KFold(5, shuffle=True, random_state=0).split(rows):
        scaler = StandardScaler().fit(rows[train])
        model = make().fit(scaler.transform(rows[train]))
        scores.append(model.score_samples(scaler.transform(rows[test])))
    return float(np.concatenate(scores).mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", nargs="?", default="mixture_density.png")
    parser.add_argument("--quick", action="store_true", help="the fewest components and the most")
    args = parser.parse_args()
    path = args.picture
    digits = PCA(10, random_state=0).fit_transform(load_digits().data)
    sets = {
        "digits": (digits, (1, 5, 10, 20, 40, 80)),
        "breast cancer": (load_breast_cancer().data[:, :10], (1, 2, 4, 8, 16, 32)),
    }

    figure = Figure(figsize=(10, 4), layout="constrained")
    for ax, (name, (rows, counts)) in zip(figure.subplots(1, 2), sets.items(), strict=True):
        counts = counts[1::4] if args.quick else counts
        curves = {
            "BayesianGaussianMixture (jaxvi)": [
                held_out(lambda count=count: bayesian(count), rows) for count in counts
            ],
            "GaussianMixture (scikit-learn)": [
                held_out(lambda count=count: likelihood(count), rows) for count in counts
            ],
        }
        kernel = max(
            held_out(lambda width=width: KernelDensity(bandwidth=width), rows)
            for width in (0.2, 0.3, 0.4, 0.5, 0.7)
        )
        print(f"{name}, {len(rows)} rows: kernel density {kernel:.2f} nats a row at its best")
        for (title, curve), marker in zip(curves.items(), "os", strict=True):
            print(f"  {title}: " + ", ".join(f"{value:.2f}" for value in curve))
            ax.plot(counts, curve, marker=marker, label=title)
        ax.axhline(kernel, color="grey", linestyle="--", label="kernel density, best width")
        top = max(max(curve) for curve in curves.values())
        ax.set(title=name, xlabel="components", ylabel="held-out log density (nats a row)")
        ax.set_ylim(max(top - 12.0, min(min(curve) for curve in curves.values()) - 0.5), top + 1.0)
        ax.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
