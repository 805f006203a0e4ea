"""The folder of a run's checkpoints: its files, when they are written, how they are found again.

`run.npz` identifies the run. It is the last of the first files to be written, so that a folder
without it holds no checkpoint. `data.npz` has the data, and `lanes-000.npz` the state of the first
batch of restarts, as it was between two chunks; later stages of the default call have files of
their own. A later call that makes the same fits continues each from its file.
"""

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from jaxvi._engine import Snapshot
from jaxvi._persistence import npz_files, pytree_json
from jaxvi._persistence.fingerprints import fingerprint
from jaxvi._persistence.stream_digest import identify
from jaxvi._types import Data
from jaxvi.data import Stream, checksum, is_spread

RUN, DATA = "run.npz", "data.npz"
_MAX_WRITING_SHARE = 0.02  # of the wall time
_MAX_DATA_BYTES = 2**28  # larger data is not copied to the folder


@dataclass(eq=False)
class Checkpoints:
    """The folder of one run's checkpoints, with a file for each batch of restarts.

    Batches are numbered in the order in which they begin. `describe` gives the header of the run;
    it is called once, when all arguments have been checked. Where `run` is the name of a run, the
    folder holds its checkpoints and the run is resumed.
    """

    folder: Path
    seconds: float
    describe: Callable[[], dict[str, Any]]
    data: Data = None
    run: str | None = None
    writes: bool = True  # false in all but one of several processes
    _batches: int = 0
    _opened: bool = False
    _begun: bool = False  # whether the run's own files have been written
    _warned: bool = False
    _due: float = field(default_factory=time.perf_counter)
    _header: dict[str, Any] = field(default_factory=dict)

    def next_lane_file(self) -> "LaneFile":
        """The file of the next batch of lanes."""
        self._batches += 1
        return LaneFile(self, self._batches - 1)

    @property
    def resumed(self) -> bool:
        """Whether the folder already held this run, so that it is continued."""
        return not self._header

    def open(self) -> None:
        """Create the folder and check that it holds no other run; does so once."""
        if self._opened:
            return
        self._opened, self._begun = True, self.run is not None
        if self.run is None:
            self._header = self.describe()
            self.run = run_name(self._header)
            if self.writes:
                self._claim()
            if (self.folder / RUN).exists():
                self._refuse()
        if self.writes:
            npz_files.sweep(self.folder)
        self._due = time.perf_counter() + self.seconds

    def _claim(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            npz_files.write(self.folder / "claim", b"")
            (self.folder / "claim").unlink()
        except OSError as error:
            raise ValueError(
                f"checkpoint: expected a folder that can be written to; got {str(self.folder)!r} "
                f"({error}); try another place."
            ) from error

    def _refuse(self) -> None:
        try:
            found, _ = npz_files.unpack(self.folder / RUN)
        except npz_files.DamagedFile:
            found = {}
        if run_name(found) == self.run:
            raise ValueError(
                f"checkpoint: expected a folder without a checkpoint; got {str(self.folder)!r}, "
                "which holds one of this very run; try jaxvi.resume(folder, target) to go on with "
                "it, or another folder."
            )
        raise ValueError(
            f"checkpoint: expected a folder without a checkpoint; got {str(self.folder)!r}, which "
            "holds one of another run; try another folder."
        )

    def is_due(self) -> bool:
        """Whether the next file is due: at once for the first, later after `seconds`."""
        first = not (self._begun or self._warned)
        return first or time.perf_counter() >= self._due

    def write(self, name: str, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> bool:
        """Write a file, preceded by the data and followed by the header of the run if missing.

        Returns whether it succeeded: an error such as a full disk is warned of once and does not
        stop the fit. The next file is due so much later that writing takes at most 2 % of the time.
        """
        if not self.writes:
            return True
        began = time.perf_counter()
        try:
            if not self._begun:
                self._write_data()  # first the data, then the lanes, last the run's header
            npz_files.write(self.folder / name, npz_files.pack(header, arrays))
            if not self._begun:
                npz_files.write(self.folder / RUN, npz_files.pack(self._header, {}))
                self._begun = True
            return True
        except (OSError, MemoryError) as error:
            self._warn(error)
            return False
        finally:
            ended = time.perf_counter()
            self._due = ended + max(
                self.seconds, (ended - began) * (1.0 / _MAX_WRITING_SHARE - 1.0)
            )

    def _write_data(self) -> None:
        if self._header["data"]["structure"] is not None:
            leaves = jax.tree.leaves(self.data)
            arrays = {f"leaf{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
            npz_files.write(self.folder / DATA, npz_files.pack({"run": self.run}, arrays))

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"The checkpoint in {str(self.folder)!r} could not be written ({error}). The fit "
                "goes on, and writing is tried again; until it works, a resumed run starts from "
                "what was last written.",
                RuntimeWarning,
                stacklevel=2,
            )


@dataclass(eq=False)
class LaneFile:
    """The file of one batch of lanes, and the identity by which a resumed run finds it."""

    checkpoints: Checkpoints
    number: int
    _identity: str = ""
    _written: tuple[int | None, int | float] | None = None  # pool width and step in the file

    @property
    def path(self) -> Path:
        """The file of this batch's lanes."""
        return self.checkpoints.folder / f"lanes-{self.number:03d}.npz"

    def find(self, lanes_like: Callable[[int], Any], parts: Any, start: Any) -> Snapshot | None:
        """The snapshot in the file, or None where this batch has not been written yet.

        `lanes_like` gives the shapes of a number of lanes, which in a pool is less than the number
        of restarts. `parts` and `start` identify the batch; for the first one `start` is part of
        the run's own identity. A later batch whose identity has changed, because an earlier stage
        ended differently, begins anew.

        Raises:
            ValueError: the file is damaged, or is the first batch's with lanes of other shapes.
        """
        self.checkpoints.open()
        self._identity = fingerprint((parts, start if self.number else None))
        if not self.checkpoints.resumed or not self.path.exists():
            return None
        header, arrays = npz_files.unpack(self.path)
        same = header["run"] == self.checkpoints.run and header["batch"] == self._identity
        lanes = lanes_like(header["lanes"][0][1][0]) if same else None
        if not same or header["lanes"] != _shapes(lanes):
            if self.number:
                return None
            raise ValueError(
                f"resume: expected {str(self.path)!r} to hold lanes of the run in {RUN}; got those "
                "of another run or of other shapes; try the whole folder as it was written."
            )
        leaves, treedef = jax.tree.flatten(lanes)
        stored = [arrays.pop(f"lane{i}") for i in range(len(leaves))]
        restored = [_restore(array, leaf) for array, leaf in zip(stored, leaves, strict=True)]
        found = Snapshot(jax.tree.unflatten(treedef, restored), arrays, header["numbers"])
        self._written = found.place
        return found

    def is_due(self) -> bool:
        """Whether the next file is due; see `Checkpoints.is_due`."""
        return self.checkpoints.is_due()

    def save(self, snapshot: Snapshot) -> None:
        """Write a snapshot, unless the file already holds it."""
        if snapshot.place == self._written:
            return
        leaves = [_stored(leaf) for leaf in jax.tree.leaves(snapshot.lanes)]
        arrays = snapshot.arrays | {f"lane{i}": leaf for i, leaf in enumerate(leaves)}
        header = {
            "run": self.checkpoints.run,
            "batch": self._identity,
            "lanes": _shapes(snapshot.lanes),
            "numbers": snapshot.numbers,
        }
        if self.checkpoints.write(self.path.name, header, arrays):
            self._written = snapshot.place


def run_name(header: dict[str, Any]) -> str:
    """The name of a run: the SHA-256 of its header."""
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()


def as_folder(name: str, value: Any) -> Path:
    """The argument `name` as the path of a folder; a TypeError for anything else."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name}: expected the path of a folder; got {value!r}.")
    return Path(value)


def describe_data(given: Data) -> dict[str, Any]:
    """The part of a run's header that identifies its data.

    It has a digest, the shapes, and the pytree's structure if the data are plain arrays, small
    enough to be copied to the folder. A stream's digest covers a sample of it: see
    `stream_digest.identify`.
    """
    if isinstance(given, Stream):
        identity, shapes = identify(given)
        digest = fingerprint(identity)
        return {"kind": "a Stream", "digest": digest, "shapes": shapes, "structure": None}
    data = jax.tree.map(jnp.asarray, given)
    leaves = jax.tree.leaves(data)
    small = sum(leaf.nbytes for leaf in leaves) <= _MAX_DATA_BYTES and not any(
        map(is_spread, leaves)
    )
    contents = [checksum(leaf) if is_spread(leaf) else leaf for leaf in leaves]
    return {
        "kind": "arrays",
        "digest": fingerprint((str(jax.tree.structure(data)), contents)),
        "shapes": _shapes(data),
        "structure": pytree_json.encode(given) if small else None,
    }


def load_data(folder: Path, run: str, structure: Any) -> Data:
    """The data in a run's folder, as the pytree with the given structure."""
    header, arrays = npz_files.unpack(folder / DATA)
    if header["run"] != run:
        raise ValueError(
            f"resume: expected {DATA} of the run in {RUN}; got that of another one; try the whole "
            "folder as it was written."
        )
    leaves = [jnp.array(arrays[f"leaf{i}"]) for i in range(len(arrays))]
    return pytree_json.decode(structure, leaves)


def _shapes(tree: Any) -> list[list[Any]]:
    """Path, shape and dtype of every leaf of a pytree."""
    return [
        [keystr(path), list(leaf.shape), str(leaf.dtype)]
        for path, leaf in tree_flatten_with_path(tree)[0]
    ]


def _is_key(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def _stored(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _restore(array: np.ndarray, like: Any) -> Any:
    """A stored array as JAX's, with the dtype of `like`; a copy, since the loop donates it."""
    if _is_key(like):
        return jax.random.wrap_key_data(jnp.array(array), impl=str(like.dtype).split("<")[1][:-1])
    if array.dtype.kind == "V":  # a dtype that NumPy has no name for, such as bfloat16
        array = array.view(like.dtype)
    return jnp.array(array)
