"""Atomic files in NumPy's npz format, with a JSON header and a digest over every byte."""

import contextlib
import hashlib
import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

_HEADER = "header"
_DIGEST = 64  # characters of SHA-256 in hexadecimal, the last of the file
_UNFINISHED = ".unfinished"


class DamagedFile(ValueError):
    """Raised for a file whose digest does not fit its bytes."""


def pack(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> bytes:
    """The bytes of a file with this header and these arrays.

    The digest covers all bytes before it. It is stored as the archive's comment, at the end, so
    that `numpy.load` can still read the file.
    """
    text = np.frombuffer(json.dumps(header).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, **{_HEADER: text}, **arrays)  # type: ignore[arg-type]
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = b"0" * _DIGEST
    content = memoryview(buffer.getvalue())[:-_DIGEST]
    return b"".join((content, hashlib.sha256(content).hexdigest().encode()))


def unpack(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and arrays of a file; nothing that it holds is executed.

    Raises:
        DamagedFile: a byte is missing or was changed.
        FileNotFoundError: there is no such file.
    """
    content = path.read_bytes()
    digest = hashlib.sha256(memoryview(content)[:-_DIGEST]).hexdigest().encode()
    if digest != content[-_DIGEST:]:
        raise DamagedFile(
            f"expected {path} as jaxvi wrote it; got a file that was cut short or altered "
            f"({len(content)} bytes, and its digest does not fit them); try another copy of it, or "
            "a fresh fit in another folder."
        )
    with np.load(io.BytesIO(content), allow_pickle=False) as found:
        arrays = {name: found[name] for name in found.files}
    return json.loads(arrays.pop(_HEADER).tobytes()), arrays


def write(path: Path, content: bytes) -> None:
    """Write a file atomically: readers find either the old content or the new one.

    Raises:
        OSError: the disk is full or the folder can't be written to; the old file stays.
    """
    unfinished = path.with_name(f"{path.name}.{os.getpid()}{_UNFINISHED}")
    try:
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:  # an interrupt too
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise
    _sync_folder(path.parent)


def sweep(folder: Path) -> None:
    """Remove unfinished files that killed processes have left in a folder."""
    for left in folder.glob(f"*{_UNFINISHED}"):
        with contextlib.suppress(OSError):
            left.unlink()


def _sync_folder(folder: Path) -> None:
    """Make a new file name survive a loss of power; Windows has no such call."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
