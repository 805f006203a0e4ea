"""A fit's programs on a mesh of devices: lanes along one axis, rows of data along the other.

Lanes are dealt out by `shard_map`, in which every device has a loop of its own: mapped and left
to the compiler, each step would ask all devices whether any lane still runs. Between chunks the
host sees whole arrays; with several processes all of them see the same ones, and decide alike.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Key

from jaxvi._engine.data_sources import EvalDraws, Whole
from jaxvi._engine.lanes import lane_results, noise_keys
from jaxvi._engine.loop import Lane, block_length, run_lanes
from jaxvi._engine.placement import Seen
from jaxvi._engine.ranking import Ranking, in_calls, is_sharp, ranking_of
from jaxvi._engine.setup import Setup
from jaxvi._engine.starts import WarmStart, lanes_at_starts
from jaxvi._numerics import Keys, split_key
from jaxvi._sampling import draw_with_log_weights
from jaxvi._status import Status
from jaxvi._types import Data, Phi
from jaxvi.data import is_spread, rows_here
from jaxvi.mesh import LANES, ROWS, is_first, processes, round_up

_EVERYWHERE = PartitionSpec()


@dataclass(frozen=True)
class OnMesh:
    """Programs that run `num_lanes` lanes on the devices of `mesh`; `num_rows` 0 is all on each.

    Lanes that pad the last shard copy the last lane, never start, and are left out of results.
    """

    mesh: Mesh
    num_lanes: int
    num_rows: int

    @property
    def lanes_spec(self) -> PartitionSpec:
        """How arrays with lanes leading are dealt out to devices."""
        return PartitionSpec(LANES) if LANES in self.mesh.shape else _EVERYWHERE

    @property
    def data_spec(self) -> PartitionSpec:
        """How data are dealt out to devices: by rows, or all to each."""
        return PartitionSpec(ROWS) if self.num_rows else _EVERYWHERE

    @property
    def width(self) -> int:
        """Number of lanes with padding, a multiple of the devices."""
        return round_up(self.num_lanes, self.mesh.shape.get(LANES, 1))

    @property
    def reports(self) -> bool:
        """Whether this process reports progress: it is the one of the first device."""
        return is_first(self.mesh)

    def place_setup(self, setup: Setup) -> Setup:
        """The setup, its target summed over the devices' rows if rows are dealt out."""
        if not self.num_rows:
            return setup
        return replace(setup, target=rows_here(setup.target, ROWS, self.num_rows))

    def place_keys(self, key: Key[Array, ""]) -> Keys:
        """A key split into those of starts, noise and ranking, on all devices."""
        raw = self._put(jax.random.key_data(key), _EVERYWHERE)
        return _split(raw, impl=str(jax.random.key_impl(key)), mesh=self.mesh)

    def place_data(self, data: Data) -> Data:
        """Deal rows out to devices, padded with copies of the last; else copy all data to each."""
        extra = round_up(self.num_rows, self.mesh.shape.get(ROWS, 1)) - self.num_rows
        return jax.tree.map(lambda leaf: self._put(_lengthened(leaf, extra), self.data_spec), data)

    def start_lanes(
        self,
        keys: Keys,
        z: Float[Array, "*lanes dim"] | None,
        start_scale: Float[Array, "*each"],
        data: Data,
        warm: WarmStart | None,
        *,
        setup: Setup,
    ) -> Lane:
        """Start all lanes, each on its device."""
        numbers = np.minimum(np.arange(self.width, dtype=np.int32), self.num_lanes - 1)
        everywhere = jax.tree.map(lambda leaf: self._put(leaf, _EVERYWHERE), (z, start_scale, warm))
        given = self._put(numbers, self.lanes_spec)
        return _start(keys, given, *everywhere[:2], data, everywhere[2], setup=setup, place=self)

    def advance_lanes(
        self,
        keys: Keys,
        lanes: Lane,
        first_step: int,
        last_step: int,
        data: Data,
        *,
        setup: Setup,
        rows: int,
    ) -> tuple[Lane, Seen, Float[np.ndarray, "rows lanes"], int]:
        """Advance all lanes by a chunk; the step is that of the device which came furthest."""
        steps = np.int32(first_step), np.int32(last_step)
        lanes, *news = advance_on_mesh(
            keys, lanes, *steps, data, setup=setup, rows=rows, place=self
        )
        bounds, (status, step, reached) = self._gathered(news)
        real = slice(self.num_lanes)
        seen = Seen(status[real], step[real], bounds[-1, real])
        return lanes, seen, bounds[:-1, real], int(reached.max())

    def look(self, lanes: Lane) -> Seen:
        """Status, step and bound of every lane, without padding."""
        whole = self._gathered((lanes.status, lanes.step, lanes.bound))
        return Seen(*(leaf[: self.num_lanes] for leaf in whole))

    def results(self, lanes: Lane, setup: Setup) -> Phi:
        """The variational parameters of every lane, copied to this process's device."""
        whole = self._gathered(_results(lanes, setup=setup, place=self))
        return jax.tree.map(lambda leaf: jnp.asarray(leaf[: self.num_lanes]), whole)

    def rank(
        self,
        keys: Keys,
        phi: Phi,
        status: Int[np.ndarray, "lanes"],
        data: Data,
        *,
        setup: Setup,
        num_draws: int,
        stop_when_sharp: bool,
    ) -> Ranking:
        """Rank lanes by their bounds on fresh draws common to all, see `rank_phis`."""
        numbers = np.minimum(np.arange(self.width), self.num_lanes - 1)
        spread = jax.tree.map(
            lambda leaf: self._put(np.asarray(leaf)[numbers], self.lanes_spec), phi
        )

        def weigh(call: int, num: int) -> Any:
            weights = _weigh(
                keys.ranking, np.int32(call), spread, data, setup=setup, num=num, place=self
            )
            return self._gathered(weights)[: self.num_lanes]

        enough = partial(is_sharp, status) if stop_when_sharp else None
        weights = in_calls(weigh, self.num_lanes, setup.target.dim, num_draws, enough)
        return ranking_of(weights, status)

    def agree(self, blocks: int, stop: bool, save: bool) -> tuple[int, bool, bool]:
        """The first process decides on block counts and on saving; any process may stop.

        If each process decided by its own clock, they would wait for each other for ever.
        """
        if len(processes(self.mesh)) == 1:
            return blocks, stop, save
        seen = self._from_all_processes([blocks, stop, save])
        return int(seen[0, 0]), bool(seen[:, 1].any()), bool(seen[0, 2])

    def check_same(self, step: int) -> None:
        """Raise where processes have read checkpoints of different steps."""
        steps = self._from_all_processes([step])[:, 0]
        if len(set(steps)) > 1:
            raise ValueError(
                "checkpoint: expected a folder that all processes see alike; got checkpoints of "
                f"the steps {steps.tolist()}; try one on a file system that they share."
            )

    def all_lanes(self, lanes: Lane) -> Lane:
        """All lanes with padding, copied to this process as NumPy arrays."""
        return self._gathered(lanes)

    def place_lanes(self, lanes: Lane) -> Lane:
        """Deal lanes out to devices again: the inverse of `all_lanes`."""
        return jax.tree.map(lambda leaf: self._put(leaf, self.lanes_spec), lanes)

    def _from_all_processes(self, numbers: list[int]) -> Int[np.ndarray, "devices numbers"]:
        """These numbers from the process of every device, a row a device."""
        own = np.array([numbers], np.int32)
        one_row_each = NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names))
        shape = (self.mesh.size, len(numbers))
        return self._gathered(jax.make_array_from_callback(shape, one_row_each, lambda _: own))

    def _put(self, leaf: Any, spec: PartitionSpec) -> Array:
        """A global array on the mesh; each device takes its own part of a host array."""
        sharding = NamedSharding(self.mesh, spec)
        if is_spread(leaf):
            return jax.device_put(leaf, sharding)
        whole = np.asarray(leaf)
        whole = whole.astype(jax.dtypes.canonicalize_dtype(whole.dtype), copy=False)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    def _gathered(self, tree: Any) -> Any:
        """Copies of global arrays on every process, as NumPy arrays."""
        return jax.tree.map(np.asarray, _replicated(tree, mesh=self.mesh))


