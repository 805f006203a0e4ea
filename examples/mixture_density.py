"""Density estimation: how likely are measurements that the model has not seen?

    python examples/mixture_density.py [picture.png]

Wine (178 bottles, 13 chemical measurements) and breast cancer (569 biopsies, 10 of the means), of
scikit-learn's bundled sets. Mean log density of held-out rows, by five-fold cross-validation, of
mixtures with more and more components: maximum likelihood begins to fit its own sample, the
Bayesian mixture leaves components empty that the data don't ask for.
"""

import argparse

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import KFold
from sklearn.neighbors import KernelDensity
from sklearn.preprocessing import StandardScaler

from jaxvi.estimators import BayesianGaussianMixture

COMPONENTS = (1, 2, 4, 6, 8, 12)


def bayesian(count):
    return BayesianGaussianMixture(
        n_components=count, n_init=5, max_iter=500, tol=1e-2, random_state=0
    )


def likelihood(count):
    return GaussianMixture(count, n_init=5, max_iter=500, random_state=0)


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
    path = parser.parse_args().picture
    sets = {"wine": load_wine().data, "breast cancer": load_breast_cancer().data[:, :10]}

    figure = Figure(figsize=(10, 4), layout="constrained")
    for ax, (name, rows) in zip(figure.subplots(1, 2), sets.items(), strict=True):
        curves = {
            "BayesianGaussianMixture (jaxvi)": [
                held_out(lambda count=count: bayesian(count), rows) for count in COMPONENTS
            ],
            "GaussianMixture (scikit-learn)": [
                held_out(lambda count=count: likelihood(count), rows) for count in COMPONENTS
            ],
        }
        kernel = max(
            held_out(lambda width=width: KernelDensity(bandwidth=width), rows)
            for width in (0.3, 0.5, 0.7, 1.0)
        )
        print(f"{name}, {len(rows)} rows: kernel density {kernel:.2f} nats a row at its best")
        for (title, curve), marker in zip(curves.items(), "os", strict=True):
            print(f"  {title}: " + ", ".join(f"{value:.2f}" for value in curve))
            ax.plot(COMPONENTS, curve, marker=marker, label=title)
        ax.axhline(kernel, color="grey", linestyle="--", label="kernel density, best width")
        top = max(max(curve) for curve in curves.values())
        ax.set(title=name, xlabel="components", ylabel="held-out log density (nats a row)")
        ax.set_ylim(max(top - 12.0, min(min(curve) for curve in curves.values()) - 0.5), top + 1.0)
        ax.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
