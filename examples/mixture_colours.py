"""Vector quantisation: a photograph in a handful of colours.

    python examples/mixture_colours.py [picture.png]

Pixels of scikit-learn's bundled photograph of a temple are rows of three colours; the mean of a
component stands for its pixels. The cost of a pixel is the entropy of its label (what an
arithmetic coder would spend), the error is the root mean square over colours. `KMeans` minimises
the error and nothing else. The mixture gives a pixel to the most probable component, which depends
on the distance in units of the component's own width and on its weight. It thus gives up rare
colours for fewer bits, and leaves components empty that the data don't ask for.
"""

import argparse
import time

import numpy as np
from matplotlib.figure import Figure
from sklearn.cluster import KMeans
from sklearn.datasets import load_sample_image

from jaxvi.estimators import BayesianGaussianMixture

COLOURS = (4, 8, 16, 32)


def quantised(pixels, labels):
    """Bits a pixel, error, and the picture in the mean colours of the labels."""
    sizes = np.bincount(labels)
    sums = np.stack([np.bincount(labels, column) for column in pixels.T], axis=1)
    used = sizes > 0
    shares = sizes[used] / len(labels)
    means = np.zeros_like(sums)
    means[used] = sums[used] / sizes[used, None]
    coarse = means[labels]
    error = np.sqrt(np.mean((coarse - pixels) ** 2))
    return -np.sum(shares * np.log2(shares)), 255.0 * error, coarse, int(used.sum())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", nargs="?", default="mixture_colours.png")
    parser.add_argument("--quick", action="store_true", help="eight colours alone")
    args = parser.parse_args()
    path = args.picture
    image = load_sample_image("china.jpg")[::2, ::2].astype(np.float64) / 255.0
    pixels = image.reshape(-1, 3)
    few = np.random.default_rng(0).choice(len(pixels), 20_000, replace=False)
    print(f"{image.shape[1]} x {image.shape[0]} pixels; fitted to {len(few):,} of them")

    points = {"KMeans": [], "BayesianGaussianMixture": []}
    shown = {"original": image}
    for count in (8,) if args.quick else COLOURS:
        models = {
            "KMeans": KMeans(count, n_init=1, random_state=0),
            "BayesianGaussianMixture": BayesianGaussianMixture(
                n_components=count,
                covariance_type="spherical",
                max_iter=300,
                tol=1.0,
                random_state=0,
            ),
        }
        for name, model in models.items():
            began = time.perf_counter()
            labels = model.fit(pixels[few]).predict(pixels)
            seconds = time.perf_counter() - began
            bits, error, coarse, used = quantised(pixels, labels)
            points[name].append((bits, error))
            print(
                f"{name:24s} {used:3d} of {count:3d} colours, {bits:.2f} bits a pixel, "
                f"error {error:5.2f} of 255, {seconds:.1f} s"
            )
            if count == 8:
                shown[f"{name}, {bits:.2f} bits a pixel"] = coarse.reshape(image.shape)

    figure = Figure(figsize=(14, 3.4), layout="constrained")
    *frames, ax = figure.subplots(1, 4)
    for frame, (name, picture) in zip(frames, shown.items(), strict=True):
        frame.imshow(np.clip(picture, 0.0, 1.0))
        frame.set_title(name, fontsize=9)
        frame.axis("off")
    for (name, curve), marker in zip(points.items(), "so", strict=True):
        ax.plot(*zip(*curve, strict=True), marker=marker, label=name)
    ax.set(xlabel="bits a pixel", ylabel="root mean square error (of 255)")
    ax.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
