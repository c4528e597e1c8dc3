"""From finished shards to a selection and a dataset: no source, no plan, no model; only what the run folder holds."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from factory import images, provenance, publish, select, tables
from factory.contracts import DatasetInfo, Filter
from factory.neighbours import earlier_neighbours
from factory.recipe import Recipe
from factory.store import PARTIAL, Shards, Store

PROVENANCE = {
    "id": "string",
    "prompt": "string",
    "seed": "int64",
    "round": "int64",
    "parents": "list<string>",
    "conditioning": "string",
    "generator": "string",
    "synthetic": "string",  # the split it was made for; travels with every row, so that no format and no mixture hides it
}


# Columns that a shard has only when its rows carry them.
ANNOTATIONS = {"soft_label": "list<float32>", "boxes": "list<list<float32>>", "box_labels": "list<int64>", "mask": "image"}


def decide(recipe: Recipe, store: Store, shards: Shards, rows: dict[str, np.ndarray], quota: dict[int, int]) -> select.Selection:
    """Decide every row of these shards from its stored scores. Raises UserError where a filter has not scored.

    rows: label and ordinal, int32 [N], of all rows in order.  quota: class index -> rows to keep at most.
    """
    return select.decide(rows["label"], rules(recipe, store, shards), quota, rows["ordinal"])


def rules(recipe: Recipe, store: Store, shards: Shards) -> list[select.Rule]:
    """Each filter's rule over its stored columns, in the recipe's order. Raises UserError where a filter has not scored."""
    return [rule(f, name, store, shards) for name, f in recipe.named_filters()]


def write_down(store: Store, labels: np.ndarray, ordinals: np.ndarray, selection: select.Selection) -> None:
    """selection.parquet: keep and reason for every row, refused ones included."""
    reasons = pa.DictionaryArray.from_arrays(pa.array(selection.reason), pa.array(selection.reasons))
    decisions = {"label": pa.array(labels), "ordinal": pa.array(ordinals), "keep": pa.array(selection.keep), "reason": reasons}
    tables.write(store.folder / "selection.parquet", pa.table(decisions))


def rule(f: Filter, name: str, store: Store, shards: Shards, unanswered: str | None = None) -> select.Rule:
    """One filter's rule over its stored scores. unanswered: the reason for rows to which it has no answer, else its own."""
    low, high = f.bounds()
    if f.whole:
        return _whole_rule(f, name, high, store, shards)
    columns = store.read_scores(shards, f.identity(), ("score", PARTIAL))
    top = f.top() if f.keep_top is not None else None
    return select.Rule(name, columns["score"], low, high, top, f.per == "class", scored=columns.get(PARTIAL), unanswered=unanswered)


def _whole_rule(f: Filter, name: str, high: float, store: Store, shards: Shards) -> select.Rule:
    """A rule that compares rows with each other, over neighbours that are found once for each set of shards."""

    def embeddings() -> np.ndarray:
        columns = store.read_scores(shards, f.identity())
        if "embedding" in columns:
            return columns["embedding"]
        return np.full((len(columns[PARTIAL]), 1), np.nan, np.float32)  # no row could be read, or none has reached this filter

    def find() -> dict[str, np.ndarray]:
        index, similarity = earlier_neighbours(embeddings(), getattr(f, "floor", high))
        return {"index": index, "similarity": similarity}

    scored = store.read_scores(shards, f.identity(), (PARTIAL,)).get(PARTIAL)
    whole = f.identity() if scored is None else f"{f.identity()}-{int(scored.sum())}"  # a cascade may score more rows later
    found = store.cached(whole, shards, find)
    return select.Rule(name, high=high, neighbours=(found["index"], found["similarity"]), embeddings=embeddings, scored=scored)


def export(recipe: Recipe, store: Store, shards: Shards, labels: np.ndarray, selection: select.Selection) -> Path:
    """Write the kept rows as a dataset folder, whole or absent, with its card."""
    info = dataset_info(recipe, store, shards, selection)
    facts = publish.gather(recipe, store, labels, selection, list(info.columns))

    def fill(folder: Path) -> None:
        recipe.export.write(kept_rows(recipe, store, shards, selection), info, folder)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        publish.write(folder, facts, provenance.recipe_of(store, recipe), provenance.plan_of(store))
        (folder / "README.md").write_text(publish.card([facts], size), encoding="utf-8")

    return store.replace_folder("dataset", fill)


def dataset_info(recipe: Recipe, store: Store, shards: Shards, selection: select.Selection) -> DatasetInfo:
    """What the exporter is told of these rows."""
    scored = {name: "float32" for name, f in recipe.named_filters() if not f.whole}
    class_names = store.run()["identity"]["source"]["class_names"]
    carried = {column for shard in shards.names for column in store.columns(shard)}
    annotations = {name: kind for name, kind in ANNOTATIONS.items() if name in carried}
    return DatasetInfo(recipe.name, class_names, {**PROVENANCE, **annotations, **scored}, int(selection.keep.sum()), recipe.split)


def kept_rows(recipe: Recipe, store: Store, shards: Shards, selection: select.Selection, first: int = 0) -> Iterator[dict[str, Any]]:
    """The kept rows in plan order from the `first` shard on, pixels decoded, one shard in memory at a time."""
    named = [(name, f) for name, f in recipe.named_filters() if not f.whole]
    scores = {name: store.read_scores(shards, f.identity())["score"] for name, f in named}
    generators = publish.generator_names(recipe)
    for shard, span in itertools.islice(store.spans(shards.names), first, None):
        keep = np.flatnonzero(selection.keep[span])
        if len(keep):
            table = store.read_shard(shard).take(keep)
            for offset, row in zip(keep, table.to_pylist(), strict=True):
                own = {name: float(values[span.start + offset]) for name, values in scores.items()}
                yield {
                    **row,
                    **own,
                    "image": images.decode(row["image"]),
                    "generator": generators[row["generator"]],
                    "synthetic": recipe.split,
                }