def _lengthened(leaf: Any, extra: int) -> Any:
    """The rows, padded with `extra` copies of the last one."""
    if not extra:
        return leaf
    rows = np.asarray(leaf)
    return np.concatenate([rows, np.repeat(rows[-1:], extra, axis=0)])


def _everywhere(tree: Any, mesh: Mesh) -> Any:
    return lax.with_sharding_constraint(tree, NamedSharding(mesh, _EVERYWHERE))


@partial(jax.jit, static_argnames=("mesh",))
def _replicated(tree: Any, *, mesh: Mesh) -> Any:
    return _everywhere(tree, mesh)


@partial(jax.jit, static_argnames=("impl", "mesh"))
def _split(raw: Array, *, impl: str, mesh: Mesh) -> Keys:
    return _everywhere(split_key(jax.random.wrap_key_data(raw, impl=impl)), mesh)


@partial(jax.jit, static_argnames=("setup", "place"))
def _start(
    keys: Keys,
    numbers: Int[Array, "lanes"],
    z: Float[Array, "*all dim"] | None,
    scales: Float[Array, "*each"],
    data: Data,
    warm: WarmStart | None,
    *,
    setup: Setup,
    place: OnMesh,
) -> Lane:
    def here(
        keys: Keys, numbers: Array, z: Array | None, scales: Array, data: Data, warm: Any
    ) -> Lane:
        return lanes_at_starts(setup, keys, numbers, z, scales, data, warm)

    own = place.lanes_spec
    lanes = jax.shard_map(
        here,
        mesh=place.mesh,
        in_specs=(_EVERYWHERE, own, _EVERYWHERE, _EVERYWHERE, place.data_spec, _EVERYWHERE),
        out_specs=own,
        check_vma=False,
    )(keys, numbers, z, scales, data, warm)
    real = jnp.arange(place.width) < place.num_lanes
    return lanes._replace(status=jnp.where(real, lanes.status, Status.NO_START))


