"""Fits on one device and on meshes, in processes of their own: run by tests/mesh/test_mesh.py.

`python mesh_worker.py FOLDER DEVICES [PROCESS PROCESSES PORT]` writes what came out to
FOLDER/PROCESS.npz, one entry for each number, named by mesh and field.
"""

import os
import re
import sys
from functools import partial
from pathlib import Path

FOLDER, DEVICES, *OTHERS = sys.argv[1:] if __name__ == "__main__" else ("", 1)
PROCESS, PROCESSES, PORT = map(int, OTHERS) if OTHERS else (0, 1, 0)
if __name__ == "__main__":
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={DEVICES}"

import jax  # noqa: E402

if __name__ == "__main__":
    if PROCESSES > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{PORT}", PROCESSES, PROCESS)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", True)  # compiles in half the time

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

import jaxvi  # noqa: E402
from jaxvi._engine import OnMesh, advance_on_mesh, make_setup  # noqa: E402


def log_prior(params):
    """Normal of standard deviation 2."""
    return -jnp.sum(params["slope"] ** 2) / 8


def log_likelihood(params, data):
    """Of a logistic regression, a value a row."""
    x, y = data
    logit = x @ params["slope"]
    return y * logit - jnp.logaddexp(0.0, logit)


RNG = np.random.default_rng(5)
X = RNG.normal(size=(41, 3)) + 0.5
Y = (RNG.random(41) < 1 / (1 + np.exp(-X @ [1.0, -2.0, 0.5]))).astype(float)
TARGET = jaxvi.Target(
    supports={"slope": jaxvi.Real((3,))}, log_prior=log_prior, log_likelihood=log_likelihood
)
SOLVER = jaxvi.Stochastic(optax.adam, learning_rate=0.05)
# 41 rows and 5 restarts divide by neither 2 nor 4: both are padded
CALLS = {
    "own_noise": {
        "family": jaxvi.MeanField(),
        "solver": SOLVER,
        "noise": jaxvi.Fresh(shared=False),
        "max_steps": 300,
    },
    "curvature": {"solver": jaxvi.NaturalGradient()},
}


ROWS = 40  # of the fit on arrays that are spread over processes, which aren't padded


def fit(call, mesh=None, **options):
    """A small fit."""
    settings = {"data": (X, Y), "num_restarts": 5, "progress": True, **CALLS[call], **options}
    return jaxvi.fit(jax.random.key(3), TARGET, mesh=mesh, **settings)


def numbers(found):
    """Everything that a fit says, by name."""
    leaves = {f"phi{i}": leaf for i, leaf in enumerate(jax.tree.leaves(found.phi))}
    names = ("status", "steps", "bounds", "bounds_mcse", "difference_mcse", "best", "log_weights")
    fields = {name: getattr(found, name) for name in names}
    history = {"history_step": found.history.step, "history_bound": found.history.bound}
    draws = {"draws": found.sample(jax.random.key(1), 5)["slope"]}
    return {name: np.asarray(value) for name, value in (leaves | fields | history | draws).items()}


def collectives(mesh, num_rows):
    """Words for talk between devices in the compiled program that steps."""
    setup = make_setup(TARGET, jaxvi.MeanField(), None, SOLVER, None)
    place = OnMesh(mesh, 5, num_rows)
    engine, keys = place.place_setup(setup), place.place_keys(jax.random.key(0))
    data = place.place_data((X, Y))
    lanes = place.start_lanes(keys, None, jnp.ones(()), data, None, setup=engine)
    steps = np.int32(0), np.int32(100)
    lowered = advance_on_mesh.lower(keys, lanes, *steps, data, setup=engine, rows=64, place=place)
    jax.config.update("jax_disable_most_optimizations", False)
    text = lowered.compile().as_text()
    jax.config.update("jax_disable_most_optimizations", True)
    assert "while" in text
    return np.array(sorted(set(re.findall(TALK, text))))


TALK = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter|collective-broadcast"


def spread(array):
    """The first rows, of which this process says its own."""
    mesh = jaxvi.make_mesh(data=jax.device_count())
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    each = ROWS // PROCESSES
    own = array[PROCESS * each : (PROCESS + 1) * each]
    return jax.make_array_from_process_local_data(sharding, own)


def stopped_and_resumed(name, mesh, **options):
    """A fit that is stopped after its first chunk, and gone on with."""
    folder = Path(FOLDER) / name
    cut = fit("own_noise", mesh, checkpoint=folder, max_seconds=1e-9, **options)
    assert cut.interrupted
    assert set(cut.steps) == {50}
    return jaxvi.resume(folder, TARGET, mesh=mesh, **options)


def refused(act):
    """What is said against it."""
    try:
        act()
    except ValueError as error:
        return np.array(str(error))
    raise AssertionError("nothing was said against it.")


def main():
    """Fits of several meshes."""
    devices = jax.device_count()
    by_lanes, by_rows = jaxvi.make_mesh(), jaxvi.make_mesh(data=devices)
    found, other = {"own_noise lanes": fit("own_noise", by_lanes)}, {}
    if PROCESSES == 1:
        found["own_noise data"] = fit("own_noise", by_rows)
        found["resumed data"] = stopped_and_resumed("rows", by_rows)
        found["curvature both"] = fit("curvature", jaxvi.make_mesh(data=2))
        other["talk lanes"] = collectives(by_lanes, 0)
        other["talk data"] = collectives(by_rows, len(X))
    else:
        rows = spread(X), spread(Y)
        found["spread data"] = fit("own_noise", by_rows, data=rows)
        other["refused"] = refused(lambda: found["spread data"].verdict)
        found["resumed data"] = stopped_and_resumed("rows", by_rows, data=rows)
        again = partial(jaxvi.resume, Path(FOLDER) / "rows", TARGET, mesh=by_rows)
        other["other rows"] = refused(lambda: again(data=(spread(X[::-1]), rows[1])))
        other["in use"] = refused(
            lambda: fit("own_noise", by_rows, checkpoint=Path(FOLDER) / "rows")
        )
        other["not alike"] = refused(lambda: OnMesh(by_lanes, 5, 0).check_same(PROCESS))
    found["resumed lanes"] = stopped_and_resumed("lanes", by_lanes)
    # the last process alone is out of time: all stop, after the same chunk
    hurry = 1e-9 if PROCESS == PROCESSES - 1 else 1e9
    long = {"max_seconds": hurry, "max_steps": 100_000, "solver": SOLVER}
    stopped = fit("own_noise", by_lanes, **long)
    other["stopped"] = np.array([stopped.interrupted, *stopped.steps])
    for call, one in found.items():
        other |= {f"{call} {name}": value for name, value in numbers(one).items()}
    np.savez(Path(FOLDER) / f"{PROCESS}.npz", **other)


if __name__ == "__main__":
    main()
