"""Contact sheets of a filtered corpus: what was kept, by class, and what was refused, by reason, in a picture of its own.

They are two, since only the first is published: nobody who refuses an image means to show it to others.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from factory import contact_sheet, images
from factory.files import write_atomically
from factory.filtering import samples
from factory.filtering.recipe import FilterRecipe
from factory.filtering.rows import Rows
from factory.records import class_name, evenly
from factory.select import Selection
from factory.store import Store

KEPT, REFUSED = "contact_sheet.png", "refused.png"
IMAGES, EACH, GROUPS = 48, 8, 12  # kept images; refused ones of each reason; classes, and reasons
SHARDS, LOOK = 12, 1024  # that are looked into, and how many of their first rows: a corpus may be far away
log = logging.getLogger("factory")

Group = tuple[str, str, np.ndarray]  # its name, how many rows there are, and the places of some


def write(recipe: FilterRecipe, store: Store, rows: Rows, selection: Selection) -> None:
    """Both pictures; without one where there is nothing to show. A corpus that cannot be read again costs the pictures, and no more."""
    near = _near([span for _, span in store.spans(rows.shards.names)])
    kept, refused = _kept(near[selection.keep[near]], rows, selection), _refused(near, rows, selection)
    wanted = np.concatenate([np.zeros(0, int), *(own for _, _, own in kept + refused)])
    for name in (KEPT, REFUSED):
        (store.folder / name).unlink(missing_ok=True)
    try:
        found = {number: _thumbnail(data) for number, _, data in samples.read(recipe, store, rows.shards.names, wanted)}
    except Exception as error:  # whatever a network's library raises: the selection is whole, and pictures are no reason to lose it
        log.warning("no contact sheets: the corpus could not be read again: %s: %s", type(error).__name__, error)
        return
    _draw(store.folder / KEPT, found, kept, f"{selection.keep.sum():,} kept of {len(selection.keep):,}")
    _draw(store.folder / REFUSED, found, refused, f"{(~selection.keep).sum():,} refused of {len(selection.keep):,}")


def _draw(path: Path, found: Mapping[int, Image.Image | None], groups: Sequence[Group], legend: str) -> None:
    shown = [(name, note, [picture for row in own.tolist() if (picture := found[row])]) for name, note, own in groups]
    if any(pictures for _, _, pictures in shown):
        sheet = contact_sheet.grid([group for group in shown if group[2]], path.parent.name, legend)
        write_atomically(path, lambda scratch: sheet.save(scratch, "PNG"))


def _thumbnail(data: bytes) -> Image.Image | None:
    image = images.decoded(data)
    return None if image is None else contact_sheet.thumbnail(image)


def _near(spans: list[slice]) -> np.ndarray:
    """The first rows of some shards, evenly spread over the corpus."""
    chosen = [spans[i] for i in evenly(len(spans), SHARDS)]
    deep = LOOK // max(1, len(chosen))
    return np.concatenate([np.zeros(0, int), *(np.arange(span.start, min(span.stop, span.start + deep)) for span in chosen)])


def _kept(near: np.ndarray, rows: Rows, selection: Selection) -> list[Group]:
    """Some kept rows of each class."""
    classes = np.unique(rows.label[near])[:GROUPS].tolist()
    counts = {c: f"{(selection.keep & (rows.label == c)).sum():,} kept" for c in classes}
    own = {c: near[rows.label[near] == c] for c in classes}
    return [(class_name(rows.class_names, c), counts[c], own[c][evenly(len(own[c]), IMAGES // len(classes))]) for c in classes]


def _refused(near: np.ndarray, rows: Rows, selection: Selection) -> list[Group]:
    """Some rows of each reason; rows that could not be read have no picture."""
    codes = [code for code in np.unique(selection.reason[near]).tolist() if code and selection.reasons[code] not in rows.faults]
    counts = {code: f"{(selection.reason == code).sum():,} refused" for code in codes}
    own = {code: near[selection.reason[near] == code] for code in codes}
    return [(selection.reasons[code], counts[code], own[code][evenly(len(own[code]), EACH)]) for code in codes[:GROUPS]]
