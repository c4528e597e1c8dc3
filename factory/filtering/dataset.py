"""New shards of a filtered corpus: its kept rows with all their columns, read from the corpus again."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from factory import publish
from factory.cells import fitted
from factory.contracts import DatasetInfo
from factory.errors import Undecodable, UserError
from factory.filtering import catalogue, facts
from factory.filtering.reading import stored
from factory.filtering.recipe import FilterRecipe
from factory.filtering.rows import Rows, read_scores
from factory.filtering.sifter import unchanged
from factory.select import Selection
from factory.store import Store


def export(recipe: FilterRecipe, store: Store, rows: Rows, selection: Selection) -> Path:
    """Write the kept rows with all their columns as a dataset folder, whole or absent, with its card."""
    names = _export_names(recipe, rows)
    kinds = {new: rows.types[old] for old, new in names.items()}
    scored = {name: "float32" for name, f in recipe.named_filters() if not f.whole}
    caption = {} if (column := caption_column(recipe)) is None or column in kinds else {column: "string"}
    info = DatasetInfo(
        recipe.name, rows.class_names, {"id": "string", **caption, **kinds, **scored}, int(selection.keep.sum()), synthetic=False
    )
    recipe.export.check(frozenset({"caption"} if caption else ()))
    told = facts.gather(recipe, store, rows.label, rows.class_names, selection, list(info.columns))

    def fill(folder: Path) -> None:
        recipe.export.write(_kept(recipe, store, rows, selection, names), info, folder)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        publish.write(folder, told, {**recipe.settings(), "keep": "both" if recipe.keep == "both" else "dataset"}, store.run())
        (folder / "README.md").write_text(publish.card([told], size), encoding="utf-8")

    return store.replace_folder("dataset", fill)


def caption_column(recipe: FilterRecipe) -> str | None:
    """What the caption's column is called in new shards: its own name, or `caption` where that is a suffix or a path."""
    name = getattr(recipe.corpus, "caption", None)
    return None if name is None else name if name.isidentifier() and name != "txt" else "caption"


def _export_names(recipe: FilterRecipe, rows: Rows) -> dict[str, str]:
    """Original column -> its name in the new shards; one that ours would hide is called corpus_<name>."""
    own = {"id", "image", "bytes", *(name for name, _ in recipe.named_filters()), *(["label"] if rows.class_names else [])}
    return {name: f"corpus_{name}" if name in own else name for name in rows.types}


def _kept(recipe: FilterRecipe, store: Store, rows: Rows, selection: Selection, names: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The kept rows, read from the corpus again: their own bytes and columns. Raises UserError for one that is gone since."""
    reader = recipe.corpus.open(store.folder / "corpus", None)
    scores = read_scores(recipe, store, rows)
    caption = caption_column(recipe)
    for cut, (shard, span) in zip(catalogue.read(store.folder / "corpus"), store.spans(rows.shards.names), strict=True):
        keep = selection.keep[span]
        if not keep.any():
            continue
        last = int(np.flatnonzero(keep)[-1])
        ids = store.read_shard(shard, ["id"])["id"].slice(0, last + 1).to_pylist()
        for offset, found in enumerate(unchanged(itertools.islice(reader.read(cut), last + 1), ids)):
            if not keep[offset]:
                continue
            row = {new: fitted(found.columns.get(old), rows.types[old]) for old, new in names.items()}
            row |= {name: float(values[span.start + offset]) for name, values in scores.items()}
            row |= {"id": found.id, "bytes": _bytes(found.id, found.image)}
            if rows.class_names:
                row["label"] = int(rows.label[span.start + offset])
            if caption is not None and caption not in row:
                row[caption] = found.caption
            yield row


def _bytes(id: str, image: bytes | str | None) -> bytes:
    try:
        return stored(image)
    except Undecodable as error:
        raise UserError(f"{id} was scored, and now {error}; the corpus changed, so filter it into a new --out") from error
