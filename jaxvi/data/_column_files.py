"""Reading Parquet and Arrow files in blocks of columns; pyarrow is imported on use."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

_PARQUET, _ARROW = (".parquet", ".pq"), (".arrow", ".feather", ".ipc")


def is_column_file(path: str | Path) -> bool:
    """Whether the file's extension is that of Parquet or Arrow."""
    return Path(path).suffix.lower() in (*_PARQUET, *_ARROW)


class ColumnFile:
    """A Parquet or Arrow file whose row groups or record batches are read in any order."""

    def __init__(self, path: str | Path) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise ImportError(
                f"Stream: expected pyarrow for {str(path)!r}; got none; try pip install pyarrow."
            ) from error
        self._path = Path(path)
        if not self._path.is_file():
            raise FileNotFoundError(f"Stream: expected a file; got none at {str(path)!r}.")
        if self._path.suffix.lower() in _PARQUET:
            file: Any = pyarrow.parquet.ParquetFile(self._path)
            self.num_rows: int | None = file.metadata.num_rows
            self._num_parts, self._read = file.num_row_groups, file.read_row_group
        else:
            file = pyarrow.ipc.open_file(pyarrow.memory_map(str(self._path)))
            self._num_parts, self._read = file.num_record_batches, file.get_batch
            self.num_rows = sum(file.get_batch(i).num_rows for i in range(self._num_parts))

    def blocks(self, rng: np.random.Generator | None) -> Iterator[dict[str, np.ndarray]]:
        """A dictionary of columns for each part of the file, in shuffled order given `rng`."""
        parts = np.arange(self._num_parts)
        for part in parts if rng is None else rng.permutation(parts):
            table = self._read(int(part))
            if table.num_rows:
                yield {name: _column(name, table.column(name)) for name in table.schema.names}


def _column(name: str, column: Any) -> np.ndarray:
    """A column as an array; a column of lists of a fixed length as a matrix."""
    import pyarrow

    if isinstance(column, pyarrow.ChunkedArray):
        column = column.combine_chunks()
        if isinstance(column, pyarrow.ChunkedArray):
            column = pyarrow.concat_arrays(column.chunks)
    if column.null_count:
        raise ValueError(
            f"Stream: expected numbers in column {name!r}; got {column.null_count} nulls in a "
            "part; try filling or dropping them."
        )
    if pyarrow.types.is_fixed_size_list(column.type):
        width = column.type.list_size
        return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return column.to_numpy(zero_copy_only=False)
