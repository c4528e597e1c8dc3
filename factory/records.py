"""The nouns that travel between rooms: plain frozen types, no models, no files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Annotations:
    """What is known about places in an image; geometry that moves pixels moves these too.

    boxes: float32 [K, 4], x0 y0 x1 y1 in pixels.  box_labels: int64 [K].  mask: int32 [H, W], 0 is background.
    """

    boxes: np.ndarray | None = None
    box_labels: np.ndarray | None = None
    mask: np.ndarray | None = None

    def resized(self, old: tuple[int, int], new: tuple[int, int]) -> Annotations:
        """The same places in an image stretched from (height, width) to another; masks by nearest neighbour."""
        if old == new:
            return self
        scale = np.array([new[1] / old[1], new[0] / old[0]] * 2, np.float32)
        boxes = None if self.boxes is None else (self.boxes * scale).astype(np.float32)
        if self.mask is None:
            return Annotations(boxes, self.box_labels)
        rows, columns = ((np.arange(n) + 0.5) * o / n for o, n in zip(old, new, strict=True))
        return Annotations(boxes, self.box_labels, self.mask[np.ix_(rows.astype(int), columns.astype(int))])


@dataclass(frozen=True, slots=True)
class Example:
    """One real image.

    image: uint8 [H, W, 3] RGB.  label: class index, -1 unlabelled.  soft_label: float32 [C], sums to 1, when the target is
    soft or multi-label.  key: hex content hash of the stored bytes.
    """

    index: int
    key: str
    image: np.ndarray
    label: int = -1
    caption: str | None = None
    soft_label: np.ndarray | None = None
    annotations: Annotations | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One wanted image: the `ordinal`-th of its class, and everything drawn for it by the plan.

    label: class index, -1 unlabelled.  seed: 63-bit, its own.  parents: source indices, possibly empty.
    classes: how many classes the dataset has.  generator: which of the recipe's generators makes it.
    sweep: the settings of its cell where the recipe sweeps some, name -> value.
    """

    id: str
    label: int
    ordinal: int
    seed: int
    prompt: str
    parents: tuple[int, ...] = ()
    classes: int = 0
    generator: int = 0
    sweep: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a condition hands a generator for one request.

    prompt: text, or None where the condition does not use text.
    label: class index for class-conditional pipelines, or None.
    images: uint8 [H, W, 3] each; how a generator uses them is the condition's `needs`.
    combine: embeddings float32 [len(images), D] -> float32 [D]; None takes the first image's embedding as it is.
    tokens: with several images and no combine, each is a condition token of its own where the pipeline takes several, and their
    embeddings are averaged where it takes one.
    embedding: float32 [tokens, D], the embedding itself in place of images and combine, or None.
    strength: SDEdit strength in (0, 1], or None.  guidance: guidance scale in place of the generator's own, or None.
    adapter_scale: scale of the image-prompt adapter, >= 0, or None for the generator's own.
    control: uint8 [H, W, 3], a control image, or None.  mask: uint8 [H, W] of images[0], 255 where it is repainted, or None.
    annotations / soft_label: what the child inherits, already moved with the pixels.
    record: what was drawn (λ, boxes, transforms), so that one image can be replayed; JSON scalars only.
    """

    prompt: str | None = None
    label: int | None = None
    images: tuple[np.ndarray, ...] = ()
    combine: Callable[[np.ndarray], np.ndarray] | None = None
    tokens: bool = False
    embedding: np.ndarray | None = None
    strength: float | None = None
    guidance: float | None = None
    adapter_scale: float | None = None
    control: np.ndarray | None = None
    mask: np.ndarray | None = None
    annotations: Annotations | None = None
    soft_label: np.ndarray | None = None
    record: dict[str, float | int | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Samples:
    """A batch of made (or found) images, as filters see it.

    images: uint8 [H, W, 3] each, or None where the bytes could not be decoded.
    labels: int32 [N], -1 unlabelled.  parents: per sample the parent Examples, possibly empty.
    """

    ids: list[str]
    images: list[np.ndarray | None]
    labels: np.ndarray
    prompts: list[str]
    parents: list[tuple[Example, ...]]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Sequence[int] | np.ndarray) -> Samples:
        """Some of the samples, in the order asked."""
        chosen = [int(row) for row in rows]

        def some(values: Any) -> Any:
            return values[np.asarray(chosen, int)] if isinstance(values, np.ndarray) else [values[row] for row in chosen]

        return Samples(**{each.name: some(getattr(self, each.name)) for each in fields(self)})


@dataclass(frozen=True, slots=True)
class Cut:
    """One shard of a corpus: rows [start, stop) of one place.

    place: a file's name relative to the corpus, or empty where rows are counted over the whole.  stop: -1 for all rows to the end,
    however many there are (a tar tells only when it is read).
    """

    name: str
    place: str
    start: int
    stop: int

    def __len__(self) -> int:
        """Rows, or 0 where that is not known before reading."""
        return max(self.stop - self.start, 0)


@dataclass(frozen=True, slots=True)
class Found:
    """One row of a corpus as it stands, undecoded.

    id: names the row for as long as the corpus keeps its files.  image: file bytes, or where they are (a path or URL).
    label: the class as text, None unlabelled.  columns: every other column, where they were asked for.
    fault: a slug where the row itself could not be read, and `detail` a sentence about it.
    """

    id: str
    image: bytes | str | None = None
    label: str | None = None
    caption: str | None = None
    columns: dict[str, Any] = field(default_factory=dict)
    fault: str = ""
    detail: str = ""


def evenly(count: int, most: int) -> np.ndarray:
    """At most so many of `count` places, evenly spread from the first to the last, int64 in order; all of them where there are no more."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def class_name(class_names: Sequence[str], label: int) -> str:
    """A label in words, -1 too; all rows of an unlabelled set are one class."""
    return class_names[label] if 0 <= label < len(class_names) else "(unlabelled)" if class_names else "(all)"
