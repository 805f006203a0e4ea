"""One fit over many hosts: lanes along one axis of a mesh, rows of data along the other.

    python examples/many_hosts.py [--data 1] [--restarts 64] [--rows 20000]

As it stands this runs in one process, on all devices that it has. The same file runs in many
processes, each started with the same arguments; docs/scaling.md has the whole files.

SLURM, where JAX finds the others by itself:

    srun --nodes=4 --ntasks-per-node=1 --gpus-per-task=8 python many_hosts.py --data 8

Kubernetes, an Indexed Job of 4 pods behind a headless service, with in each pod's environment

    COORDINATOR=many-hosts-0.many-hosts:8476  PROCESSES=4  JOB_COMPLETION_INDEX=(set by the Job)
"""

import argparse
import os

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import jaxvi

DIM = 10


def join():
    """Join the other processes. It comes before any other call of JAX."""
    if "COORDINATOR" in os.environ:
        jax.distributed.initialize(
            os.environ["COORDINATOR"],
            int(os.environ["PROCESSES"]),
            int(os.environ["JOB_COMPLETION_INDEX"]),
        )
    elif int(os.environ.get("SLURM_NTASKS", 1)) > 1:
        jax.distributed.initialize()


def log_prior(params):
    """Independent normals of standard deviation 2.5."""
    return -0.5 * jnp.sum((params["slopes"] / 2.5) ** 2)


def log_likelihood(params, data):
    """Log likelihood of a logistic regression, one value a row."""
    x, y = data
    logit = x @ params["slopes"]
    return y * logit - jnp.logaddexp(0.0, logit)


TARGET = jaxvi.Target(
    supports={"slopes": jaxvi.Real((DIM,))}, log_prior=log_prior, log_likelihood=log_likelihood
)


def rows_from(start, stop):
    """Rows of the data; a stand-in for reading them from where they are kept."""
    blocks, size = [], 1_000
    for block in range(start // size, -(-stop // size)):
        rng = np.random.default_rng(block)
        x = rng.normal(size=(size, DIM)).astype(np.float32)
        chance = 1.0 / (1.0 + np.exp(-x @ np.linspace(-1.0, 1.0, DIM)))
        y = (rng.random(size) < chance).astype(np.float32)
        part = slice(max(start - block * size, 0), stop - block * size)
        blocks.append((x[part], y[part]))
    return tuple(np.concatenate(part) for part in zip(*blocks, strict=True))


def spread(mesh, num_rows):
    """The rows as global arrays. Each process reads only the rows that its devices need."""
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    kept = {}

    def part(index, which):
        start, stop, _ = index[0].indices(num_rows)
        if (start, stop) not in kept:
            kept[start, stop] = rows_from(start, stop)
        return kept[start, stop][which]

    shapes = ((num_rows, DIM), (num_rows,))
    return tuple(
        jax.make_array_from_callback(shape, sharding, lambda index, which=which: part(index, which))
        for which, shape in enumerate(shapes)
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=int, default=1, help="devices that share the rows")
    parser.add_argument("--restarts", type=int, default=64)
    parser.add_argument("--rows", type=int, default=20_000)
    args = parser.parse_args()
    join()
    mesh = jaxvi.make_mesh(data=args.data)
    num_rows = args.rows // args.data * args.data  # global arrays aren't padded
    fit = jaxvi.fit(
        jax.random.key(0),
        TARGET,
        solver=jaxvi.NaturalGradient(),
        data=spread(mesh, num_rows),
        num_restarts=args.restarts,
        mesh=mesh,
    )
    if jax.process_index() == 0:
        print(f"{jax.process_count()} processes, {jax.device_count()} devices, {dict(mesh.shape)}")
        print(f"bound {fit.bound:.2f} +- {fit.bound_mcse:.2f}")
        agree = int(fit.agreement.sizes[0])
        print(f"{agree} of {fit.num_restarts} restarts at the best optimum")
        slopes = fit.sample(jax.random.key(1), 4_000)["slopes"].mean(axis=0)
        print("means", " ".join(f"{slope:.2f}" for slope in slopes))


if __name__ == "__main__":
    main()
