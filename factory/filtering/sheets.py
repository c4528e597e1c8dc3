"""Contact sheets of a filtered corpus: what was kept, by class, and what was refused, by reason, in a picture of its own.

They are two, since only the first is published: nobody who refuses an image means to show it to others.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from factory import contact_sheet, images
from factory.errors import UserError
from factory.files import write_atomically
from factory.filtering import samples
from factory.filtering.recipe import FilterRecipe
from factory.filtering.rows import Rows
from factory.select import Selection
from factory.store import Store

KEPT, REFUSED = "contact_sheet.png", "refused.png"
IMAGES, EACH, GROUPS = 48, 8, 12  # kept images; refused ones of each reason; classes, and reasons
SHARDS, LOOK = 12, 1024  # that are looked into, and how many of their first rows: a corpus may be far away
log = logging.getLogger("factory")


def write(recipe: FilterRecipe, store: Store, rows: Rows, selection: Selection) -> None:
    """Both pictures; without one where there is nothing to show. A corpus that cannot be read again costs the pictures, and no more."""
    near = _near([span for _, span in store.spans(rows.shards.names)])
    kept = _kept(near[selection.keep[near]], rows)
    refused = _refused(near, rows, selection)
    wanted = np.concatenate([np.zeros(0, int), *kept.values(), *refused.values()])
    for name in (KEPT, REFUSED):
        (store.folder / name).unlink(missing_ok=True)
    try:
        found = {number: images.decoded(data) for number, _, data in samples.read(recipe, store, rows.shards.names, wanted)}
    except (UserError, OSError) as error:
        log.warning("no contact sheets: the corpus could not be read again: %s", error)
        return
    classes = {c: rows.class_names[c] if c >= 0 else "(unlabelled)" if rows.class_names else "" for c in kept}
    reasons = {code: selection.reasons[code] for code in refused}
    counts = {c: f"{(selection.keep & (rows.label == c)).sum():,} kept" for c in kept}
    _draw(store, KEPT, found, kept, classes, counts, f"{selection.keep.sum():,} kept of {len(selection.keep):,}")
    counts = {code: f"{(selection.reason == code).sum():,} refused" for code in refused}
    _draw(store, REFUSED, found, refused, reasons, counts, f"{(~selection.keep).sum():,} refused of {len(selection.keep):,}")


def _draw(
    store: Store,
    file: str,
    found: Mapping[int, np.ndarray | None],
    groups: Mapping[int, np.ndarray],
    names: Mapping[int, str],
    notes: Mapping[int, str],
    legend: str,
) -> None:
    shown = {group: [image for row in own.tolist() if (image := found[row]) is not None] for group, own in groups.items()}
    lines = [(names[group], notes[group], own) for group, own in shown.items() if own]
    if lines:
        picture = contact_sheet.grid(lines, store.folder.name, legend)
        write_atomically(store.folder / file, lambda path: picture.save(path, "PNG"))


def _near(spans: list[slice]) -> np.ndarray:
    """The first rows of some shards, evenly spread over the corpus."""
    chosen = [spans[i] for i in np.unique(np.linspace(0, len(spans) - 1, SHARDS).round().astype(int))] if spans else []
    deep = LOOK // max(1, len(chosen))
    return np.concatenate([np.zeros(0, int), *(np.arange(span.start, min(span.stop, span.start + deep)) for span in chosen)])


def _kept(near: np.ndarray, rows: Rows) -> dict[int, np.ndarray]:
    """Class -> some of its kept rows."""
    classes = np.unique(rows.label[near])[:GROUPS].tolist()
    return {c: _spread(near[rows.label[near] == c], IMAGES // len(classes)) for c in classes}


def _refused(near: np.ndarray, rows: Rows, selection: Selection) -> dict[int, np.ndarray]:
    """Reason -> some of the rows that have it; rows that could not be read have no picture."""
    codes = [code for code in np.unique(selection.reason[near]).tolist() if code and selection.reasons[code] not in rows.faults]
    return {code: _spread(near[selection.reason[near] == code], EACH) for code in codes[:GROUPS]}


def _spread(rows: np.ndarray, most: int) -> np.ndarray:
    """At most that many of the rows, evenly spread."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int))]
