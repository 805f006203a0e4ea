"""Fits on many devices and in several processes: the answers of one device, up to rounding."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import mesh_worker as worker
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jaxvi
from jaxvi.data import checksum, rows_here
from jaxvi.mesh import check_mesh

WORKER = Path(worker.__file__)
ONE = np.array(jax.devices()[:1])


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run_workers(folder: Path, devices: int, processes: int) -> list[dict[str, np.ndarray]]:
    """What each process of the worker wrote."""
    port = free_port()
    path = os.pathsep.join([str(WORKER.parent.parent), *filter(None, sys.path)])
    parts = [[]] if processes == 1 else [[i, processes, port] for i in range(processes)]
    running = [
        subprocess.Popen(
            [sys.executable, WORKER, folder, str(devices), *map(str, part)],
            env=os.environ | {"PYTHONPATH": path},
            stderr=subprocess.PIPE,
            text=True,
        )
        for part in parts
    ]
    try:
        errors = [process.communicate(timeout=300)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    for process, error in zip(running, errors, strict=True):
        assert process.returncode == 0, error
    told = [sum(line.startswith("step ") for line in error.splitlines()) for error in errors]
    assert told[0] > 0
    assert not any(told[1:]), "only the first process tells of progress."
    return [dict(np.load(folder / f"{i}.npz")) for i in range(processes)]


def assert_same(found: dict[str, np.ndarray], name: str, expected: jaxvi.Fit) -> None:
    """Every number of a fit, up to the rounding of sums in another order."""
    for field, value in worker.numbers(expected).items():
        np.testing.assert_allclose(
            found[f"{name} {field}"], value, rtol=1e-9, atol=1e-9, err_msg=f"{name} {field}"
        )


def assert_resumed(found: dict[str, np.ndarray], name: str, whole: str) -> None:
    """What was stopped and gone on with is what was never stopped, bit for bit."""
    fields = [key.removeprefix(f"{whole} ") for key in found if key.startswith(f"{whole} ")]
    assert len(fields) > 5
    for field in fields:
        np.testing.assert_array_equal(found[f"resumed {name} {field}"], found[f"{whole} {field}"])


@pytest.mark.slow
def test_four_devices(tmp_path, x64):
    """Lanes, rows or both over 4 devices, padded: the fit of one device. Lanes don't talk."""
    (found,) = run_workers(tmp_path, devices=4, processes=1)
    one = worker.fit("own_noise", progress=False)
    for name in ("own_noise lanes", "own_noise data"):
        assert_same(found, name, one)
    assert_same(found, "curvature both", worker.fit("curvature", progress=False))
    assert_resumed(found, "lanes", "own_noise lanes")
    assert_resumed(found, "data", "own_noise data")
    assert found["talk lanes"].tolist() == []
    assert found["talk data"].tolist() == ["all-reduce"]


@pytest.mark.slow
def test_two_processes(tmp_path, x64):
    """Lanes or rows over two processes: both have the fit of one, bit for bit the same."""
    first, second = run_workers(tmp_path, devices=1, processes=2)
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    assert_same(first, "own_noise lanes", worker.fit("own_noise", progress=False))
    rows = worker.X[: worker.ROWS], worker.Y[: worker.ROWS]
    assert_same(first, "spread data", worker.fit("own_noise", data=rows, progress=False))
    assert "try dataclasses.replace(fit, data=" in str(first["refused"])
    assert_resumed(first, "lanes", "own_noise lanes")
    assert_resumed(first, "data", "spread data")
    assert "others of the same shapes" in str(first["other rows"])
    assert "which holds one of" in str(first["in use"])
    assert "checkpoints of the steps [0, 1]" in str(first["not alike"])
    # one of them had no time: both stopped after the first chunk of one block
    np.testing.assert_array_equal(first["stopped"], [1, 50, 50, 50, 50, 50])