@partial(jax.jit, static_argnames=("setup", "rows", "place"), donate_argnames=("lanes",))
def advance_on_mesh(
    keys: Keys,
    lanes: Lane,
    first_step: Int[Array | np.generic, ""],
    last_step: Int[Array | np.generic, ""],
    data: Data,
    *,
    setup: Setup,
    rows: int,
    place: OnMesh,
) -> tuple[Lane, Float[Array, "rows_and_one lanes"], Int[Array, "3 lanes"]]:
    """Advance all lanes by a chunk, each device in a loop of its own.

    What the host reads comes in two arrays, since each one is a message: bounds by block and the
    last ones; status, step, and the step that the lane's device has reached.
    """
    own, length = place.lanes_spec, block_length(setup)

    def here(
        keys: Keys, lanes: Lane, numbers: Array, first: Any, last: Any, data: Data
    ) -> tuple[Lane, Array, Array]:
        noise = noise_keys(keys, numbers, setup)
        lanes, bounds, reached = run_lanes(setup, noise, lanes, first, last, rows, data)
        # other devices may go on: lanes that have ended repeat their last bound meanwhile
        done = -(-(reached - first) // length)
        over = jnp.arange(rows)[:, None] >= done
        bounds = jnp.concatenate([jnp.where(over, lanes.bound[None], bounds), lanes.bound[None]])
        reached = jnp.full_like(lanes.step, reached)
        return lanes, bounds, jnp.stack([lanes.status, lanes.step, reached])

    numbers = jnp.minimum(jnp.arange(place.width, dtype=jnp.int32), place.num_lanes - 1)
    return jax.shard_map(
        here,
        mesh=place.mesh,
        in_specs=(_EVERYWHERE, own, own, _EVERYWHERE, _EVERYWHERE, place.data_spec),
        out_specs=(own, PartitionSpec(None, *own), PartitionSpec(None, *own)),
        check_vma=False,
    )(keys, lanes, numbers, first_step, last_step, data)


@partial(jax.jit, static_argnames=("setup", "place"))
def _results(lanes: Lane, *, setup: Setup, place: OnMesh) -> Phi:
    own = place.lanes_spec
    here = partial(lane_results, setup=setup)
    return jax.shard_map(here, mesh=place.mesh, in_specs=own, out_specs=own, check_vma=False)(lanes)


@partial(jax.jit, static_argnames=("setup", "num", "place"))
def _weigh(
    key: Key[Array, ""],
    call: Int[Array | np.generic, ""],
    phis: Phi,
    data: Data,
    *,
    setup: Setup,
    num: int,
    place: OnMesh,
) -> Float[Array, "lanes draws"]:
    own = place.lanes_spec

    def here(key: Array, call: Any, phis: Phi, data: Data) -> Array:
        key, target, family = jax.random.fold_in(key, call), setup.target, setup.family
        return draw_with_log_weights(
            key, phis, data, target=target, family=family, num=num, common=True
        ).log_weights

    return jax.shard_map(
        here,
        mesh=place.mesh,
        in_specs=(_EVERYWHERE, _EVERYWHERE, own, place.data_spec),
        out_specs=own,
        check_vma=False,
    )(key, call, phis, data)


class Spread(Whole):
    """Data source that gives all data at every step, dealt out to the devices of a mesh."""

    def __init__(self, place: OnMesh, setup: Setup, data: Data) -> None:
        super().__init__(place.place_setup(setup), place.place_data(data))
        self._place = place

    def rank(
        self, keys: Keys, phi: Phi, status: Int[np.ndarray, "lanes"], draws: EvalDraws
    ) -> Ranking:
        """Every lane's bound on fresh draws, computed on the mesh."""
        choices = draws._asdict()
        return self._place.rank(keys, phi, status, self.first, setup=self.setup, **choices)
