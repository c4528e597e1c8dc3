"""Square patches of larger images: round their boxes, each with its box's class, or on a grid, unlabelled."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from factory import seeds
from factory.contracts import Source, Table
from factory.errors import Undecodable, UserError
from factory.kinds import RealImages
from factory.records import Example

HELD = 16  # decoded images that neighbouring patches share


class Patches(Source):
    """Makes small images of one size from large ones; every patch lies wholly inside its image."""

    images: RealImages = Field(description="The large images, {dataset: …} as in source; with boxes and box_labels for around: boxes.")
    around: Literal["boxes", "grid"] = Field(
        "boxes", description="boxes: one patch round each box's centre; grid: patches that cover the image."
    )
    side: int = Field(96, ge=4, description="Side of a patch in pixels; images that are smaller give a smaller patch.")
    stride: int | None = Field(None, ge=1, description="For grid: pixels between patches; null is half a side.")
    class_names: list[str] | None = Field(None, description="Names of box labels 0, 1, …; null: their digits.")
    classes: list[str] | None = Field(None, description="Use only patches of these classes.")
    shots: int | None = Field(None, ge=1, description="Draw this many patches per class, without replacement.")
    seed: int = Field(0, description="Seed of the draw of shots.")

    @model_validator(mode="after")
    def _labels_need_boxes(self) -> Patches:
        if self.around == "grid" and (self.shots is not None or self.classes is not None or self.class_names is not None):
            raise ValueError("patches on a grid have no classes; use around: boxes")
        return self

    def open(self) -> PatchTable:
        """Read every image once for its size and boxes. Raises UserError when there are none."""
        table = self.images.open()
        if self.around == "boxes" and "boxes" not in table.notes:
            raise UserError("source.around: boxes needs the column of boxes; set images.boxes (and images.box_labels)")
        places: list[tuple[int, int, int, int, int]] = []
        for index in range(len(table)):
            try:
                example = table.read(index)
            except Undecodable:
                continue
            places += [(index, *place) for place in self._places(example)]
        if not places:
            raise UserError("source: there are no patches; are the images' boxes empty?")
        rows = np.array(places, np.int64)
        labels = rows[:, 4].astype(np.int32)
        names = [] if self.around == "grid" else self.class_names or [str(number) for number in range(int(labels.max(initial=-1)) + 1)]
        if labels.max(initial=-1) >= len(names) and self.around == "boxes":
            raise UserError(f"source.class_names: label {labels.max()} has no name; {labels.max() + 1} are needed")
        return PatchTable(self, table, *self._choose(rows, labels, names))

    def _places(self, example: Example) -> list[tuple[int, int, int, int]]:
        """(x0, y0, side, label) of each patch of one image."""
        height, width = example.image.shape[:2]
        side = min(self.side, height, width)
        if self.around == "grid":
            stride = self.stride or max(1, side // 2)
            across, down = ([*range(0, length - side, stride), length - side] for length in (width, height))
            return [(x, y, side, -1) for y in down for x in across]
        notes = example.annotations
        if notes is None or notes.boxes is None:
            return []
        labels = np.zeros(len(notes.boxes), int) if notes.box_labels is None else notes.box_labels
        centres = np.stack([notes.boxes[:, [0, 2]].mean(1), notes.boxes[:, [1, 3]].mean(1)], axis=1)
        corners = np.clip(np.rint(centres - side / 2), 0, [width - side, height - side]).astype(int)
        return [(int(x), int(y), side, int(label)) for (x, y), label in zip(corners, labels, strict=True)]

    def _choose(self, rows: np.ndarray, labels: np.ndarray, names: list[str]) -> tuple[np.ndarray, np.ndarray, list[str]]:
        if self.classes is None and self.shots is None:
            return rows, labels, names
        unknown = [name for name in self.classes or [] if name not in names]
        if unknown:
            raise UserError(f"source.classes: there is no class {unknown[0]!r}; there are: {', '.join(names)}")
        kept = [number for number, name in enumerate(names) if self.classes is None or name in self.classes]
        chosen, renamed = [], []
        for new, number in enumerate(kept):
            found = np.flatnonzero(labels == number)
            if self.shots is not None:
                found = np.sort(seeds.rng(self.seed, "shots", names[number]).permutation(found)[: self.shots])
            chosen.append(found)
            renamed.append(np.full(len(found), new, np.int32))
        return rows[np.concatenate(chosen)], np.concatenate(renamed), [names[number] for number in kept]


@dataclass
class PatchTable:
    """A `Table` of patches. places: int64 [N, 5], image index, x0, y0, side and box label."""

    source: Patches
    images: Table
    places: np.ndarray
    labels: np.ndarray
    class_names: list[str]
    captions: list[str] | None = None
    notes: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        total = hashlib.sha256(json.dumps([self.images.fingerprint, self.class_names]).encode())
        total.update(self.places.tobytes() + self.labels.tobytes())
        self.fingerprint = total.hexdigest()
        marks: np.ndarray | None = getattr(self.images, "synthetic", None)
        self.synthetic = None if marks is None else marks[self.places[:, 0]]  # a patch of a generated image is generated
        self._held: OrderedDict[int, Example] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self.places)

    def read(self, index: int) -> Example:
        """Cut out one patch. Raises Undecodable, and IndexError past the end."""
        number, x, y, side, _ = self.places[index].tolist()
        whole = self._image(number)
        patch = np.ascontiguousarray(whole.image[y : y + side, x : x + side])
        key = hashlib.sha256(f"{whole.key} {x} {y} {side}".encode()).hexdigest()
        return Example(index=index, key=key, image=patch, label=int(self.labels[index]))

    def _image(self, number: int) -> Example:
        with self._lock:
            held = self._held.get(number)
        if held is None:
            held = self.images.read(number)
            with self._lock:
                self._held[number] = held
                while len(self._held) > HELD:
                    self._held.popitem(last=False)
        return held

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_held", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _held=OrderedDict(), _lock=Lock())
