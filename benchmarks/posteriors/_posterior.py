"""One posterior: its target, its data and its reference, read from the data folder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import jaxvi
from benchmarks.posteriors._score import Reference, Score, Summary, score

DATA = Path(__file__).parent / "data"
Raw = Mapping[str, np.ndarray]


def as_it_is(params: Any) -> Any:
    """The report of a target whose own parameters are those of the reference."""
    return params


@dataclass(frozen=True)
class Entry:
    """How one posterior is written: its target, what its density reads, what is reported.

    `prepare` makes the data of the log density from the arrays of the file, in float64, whatever
    can be had once for all (a QR decomposition, sufficient statistics). `report` gives the
    reference's parameters from one target's parameters' pytree, in as many numbers.
    """

    target: jaxvi.Target
    prepare: Callable[[Raw], dict[str, Any]]
    report: Callable[[Any], Any] = as_it_is
    group: str = "small"


@dataclass(frozen=True, eq=False)
class Posterior:
    """A target with its data and what is known about its marginals."""

    name: str
    target: jaxvi.Target
    data: Any
    reference: Reference
    report: Callable[[Any], Any] = field(repr=False)

    def flatten(self, params: Any, scale: str | None = None) -> Float[Array, "draws coords"]:
        """Draws of the target's parameters, draws leading, as the reference's coordinates.

        On the constrained scale these are the entries of `report(params)`, names sorted, row by
        row; on the unconstrained one, the target's z. By default `reference.scale`.
        """
        summary = self.reference.on(scale)
        params = jax.tree.map(jnp.asarray, params)
        if summary is self.reference.unconstrained:
            return jax.vmap(self.target.unconstrain)(params)
        leaves = jax.tree.leaves(jax.vmap(self.report)(params))
        return jnp.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in leaves], axis=1)

    def score(self, params: Any, scale: str | None = None) -> Score:
        """`score` of draws of the target's parameters, such as those of `fit.sample`."""
        return score(self.flatten(params, scale), self.reference.on(scale))


def read(name: str) -> dict[str, np.ndarray]:
    """All arrays of one file of the data folder."""
    with np.load(DATA / f"{name}.npz") as arrays:
        return {key: arrays[key] for key in arrays.files}


def read_reference(name: str) -> Reference:
    """The reference of one posterior, both scales."""
    arrays = read(f"{name}.reference")
    # Coordinates that both scales share are stored once: -1 marks those with a column of their own.
    shared = arrays["shared"]
    quantiles = arrays["constrained_quantiles"].astype(np.float64)
    own = np.empty((quantiles.shape[0], shared.size))
    own[:, shared >= 0] = quantiles[:, shared[shared >= 0]]
    own[:, shared < 0] = arrays["unconstrained_quantiles"]
    both = [
        Summary(
            tuple(arrays[f"{scale}_names"].tolist()),
            arrays[f"{scale}_mean"],
            arrays[f"{scale}_sd"],
            values,
            arrays[f"{scale}_sd_judged"],
        )
        for scale, values in (("constrained", quantiles), ("unconstrained", own))
    ]
    return Reference(
        both[0],
        both[1],
        str(arrays["scale"]),
        int(arrays["num_draws"]),
        int(arrays["num_quantile_draws"]),
        float(arrays["ess_bulk"]),
        float(arrays["ess_tail"]),
    )
