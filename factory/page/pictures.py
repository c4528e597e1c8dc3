"""Which pictures the page shows, as small files inside it; their number of bytes is bounded however large the run is."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from factory import images
from factory.contracts import Table
from factory.errors import UserError
from factory.filtering import samples
from factory.filtering.recipe import FilterRecipe
from factory.finished import Run
from factory.recipe import Recipe
from factory.records import evenly
from factory.sources import readable

SIDE = 128  # pixels; shown at about half of that, so that they are sharp on fine screens
FAMILIES = 16  # parents with a child
PARENTS = 3  # shown of one family
THUMBNAILS = 60  # of kept and of refused rows each
CORPUS_SHARDS = 6  # of a corpus, which is read where it stands
SHARDS = 24  # read for pictures, of those there are
BYTES = 900_000  # of all pictures of rows and parents, before base64 adds a third
PAIRS, PAIR_SIDE = 12, 280  # memorisation


@dataclass(frozen=True)
class Picture:
    """A data URI, and whether a browser should enlarge its pixels as squares."""

    uri: str
    small: bool


@dataclass(frozen=True)
class Child:
    """A generated row with its real parents, as far as these could be read."""

    row: int
    id: str
    picture: Picture | None
    label: str
    prompt: str
    reason: str
    parents: tuple[Picture, ...]


@dataclass(frozen=True)
class Album:
    """families: kept children with their parents.  kept, refused: children without.  note: why parents are missing, or empty."""

    families: list[Child]
    kept: list[Child]
    refused: list[Child]
    note: str


def album(run: Run, rows: np.ndarray) -> Album:
    """Pictures of some of `rows`, from a bounded number of shards."""
    starts = np.array([span.start for _, span in run.store.spans(run.shards.names)], np.int64)
    shards = evenly(len(starts), SHARDS)
    if run.quota is None:  # the corpus may be far away
        shards = shards[:: max(1, len(shards) // CORPUS_SHARDS)][:CORPUS_SHARDS]
    near = rows[np.isin(np.searchsorted(starts, rows, side="right") - 1, shards)]
    kept, refused = near[run.selection.keep[near]], near[~run.selection.keep[near]]
    families = _by_turns(kept, run.labels[kept])[:FAMILIES] if run.quota is not None else kept[:0]
    refused, kept = _by_turns(refused, run.selection.reason[refused])[:THUMBNAILS], _telling(run, kept)[:THUMBNAILS]
    table, note = _table(run.recipe, run) if len(families) and isinstance(run.recipe, Recipe) else (None, "")
    room = _Room(BYTES)
    wanted = np.unique(np.concatenate([families, kept, refused]))
    if isinstance(run.recipe, Recipe):
        records = run.store.records(run.shards.names, wanted, ["id", "image", "prompt", "parent_rows"])
    else:
        records, note = _found(run, run.recipe, wanted)
    return Album(
        _children(run, families, records, table, room),
        _children(run, kept, records, None, room),
        _children(run, refused, records, None, room),
        note,
    )  # fmt: skip


def _by_turns(rows: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """One row of each group, then a second of each, and so on."""
    own = [rows[groups == group].tolist() for group in np.unique(groups)]
    return np.array([row for turn in zip_longest(*own) for row in turn if row is not None], np.int64)


def _telling(run: Run, rows: np.ndarray) -> np.ndarray:
    """Kept rows in an order that alternates between the classes and the narrowest survivors of each rule: these move first."""
    orders = [_by_turns(rows, run.labels[rows]).tolist()]
    for rule in run.rules:
        if rule.score is not None and (np.isfinite(rule.low) or np.isfinite(rule.high)):
            slack = np.minimum(rule.score[rows] - rule.low, rule.high - rule.score[rows])
            orders.append(rows[np.argsort(slack, kind="stable")].tolist())
    return np.array(list(dict.fromkeys(row for turn in zip(*orders, strict=True) for row in turn)), np.int64)


def _table(recipe: Recipe, run: Run) -> tuple[Table | None, str]:
    """The real images, or None and why not."""
    try:
        table = recipe.source.open()
    except UserError as error:
        return None, f"The real images could not be opened, so parents are not shown. {error}"
    if table.fingerprint != run.source["fingerprint"]:
        return None, "The real images have changed since this run was made, so parents are not shown."
    return table, ""


def _found(run: Run, recipe: FilterRecipe, rows: np.ndarray) -> tuple[dict[int, dict[str, Any]], str]:
    """What `Store.records` gives of a build, from a corpus that is read where it stands; and why something is missing, or an empty text."""
    found: dict[int, dict[str, Any]] = {}
    try:
        for number, row, data in samples.read(recipe, run.store, run.shards.names, rows):
            found[number] = {"id": row.id, "image": data, "prompt": row.caption, "parent_rows": []}
    except (UserError, OSError) as error:
        return found, f"The corpus could not be read, so its pictures are not shown. {error}"
    return found, ""


def _children(run: Run, rows: np.ndarray, records: dict[int, dict[str, Any]], table: Table | None, room: _Room) -> list[Child]:
    children = []
    for row in rows.tolist():
        record = records.get(row)
        if record is None:
            continue
        picture = room.admit(images.decoded(record["image"]))
        if room.full:
            break
        real = readable(table, (record["parent_rows"] or [])[:PARENTS]) if table else ()
        parents = tuple(p for p in (room.admit(parent.image) for _, parent in real) if p is not None)
        reason = run.selection.reasons[run.selection.reason[row]]
        label = run.class_name(int(run.labels[row]))
        children.append(Child(row, record["id"], picture, label, record["prompt"] or "", reason, parents))
    return children


class _Room:
    """What is left of the bytes for pictures; a picture that is shown twice counts twice."""

    def __init__(self, size: int):
        self.left = size

    @property
    def full(self) -> bool:
        return self.left <= 0

    def admit(self, image: np.ndarray | None) -> Picture | None:
        if image is None or self.full:
            return None
        picture = thumbnail(image)
        self.left -= len(picture.uri) * 3 // 4
        return picture


def thumbnail(image: np.ndarray, side: int = SIDE) -> Picture:
    """uint8 [H, W, 3] -> its picture, at most `side` pixels wide and high; a small image is kept to the pixel."""
    picture = images.to_pil(image)
    small = max(picture.size) <= side // 2
    out = io.BytesIO()
    if small:
        picture.save(out, "WEBP", lossless=True)
    else:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        picture.save(out, "WEBP", quality=80, method=4)
    return Picture(f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode()}", small)


def pairs(folder: Path, memorisation: dict[str, Any]) -> list[dict[str, Any]]:
    """The first pairs of an evaluation with their pictures, None for one that cannot be read or lies outside the run."""
    found = []
    for pair in memorisation.get("pairs", [])[:PAIRS]:
        path = (folder / str(pair.get("picture", ""))).resolve()
        inside = path.is_relative_to(folder.resolve()) and path.is_file()
        image = images.decoded(path.read_bytes()) if inside else None
        found.append({**pair, "picture": None if image is None else thumbnail(image, PAIR_SIDE)})
    return found
