"""What a filter run says of its corpus without copying it: selection.parquet of every row, kept.parquet of those that stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from factory.cells import fitted
from factory.errors import UserError
from factory.files import write_atomically
from factory.filtering.recipe import FilterRecipe
from factory.filtering.rows import Rows, read_scores
from factory.filtering.sifter import arrow_type
from factory.select import Selection
from factory.store import Store


def write_selection(store: Store, rows: Rows, selection: Selection) -> None:
    """Every row in order: id, label, keep, reason. One shard in memory at a time."""
    schema = pa.schema(
        [("id", pa.string()), ("label", pa.int32()), ("keep", pa.bool_()), ("reason", pa.dictionary(pa.int16(), pa.string()))]
    )
    reasons = pa.array(selection.reasons, pa.string())

    def write(path: Path) -> None:
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for shard, span in store.spans(rows.shards.names):
                reason = pa.DictionaryArray.from_arrays(pa.array(selection.reason[span]), reasons)
                ids = store.read_shard(shard, ["id"])["id"].combine_chunks()
                columns = [ids, pa.array(rows.label[span], pa.int32()), pa.array(selection.keep[span]), reason]
                writer.write_table(pa.table(columns, schema=schema))

    write_atomically(store.folder / "selection.parquet", write)


def write_kept(recipe: FilterRecipe, store: Store, rows: Rows, selection: Selection) -> None:
    """kept.parquet: id, label, the carried columns and every score of what stays; the corpus itself is not touched."""
    scores = read_scores(recipe, store, rows)
    own_names = {"id", "label", *scores}
    carried = {f"corpus_{name}" if name in own_names else name: name for name in recipe.carry if name in rows.types}
    types = {new: arrow_type(rows.types[old]) for new, old in carried.items()}
    schema = pa.schema([("id", pa.string()), ("label", pa.string()), *types.items(), *((name, pa.float32()) for name in scores)])

    def write(path: Path) -> None:
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for shard, span in store.spans(rows.shards.names):
                keep = np.flatnonzero(selection.keep[span])
                if len(keep):
                    table = store.read_shard(shard).take(keep)
                    own = {name: pa.array(values[span][keep]) for name, values in scores.items()}
                    own |= {new: _column(table, old, rows.types[old], store.mark(shard)["types"]) for new, old in carried.items()}
                    own |= {"id": table["id"], "label": table["label"]}
                    writer.write_table(pa.table([own[name] for name in schema.names], schema=schema))

    write_atomically(store.folder / "kept.parquet", write)


def _column(table: pa.Table, name: str, kind: str, known: dict[str, str]) -> Any:
    """A carried column; a shard that knew it by a narrower type is widened. Raises UserError where the run did not carry it."""
    if (stored_name := f"column.{name}") in table.column_names:
        column = table[stored_name]
        if column.type == arrow_type(kind):
            return column
        return pa.array([fitted(value, kind) for value in column.to_pylist()], arrow_type(kind))
    if name in known:
        raise UserError(f"carry: the run was made without {name!r}; filter the corpus into a new --out to carry it, or leave it out")
    return pa.nulls(table.num_rows, arrow_type(kind))
