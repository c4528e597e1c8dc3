"""All rows of a filtered corpus as a few small columns: label, fault, scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from factory.cells import merged_kind
from factory.filtering.recipe import FilterRecipe
from factory.store import Shards, Store


@dataclass(frozen=True)
class Rows:
    """All rows of a run. label: int32 [N], -1 unlabelled.  fault: int [N], 0 or 1 + the place in `faults`.  types: further columns' types."""

    shards: Shards
    label: np.ndarray
    fault: np.ndarray
    class_names: list[str]
    faults: list[str]
    types: dict[str, str]


def collect(recipe: FilterRecipe, store: Store, shards: Shards) -> Rows:
    """Labels and faults of all rows, kept as one small file. Class names that nobody told are those that were found."""
    names = recipe.corpus.open(store.folder / "corpus", ()).class_names
    labels, slugs = _Codes(), _Codes()
    types: dict[str, str] = {}
    for shard in shards.names:  # one at a time: a million rows are a few bytes each, and not their texts
        table = store.read_shard(shard, ["label", "fault"])
        labels.add(table["label"])
        slugs.add(table["fault"])
        for name, kind in store.mark(shard)["types"].items():
            types[name] = merged_kind(types.get(name), kind) or kind
    if names is None:
        names = sorted(labels.places, key=_natural)
    faults = sorted(slug for slug in slugs.places if slug)
    label, fault = labels.among(names), slugs.among(["", *faults]).astype(np.int16)
    store.write_rows(shards, {"label": label, "fault": fault}, {"class_names": names, "faults": faults, "types": types})
    return Rows(shards, label, fault, names, faults, types)


def collected(store: Store) -> Rows:
    """What `collect` kept. Raises UserError before the run is complete."""
    shards, columns = store.read_rows()
    notes = store.row_notes()
    return Rows(shards, columns["label"], columns["fault"], notes["class_names"], notes["faults"], notes["types"])


def read_scores(recipe: FilterRecipe, store: Store, rows: Rows) -> dict[str, np.ndarray]:
    """float32 [N] of every filter that scores rows one by one, by its name."""
    named = [(name, f) for name, f in recipe.named_filters() if not f.whole]
    return {name: store.read_scores(rows.shards, f.identity(), ("score",))["score"].astype(np.float32) for name, f in named}


class _Codes:
    """A column of texts as numbers, in the order in which the texts were met."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}
        self._parts: list[np.ndarray] = []

    def add(self, column: pa.ChunkedArray) -> None:
        encoded = pa.array(column.to_pylist(), pa.string()).dictionary_encode()
        own = np.array([self.places.setdefault(text, len(self.places)) for text in encoded.dictionary.to_pylist()] + [-1], np.int32)
        self._parts.append(own[pc.fill_null(encoded.indices, len(own) - 1).to_numpy(zero_copy_only=False)])

    def among(self, names: Sequence[str]) -> np.ndarray:
        """int32 [N], the place of each row's text in a list of names; -1 for null, and for a text that is not there."""
        known = {name: place for place, name in enumerate(names)}
        places = np.array([known.get(text, -1) for text in self.places] + [-1], np.int32)
        return np.concatenate([places[part] for part in self._parts] or [np.zeros(0, np.int32)])


def _natural(name: str) -> tuple[bool, int, str]:
    """Numbers by value, before words."""
    return (not name.isdigit(), int(name) if name.isdigit() else 0, name)
