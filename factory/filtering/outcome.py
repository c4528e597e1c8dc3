"""From a filtered corpus's stored scores to a selection, an index of kept ids, new shards and a report; no model."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from factory import assemble, publish, select
from factory.cells import fitted, merged_kind
from factory.contracts import DatasetInfo
from factory.errors import Undecodable, UserError
from factory.files import write_atomically, write_json
from factory.filtering import catalogue, facts
from factory.filtering.progress import Progress
from factory.filtering.reading import stored
from factory.filtering.recipe import FilterRecipe
from factory.filtering.sifter import arrow_type, unchanged
from factory.records import Cut
from factory.select import Selection
from factory.store import Shards, Store

EXAMPLES = 3  # ids told for each reason


@dataclass(frozen=True)
class Rows:
    """All rows of a run. label: int32 [N], -1 unlabelled.  fault: int [N], 0 or 1 + the place in `faults`.  types: further columns' types."""

    shards: Shards
    label: np.ndarray
    fault: np.ndarray
    class_names: list[str]
    faults: list[str]
    types: dict[str, str]


def conclude(recipe: FilterRecipe, store: Store, cuts: Sequence[Cut], progress: Progress) -> dict[str, Any]:
    """Everything that follows when all shards are scored. Returns the report."""
    rows = collect(recipe, store, store.shards([cut.name for cut in cuts]))
    for f in recipe.filters:
        store.join_scores(rows.shards, f.identity())
    selection = decide(recipe, store, rows)
    leave(recipe, store, rows, selection, cuts)
    return report(recipe, store, rows, selection, progress)


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


def collected(store: Store) -> Rows:
    """What `collect` kept. Raises UserError before the run is complete."""
    shards, columns = store.read_rows()
    notes = store.row_notes()
    return Rows(shards, columns["label"], columns["fault"], notes["class_names"], notes["faults"], notes["types"])


def rules(recipe: FilterRecipe, store: Store, shards: Shards) -> list[select.Rule]:
    """The recipe's rules over stored scores; a row without an answer has a reason of its own, `<filter>_no_score`."""
    return [assemble.rule(f, name, store, shards, f"{name}_no_score") for name, f in recipe.named_filters()]


def decide(recipe: FilterRecipe, store: Store, rows: Rows) -> Selection:
    """Every row kept, or refused for one reason. Raises UserError where a filter has not scored a shard."""
    return select.decide(rows.label, rules(recipe, store, rows.shards), faults=(rows.fault, rows.faults))


def reselect(recipe: FilterRecipe, store: Store, export: bool) -> dict[str, Any]:
    """Decide again with other rules: selection.parquet and the index always, the new shards when `export`. Returns what `select` tells."""
    rows = collected(store)
    selection = decide(recipe, store, rows)
    leave(recipe, store, rows, selection, catalogue.read(store.folder / "corpus"), dataset=export)
    return counts(rows, selection)


def leave(recipe: FilterRecipe, store: Store, rows: Rows, selection: Selection, cuts: Sequence[Cut], dataset: bool | None = None) -> None:
    """Write what the recipe keeps: selection.parquet, and kept.parquet, dataset/ or both."""
    _write_selection(store, rows, selection)
    if recipe.keep in ("index", "both"):
        _write_index(recipe, store, rows, selection)
    if dataset or (dataset is None and recipe.keep in ("dataset", "both")):
        export(recipe, store, rows, selection, cuts)


def counts(rows: Rows, selection: Selection) -> dict[str, Any]:
    """rows = kept + refused by reason, and kept by class."""
    kept = Counter(rows.label[selection.keep].tolist())
    classes = [*enumerate(rows.class_names), *([(-1, "(unlabelled)")] if kept[-1] or not rows.class_names else [])]
    refused = {slug: n for slug, n in selection.refused().items() if slug != select.OVER_QUOTA}
    return {
        "rows": len(rows.label),
        "kept": int(selection.keep.sum()),
        "refused": refused,
        "per_class": {name: kept[c] for c, name in classes},
    }


def _by_shard(store: Store, rows: Rows) -> Iterator[tuple[str, slice]]:
    at = 0
    for shard in rows.shards.names:
        count = store.mark(shard)["rows"]
        yield shard, slice(at, at + count)
        at += count


def _write_selection(store: Store, rows: Rows, selection: Selection) -> None:
    """Every row in order: id, label, keep, reason. One shard in memory at a time."""
    schema = pa.schema(
        [("id", pa.string()), ("label", pa.int32()), ("keep", pa.bool_()), ("reason", pa.dictionary(pa.int16(), pa.string()))]
    )
    reasons = pa.array(selection.reasons, pa.string())

    def write(path: Path) -> None:
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for shard, span in _by_shard(store, rows):
                reason = pa.DictionaryArray.from_arrays(pa.array(selection.reason[span]), reasons)
                ids = store.read_shard(shard, ["id"])["id"].combine_chunks()
                columns = [ids, pa.array(rows.label[span], pa.int32()), pa.array(selection.keep[span]), reason]
                writer.write_table(pa.table(columns, schema=schema))

    write_atomically(store.folder / "selection.parquet", write)


