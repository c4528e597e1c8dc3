"""Parquet files of a run: whole or absent, and columns of numpy arrays in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from factory.files import write_atomically


def write(path: Path, table: pa.Table) -> None:
    """One Parquet file, whole or absent; images are not compressed twice."""
    codec = {name: "none" if name == "image" else "zstd" for name in table.column_names}
    write_atomically(path, lambda p: pq.write_table(table, p, compression=codec))


def read(path: Path, names: Sequence[str] | None = None) -> pa.Table:
    """A file's table; of `names`, the columns that it has."""
    return pq.read_table(path, columns=None if names is None else [name for name in pq.read_schema(path).names if name in names])


def of_columns(columns: dict[str, np.ndarray]) -> pa.Table:
    """Arrays [N] or [N, D] as a table."""
    arrays = {
        name: pa.array(values) if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
        for name, values in columns.items()
    }
    return pa.table(arrays)


def to_columns(table: pa.Table) -> dict[str, np.ndarray]:
    """The arrays that a table was made of; rows that lack one, beside rows that have it, are NaN, or True in a column of bool."""
    columns = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type.field(0).type)
        if pa.types.is_fixed_size_list(column.type):
            columns[name] = _rows_of_lists(column)
        elif pa.types.is_boolean(column.type) and column.null_count:  # shards that were scored whole, beside others of a cascade
            columns[name] = column.fill_null(True).to_numpy(zero_copy_only=False)
        else:
            columns[name] = column.to_numpy(zero_copy_only=False)
    return columns


def _rows_of_lists(column: pa.FixedSizeListArray) -> np.ndarray:
    """[N, D]; NaN for rows that have none."""
    values = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)
    if not column.null_count:
        return values
    rows = np.full((len(column), column.type.list_size), np.nan, values.dtype)
    rows[column.is_valid().to_numpy(zero_copy_only=False)] = values
    return rows
