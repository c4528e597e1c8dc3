"""The synthetic images of a run as its folder holds them: what was kept, and what is known of each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from factory import finished, images
from factory.errors import Undecodable, UserError
from factory.evaluate import guards
from factory.evaluate.sets import Eyes, ImageSet, Item
from factory.finished import Run

COLUMNS = ["id", "image", "label", "prompt", "parents", "conditioning"]


@dataclass(frozen=True)
class Made:
    """What was kept. prompts, parents, looked_up (content keys of real images): of each.  soft: float32 [N, classes] or None.

    looked_up: what its condition has looked at beside the parents.
    generated: pixel digest -> id of everything that the run has made, refused images included.
    """

    images: ImageSet
    prompts: list[str]
    parents: list[list[str]]
    looked_up: list[list[str]]
    soft: np.ndarray | None
    generated: dict[bytes, str]


def open(folder: Path) -> Run:
    """A finished build that keeps something. Raises UserError."""
    run = finished.read(folder)
    if run.store.is_filtered():
        raise UserError(f"{folder} is a filter run, which has generated nothing; name a folder that `factory build --out` wrote")
    if not run.keep.any():
        raise UserError(f"{folder}: no image was kept, so there is nothing to evaluate; loosen a filter and run `factory select {folder}`")
    return run


def look(run: Run, eyes: Eyes, renumber: np.ndarray) -> Made:
    """Read the run's images. renumber: int [classes + 1], each of its labels as a label of the real images; the last for unlabelled ones."""
    generated: dict[bytes, str] = {}
    prompts: list[str] = []
    parents: list[list[str]] = []
    looked_up: list[list[str]] = []
    entry = run.built.condition.looked_up
    soft: list[list[float] | None] = []
    places: list[tuple[str, int]] = []

    def items() -> Iterator[Item]:
        for shard, span in run.store.spans(run.shards.names):
            wanted = [*COLUMNS, *(["soft_label"] if "soft_label" in run.store.columns(shard) else [])]
            for offset, row in enumerate(run.store.read_shard(shard, wanted).to_pylist()):
                try:
                    image = images.decode(row["image"])
                except Undecodable:
                    continue  # a filter has refused it, with this reason
                generated.setdefault(guards.digest(image), row["id"])
                if not run.keep[span.start + offset]:
                    continue
                prompts.append(row["prompt"] or "")
                parents.append(list(row["parents"] or []))
                looked_up.append(looked_up_by(row["conditioning"], entry))
                soft.append(row.get("soft_label"))
                places.append((shard, offset))
                yield row["id"], row["id"], image, int(renumber[row["label"]])

    def read(place: int) -> np.ndarray:
        shard, offset = places[place]
        return images.decode(run.store.read_shard(shard, ["image"])["image"][offset].as_py())

    found = eyes.look(items(), read, "synthetic images")
    return Made(found, prompts, parents, looked_up, _soft(soft, renumber), generated)


def looked_up_by(conditioning: str | None, entry: str) -> list[str]:
    """Content keys of what a row's condition has looked at beside the parents. entry: its `Condition.looked_up`."""
    return str(json.loads(conditioning or "{}").get(entry, "")).split()


def _soft(rows: list[list[float] | None], renumber: np.ndarray) -> np.ndarray | None:
    """Targets of rows that have soft labels; a row without one has zeros, and is taken by its class."""
    if all(row is None for row in rows):
        return None
    out = np.zeros((len(rows), int(renumber.max()) + 1), np.float32)
    for place, row in enumerate(rows):
        for label, share in enumerate(row or []):
            if renumber[label] >= 0:
                out[place, renumber[label]] += share
    total = out.sum(1, keepdims=True)
    return np.where(total > 0, out / np.maximum(total, 1e-9), 0)