def _scores(recipe: FilterRecipe, store: Store, rows: Rows) -> dict[str, np.ndarray]:
    named = [(name, f) for name, f in recipe.named_filters() if not f.whole]
    return {name: store.read_scores(rows.shards, f.identity(), ("score",))["score"].astype(np.float32) for name, f in named}


def _write_index(recipe: FilterRecipe, store: Store, rows: Rows, selection: Selection) -> None:
    """kept.parquet: id, label, the carried columns and every score of what stays; the corpus itself is not touched."""
    scores = _scores(recipe, store, rows)
    own_names = {"id", "label", *scores}
    carried = {f"corpus_{name}" if name in own_names else name: name for name in recipe.carry if name in rows.types}
    types = {new: arrow_type(rows.types[old]) for new, old in carried.items()}
    schema = pa.schema([("id", pa.string()), ("label", pa.string()), *types.items(), *((name, pa.float32()) for name in scores)])

    def write(path: Path) -> None:
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for shard, span in _by_shard(store, rows):
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


# ---- new shards


def export(recipe: FilterRecipe, store: Store, rows: Rows, selection: Selection, cuts: Sequence[Cut]) -> Path:
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
        recipe.export.write(_kept(recipe, store, rows, selection, cuts, names), info, folder)
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


def _kept(
    recipe: FilterRecipe, store: Store, rows: Rows, selection: Selection, cuts: Sequence[Cut], names: dict[str, str]
) -> Iterator[dict[str, Any]]:
    """The kept rows, read from the corpus again: their own bytes and columns. Raises UserError for one that is gone since."""
    reader = recipe.corpus.open(store.folder / "corpus", None)
    scores = _scores(recipe, store, rows)
    caption = caption_column(recipe)
    for cut, (shard, span) in zip(cuts, _by_shard(store, rows), strict=True):
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


# ---- what people are told


def report(recipe: FilterRecipe, store: Store, rows: Rows, selection: Selection, progress: Progress) -> dict[str, Any]:
    """report.json. Returns the report."""
    seconds = progress.seconds()
    read = Counter(rows.label.tolist())
    told = counts(rows, selection)
    names = dict(enumerate(rows.class_names))
    value = {
        "name": recipe.name,
        "plan": store.run()["plan"],
        "read": told["rows"],
        "kept": told["kept"],
        "refused": told["refused"],
        "per_class": {name: {"read": read[c], "kept": told["per_class"][name]} for c, name in names.items()},
        "examples": _examples(store, rows, selection),
        "shards": len(rows.shards.names),
        "this_launch": {"rows": progress.rows, "seconds": round(seconds, 2), "images_per_s": round(progress.rows / max(seconds, 1e-6), 2)},
        "worker_seconds": round(sum(store.mark(shard)["seconds"] for shard in rows.shards.names), 2),
        "threads": recipe.threads,
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    write_json(store.folder / "report.json", value)
    return value


def _examples(store: Store, rows: Rows, selection: Selection) -> dict[str, list[dict[str, str]]]:
    """For each reason the first few rows that have it, with what was wrong where a row could not be read."""
    wanted: dict[int, list[int]] = {}
    for code in range(1, len(selection.reasons)):
        wanted[code] = np.flatnonzero(selection.reason == code)[:EXAMPLES].tolist()
    numbers = sorted(number for some in wanted.values() for number in some)
    known: dict[int, dict[str, str]] = {}
    for shard, span in _by_shard(store, rows):
        own = [number - span.start for number in numbers if span.start <= number < span.stop]
        if own:
            for offset, row in zip(own, store.read_shard(shard, ["id", "detail"]).take(own).to_pylist(), strict=True):
                known[span.start + offset] = {key: value for key, value in row.items() if value}
    return {selection.reasons[code]: [known[number] for number in some] for code, some in wanted.items() if some}


def summary(value: dict[str, Any], recipe: FilterRecipe, out: Path) -> str:
    """A report in a few lines for a terminal."""
    lines = [f"read       {value['read']}", f"kept       {value['kept']}", f"refused    {value['read'] - value['kept']}"]
    for slug, count in value["refused"].items():
        if count:
            first = value["examples"][slug][0]
            lines.append(f"           {slug}: {count}   such as {first['id']}{' (' + first['detail'] + ')' if 'detail' in first else ''}")
    lines += unscored_lines(value["refused"])
    if value["this_launch"]["rows"]:
        lines.append(f"rate       {value['this_launch']['images_per_s']} images/s")
    if recipe.keep in ("index", "both"):
        lines.append(f"index      {out / 'kept.parquet'}")
    if recipe.keep in ("dataset", "both"):
        lines.append(f"dataset    {out / 'dataset'}   open it: datasets.load_dataset({str(out / 'dataset')!r})")
    return "\n".join([*lines, f"numbers    {out / 'report.json'}"])


def unscored_lines(refused: dict[str, int]) -> list[str]:
    """What to do about rows that a cascade has not scored and the rules now ask for."""
    waiting = {slug.removeprefix("unscored_"): count for slug, count in refused.items() if slug.startswith("unscored_") and count}
    return [
        f"unscored   {count} rows have reached {name} by these rules and were never scored by it; "
        "run `factory filter` with these rules and the same --out to score them"
        for name, count in waiting.items()
    ]