def test_one_device_is_a_mesh(x64):
    """On a mesh of one device, whatever its axes are called and typed, nothing changes."""
    one = worker.fit("own_noise", progress=False)
    explicit = Mesh(ONE, ("lanes",), axis_types=(AxisType.Explicit,))
    for mesh in (jaxvi.make_mesh(devices=ONE), explicit):
        found = worker.numbers(worker.fit("own_noise", mesh, progress=False))
        assert_same({f"mesh {name}": value for name, value in found.items()}, "mesh", one)


def test_a_start_for_every_lane_and_a_warm_one(x64):
    """Starts, and fits to start from, reach the lanes that they are for."""
    mesh = jaxvi.make_mesh(devices=ONE)
    slopes = {"slope": np.arange(15.0).reshape(5, 3) / 10}
    for start in (slopes, {"slope": slopes["slope"][1]}, worker.fit("own_noise", progress=False)):
        options = {"start": start, "max_steps": 50, "progress": False}
        here, there = worker.fit("own_noise", **options), worker.fit("own_noise", mesh, **options)
        np.testing.assert_allclose(here.phi.loc, there.phi.loc, rtol=1e-9, atol=1e-9)


def test_a_checkpoint_wants_the_mesh_of_then(tmp_path, x64):
    """Another number of devices, or none, is refused with a sentence; the same goes on."""
    mesh = jaxvi.make_mesh(devices=ONE)
    whole = worker.fit("own_noise", mesh, progress=False)
    options = {"progress": False, "max_seconds": 1e-9}
    worker.fit("own_noise", mesh, checkpoint=tmp_path / "one", **options)
    worker.fit("own_noise", checkpoint=tmp_path / "none", **options)
    two = two_rows_mesh()
    for folder, other, words in (
        ("one", None, r"lanes=1, data=1 in 1 process\(es\); got none; try jaxvi.make_mesh"),
        ("one", two, r"lanes=1, data=1 in 1 process\(es\); got lanes=1, data=2 in 1"),
        ("none", mesh, "the checkpoint's, none; got lanes=1.*try mesh=None"),
    ):
        with pytest.raises(ValueError, match=words):
            jaxvi.resume(tmp_path / folder, worker.TARGET, mesh=other)
    with pytest.raises(TypeError, match=r"mesh: expected a jax.sharding.Mesh; got 4"):
        jaxvi.resume(tmp_path / "one", worker.TARGET, mesh=4)
    found = jaxvi.resume(tmp_path / "one", worker.TARGET, mesh=mesh, progress=False)
    for name, value in worker.numbers(whole).items():
        np.testing.assert_array_equal(worker.numbers(found)[name], value)


def test_a_checksum_sees_every_entry(x64):
    """One changed, two exchanged, of every kind of number."""
    for dtype in (np.float32, np.float64, np.int32, bool):
        plain = (np.arange(24) % 5).reshape(4, 3, 2).astype(dtype)
        seen = {tuple(np.asarray(checksum(jnp.asarray(plain))).tolist())}
        for place in range(24):
            changed = plain.copy()
            changed.flat[place] = not plain.flat[place] if dtype is bool else plain.flat[place] + 1
            seen.add(tuple(np.asarray(checksum(jnp.asarray(changed))).tolist()))
        seen.add(tuple(np.asarray(checksum(jnp.asarray(plain[::-1]))).tolist()))
        assert len(seen) == 26


