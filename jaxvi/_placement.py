"""Where the lanes of a fit run: on one device, or (`_on_mesh.py`) on many."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxvi._loop import Lane, Setup
from jaxvi._types import Data, Phi
from jaxvi.lanes import (
    Keys,
    Ranking,
    WarmStart,
    advance_lanes,
    rank_lanes,
    split_key,
    start_lanes,
)


class Seen(NamedTuple):
    """What the host looks at between two chunks."""

    status: Int[np.ndarray, "lanes"]
    step: Int[np.ndarray, "lanes"]
    bound: Float[np.ndarray, "lanes"]


@runtime_checkable
class Placement(Protocol):
    """The programs of a fit, and its arguments in the form that they take.

    What `place_...` gives goes to the programs and nowhere else; what `look` and `rank_lanes`
    give is whole, for the host.
    """

    @property
    def reports(self) -> bool:
        """Whether this process tells of progress."""

    def place_setup(self, setup: Setup) -> Setup:
        """The setup that the programs run."""

    def place_keys(self, key: Key[Array, ""]) -> Keys:
        """The streams of a key."""

    def place_data(self, data: Data) -> Data:
        """Data where the programs want them."""

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
        """As `lanes.start_lanes`."""

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
        """As `lanes.advance_lanes`, and what the host needs to see of the lanes."""

    def look(self, lanes: Lane) -> Seen:
        """What the host needs to see of them."""

    def rank_lanes(
        self, keys: Keys, lanes: Lane, data: Data, *, setup: Setup, num_draws: int
    ) -> tuple[Phi, Ranking]:
        """As `lanes.rank_lanes`."""

    def agree(self, blocks: int, stop: bool) -> tuple[int, bool]:
        """What all processes do next: the first one's number of blocks; stop if any wants to."""


@dataclass(frozen=True)
class OneDevice:
    """Everything where JAX puts it by itself."""

    num_lanes: int

    @property
    def reports(self) -> bool:
        """There is nobody else."""
        return True

    def place_setup(self, setup: Setup) -> Setup:
        """As it is."""
        return setup

    def place_keys(self, key: Key[Array, ""]) -> Keys:
        """The streams of a key."""
        return split_key(key)

    def place_data(self, data: Data) -> Data:
        """As arrays, so that every call sees the same types."""
        return jax.tree.map(jnp.asarray, data)

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
        """All lanes at their starts."""
        return start_lanes(keys, z, start_scale, data, warm, setup=setup, num_lanes=self.num_lanes)

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
        """A chunk of the run."""
        first, last = jnp.int32(first_step), jnp.int32(last_step)
        lanes, bounds, reached = advance_lanes(
            keys, lanes, first, last, data, setup=setup, rows=rows
        )
        return lanes, self.look(lanes), np.asarray(bounds), int(reached)

    def look(self, lanes: Lane) -> Seen:
        """What the host needs to see of them."""
        return Seen(np.asarray(lanes.status), np.asarray(lanes.step), np.asarray(lanes.bound))

    def rank_lanes(
        self, keys: Keys, lanes: Lane, data: Data, *, setup: Setup, num_draws: int
    ) -> tuple[Phi, Ranking]:
        """Parameters of all lanes, and their bounds on common draws."""
        return rank_lanes(keys, lanes, data, setup=setup, num_draws=num_draws)

    def agree(self, blocks: int, stop: bool) -> tuple[int, bool]:
        """Agreed."""
        return blocks, stop
