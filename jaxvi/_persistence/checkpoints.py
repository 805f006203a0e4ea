"""The folder of a run's checkpoints: what is written there, when, and how it is found again.

`run.npz` says what run it is; it is written last of the first files, so that a folder without it
holds no checkpoint. `data.npz` has the data, and `lanes-000.npz` those of the first batch of
restarts as they last were, between two chunks; stages of the autopilot after the first have
files of their own. A later call that makes the same fits finds each where it was left.
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
_SHARE = 0.02  # of the time, for writing
_MOST_DATA = 2**28  # bytes: larger data is not copied to the folder


@dataclass(eq=False)
class Checkpoints:
    """A folder to which a run's stages are written, in the order in which they begin.

    `describe` gives the header of the run; it is called once, when all arguments have been
    checked. With the name of a `run`, the folder holds that one and it is gone on with.
    """

    folder: Path
    seconds: float
    describe: Callable[[], dict[str, Any]]
    data: Data = None
    run: str | None = None
    writes: bool = True  # of several processes, one does
    _batches: int = 0
    _opened: bool = False
    _begun: bool = False  # the files of the run itself are there
    _warned: bool = False
    _due: float = field(default_factory=time.perf_counter)
    _header: dict[str, Any] = field(default_factory=dict)

    def batch(self) -> "Batch":
        """The next batch of lanes."""
        self._batches += 1
        return Batch(self, self._batches - 1)

    @property
    def resumed(self) -> bool:
        """Whether the folder held the run before."""
        return not self._header

    def open(self) -> None:
        """Make the folder and see that it is free, the first time, unless a run is resumed."""
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
        """Whether it is time to write, as it is where nothing has been."""
        first = not (self._begun or self._warned)
        return first or time.perf_counter() >= self._due

    def write(self, name: str, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> bool:
        """Write a file, and the run's own where they are still missing; say whether it worked.

        A full disk is told once and stops nothing. The next writing comes no sooner than makes
        this one 2 % of the time.
        """
        if not self.writes:
            return True
        began = time.perf_counter()
        try:
            if not self._begun:
                self._write_data()  # before the lanes, and they before the run
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
            self._due = ended + max(self.seconds, (ended - began) * (1.0 / _SHARE - 1.0))

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
class Batch:
    """One batch of lanes and its file."""

    checkpoints: Checkpoints
    number: int
    _identity: str = ""
    _written: tuple[int | None, int | float] | None = None  # width and step of the file

    @property
    def path(self) -> Path:
        """Where its lanes are."""
        return self.checkpoints.folder / f"lanes-{self.number:03d}.npz"

    def find(self, lanes_like: Callable[[int], Any], parts: Any, start: Any) -> Snapshot | None:
        """What the file has, or None where this stage has not begun.

        `lanes_like` gives the shapes of so many lanes, which are fewer than restarts in a pool.
        `parts` and `start` are what tells this stage from others. The first stage's start is the
        run's own. A later stage that has become another one, since the one before it had been cut
        short, begins anew.

        Raises:
            ValueError: a file that is damaged, or the first stage's with lanes of other shapes.
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
        """Whether it is time to write."""
        return self.checkpoints.is_due()

    def save(self, snapshot: Snapshot) -> None:
        """Write, unless the disk has it."""
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
    """A digest of a run's header."""
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()


def as_folder(name: str, value: Any) -> Path:
    """A path."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name}: expected the path of a folder; got {value!r}.")
    return Path(value)


def describe_data(given: Data) -> dict[str, Any]:
    """A digest, the shapes, and how to build the pytree again where that is plain and not large.

    Of a stream, which may not fit anywhere, the digest is of a part: see `_stream_identity`.
    """
    if isinstance(given, Stream):
        identity, shapes = identify(given)
        digest = fingerprint(identity)
        return {"kind": "a Stream", "digest": digest, "shapes": shapes, "structure": None}
    data = jax.tree.map(jnp.asarray, given)
    leaves = jax.tree.leaves(data)
    small = sum(leaf.nbytes for leaf in leaves) <= _MOST_DATA and not any(map(is_spread, leaves))
    contents = [checksum(leaf) if is_spread(leaf) else leaf for leaf in leaves]
    return {
        "kind": "arrays",
        "digest": fingerprint((str(jax.tree.structure(data)), contents)),
        "shapes": _shapes(data),
        "structure": pytree_json.encode(given) if small else None,
    }


def load_data(folder: Path, run: str, structure: Any) -> Data:
    """The data that a run has written."""
    header, arrays = npz_files.unpack(folder / DATA)
    if header["run"] != run:
        raise ValueError(
            f"resume: expected {DATA} of the run in {RUN}; got that of another one; try the whole "
            "folder as it was written."
        )
    leaves = [jnp.array(arrays[f"leaf{i}"]) for i in range(len(arrays))]
    return pytree_json.decode(structure, leaves)


def _shapes(tree: Any) -> list[list[Any]]:
    """Path, shape and dtype of every leaf."""
    return [
        [keystr(path), list(leaf.shape), str(leaf.dtype)]
        for path, leaf in tree_flatten_with_path(tree)[0]
    ]


def _is_key(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def _stored(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _restore(array: np.ndarray, like: Any) -> Any:
    """As an array of JAX's, in memory of its own, since the loop gives it away."""
    if _is_key(like):
        return jax.random.wrap_key_data(jnp.array(array), impl=str(like.dtype).split("<")[1][:-1])
    if array.dtype.kind == "V":  # a dtype that NumPy has no name for, such as bfloat16
        array = array.view(like.dtype)
    return jnp.array(array)