@pytest.mark.parametrize("num_rows", [41, 30])
def test_gradients_of_spread_rows(num_rows, x64):
    """Value, gradient and Hessian are those of the real rows, the prior counted once."""
    here = rows_here(worker.TARGET, "data", num_rows)
    z = jnp.array([0.3, -1.2, 0.7])
    mesh = jaxvi.make_mesh(devices=ONE)

    def everything(target, data):
        hessian = jax.jacfwd(jax.grad(target.log_prob))(z, data)
        return *jax.value_and_grad(target.log_prob)(z, data), hessian

    spread = jax.shard_map(
        lambda data: everything(here, data),
        mesh=mesh,
        in_specs=(PartitionSpec("data"),),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    found = jax.jit(spread)((worker.X, worker.Y))
    whole = everything(worker.TARGET, (worker.X[:num_rows], worker.Y[:num_rows]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, whole)


@pytest.mark.slow
def test_the_autopilot_spreads_its_restarts(tmp_path):
    """The default call takes a mesh for its Gaussian restarts, and keeps them."""
    settings = {"num_restarts": 3, "effort": "quick", "polish": False, "progress": False}
    mesh = jaxvi.make_mesh(devices=ONE)
    data = (np.float32(worker.X), np.float32(worker.Y))
    settings |= {"data": data, "mesh": mesh, "checkpoint": tmp_path}
    found = jaxvi.fit(jax.random.key(0), worker.TARGET, **settings)
    again = jaxvi.resume(tmp_path, worker.TARGET, mesh=mesh, progress=False)
    np.testing.assert_array_equal(again.bounds, found.bounds)
    assert found.num_restarts == 3
    assert found.verdict == "ok", found
    bound = worker.fit("curvature", data=data, progress=False).bound
    assert abs(found.bound - bound) < 4 * found.bound_mcse


def fit_on(mesh, target=worker.TARGET, data=(worker.X, worker.Y)):
    return jaxvi.fit(
        jax.random.key(0), target, jaxvi.MeanField(), data=data, mesh=mesh, progress=False
    )


def sum_likelihood(params, data):
    return worker.log_likelihood(params, data).sum()


def a_start(key, data):
    return {"slope": jax.random.normal(key, (3,))}


def two_rows_mesh():
    """A mesh that would spread rows over two devices, made of one."""
    return Mesh(np.array([ONE[0], ONE[0]]), ("data",), axis_types=(AxisType.Auto,))


def test_bad_meshes():
    with pytest.raises(TypeError, match=r"mesh: expected a jax.sharding.Mesh; got 4"):
        fit_on(4)
    with pytest.raises(ValueError, match=r"axes named 'lanes' and 'data'.*got .'model'"):
        fit_on(jax.make_mesh((1,), ("model",), devices=ONE))
    with pytest.raises(ValueError, match=r"number of devices, 1; got 2 . 1; try"):
        jaxvi.make_mesh(2, devices=ONE)
    with pytest.raises(ValueError, match=r"data: expected a whole number"):
        jaxvi.make_mesh(data=0)
    with pytest.raises(ValueError, match=r"lanes: expected a whole number"):
        jaxvi.make_mesh(lanes=1.5)


def test_targets_and_data_that_rows_cannot_be_spread_of():
    mesh, supports = two_rows_mesh(), {"slope": jaxvi.Real((3,))}
    whole = jaxvi.Target(worker.TARGET.log_density, supports)
    with pytest.raises(ValueError, match=r"a target in two parts.*try Target"):
        fit_on(mesh, whole)
    parts = {"log_prior": worker.log_prior, "log_likelihood": worker.log_likelihood}
    started = jaxvi.Target(supports=supports, start=a_start, **parts)
    with pytest.raises(ValueError, match=r"starts that don't come from the target"):
        fit_on(mesh, started)
    summed = jaxvi.Target(supports=supports, **(parts | {"log_likelihood": sum_likelihood}))
    with pytest.raises(ValueError, match=r"rows that 2 devices can share equally.*got 41.*40 rows"):
        fit_on(mesh, summed)


def uneven(params, data):
    return worker.log_likelihood(params, (data["x"], data["y"])) / data["scale"]


def test_data_without_common_rows():
    supports = {"slope": jaxvi.Real((3,))}
    target = jaxvi.Target(supports=supports, log_prior=worker.log_prior, log_likelihood=uneven)
    data = {"x": worker.X, "y": worker.Y, "scale": 2.0}
    with pytest.raises(ValueError, match=r"one row for each observation"):
        fit_on(two_rows_mesh(), target, data)


def test_axes_become_automatic():
    """JAX makes explicit axes by default, of which a mapped fit could make nothing."""
    mesh = check_mesh(jax.make_mesh((1,), ("lanes",), devices=ONE))
    assert mesh.axis_types == (AxisType.Auto,)
    assert NamedSharding(mesh, PartitionSpec("lanes")).is_fully_addressable
