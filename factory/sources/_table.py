"""What all sources share: the keys of a recipe's `source:`, the choice of rows, the fingerprint, and reading one row."""

from __future__ import annotations

import hashlib
import json
import logging
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from factory import images, seeds
from factory.cells import near, value_at
from factory.contracts import Source
from factory.errors import Undecodable, UserError
from factory.records import Example
from factory.sources import _columns, _content

log = logging.getLogger(__name__)


class TableSource(Source):
    """The keys of every source. Column names may reach into a struct with dots: `objects.bbox`."""

    dataset: str = Field(description="A file, folder or glob, relative to the current folder, or a dataset id on the Hub.")
    split: str = Field("train", description="Which split; a slice such as 'train[:10%]' is allowed where files are tables.")
    image: str = Field("image", description="Column with the image.")
    label: str | None = Field("label", description="Column with the class (ClassLabel, integer or text); null for unlabelled images.")
    class_names: list[str] | None = Field(None, description="Names for integer labels 0, 1, …, or the order of text labels.")
    classes: list[str] | None = Field(None, description="Use only these classes; they keep the order of the dataset.")
    shots: int | None = Field(None, ge=1, description="Draw this many images per class, without replacement.")
    seed: int = Field(0, description="Seed of the draw of shots.")
    caption: str | None = Field(None, description="Column with a caption (text, or a list of which the first is taken).")
    soft_label: str | None = Field(None, description="Column with one number per class; scaled to sum 1. For soft or multi-label targets.")
    mask: str | None = Field(None, description="Column with a mask as large as the image: class or instance numbers, 0 is background.")
    boxes: str | None = Field(None, description="Column with a list of boxes in pixels; see box_format.")
    box_format: Literal["xyxy", "xywh"] = Field("xyxy", description="xyxy: [x0, y0, x1, y1]; xywh: [x0, y0, width, height], as COCO.")
    box_labels: str | None = Field(None, description="Column with one integer per box.")

    @model_validator(mode="after")
    def _keys_go_together(self) -> TableSource:
        if self.label is None and (self.shots is not None or self.classes is not None or self.class_names is not None):
            raise ValueError("shots, classes and class_names need a label column")
        if self.box_labels is not None and self.boxes is None:
            raise ValueError("box_labels needs boxes")
        if self.soft_label is not None and self.classes is not None:
            raise ValueError("classes cannot cut a soft_label, which has one number for each class of the dataset")
        return self

    @abstractmethod
    def _load(self) -> Any:
        """The split as a `datasets.Dataset`, images undecoded. Raises UserError."""

    def root(self) -> Path | None:
        """The folder where relative paths in cells are looked for first; None where these are none of the format's."""
        return None

    def open(self) -> DatasetTable:
        """Find the rows without decoding them.

        Reads the stored bytes of the chosen rows once, for the fingerprint. Raises UserError for a missing column, class or split.
        """
        data = self._load().with_format("arrow")
        where = f"source {self.dataset!r}, split {self.split!r}"
        columns = {key: getattr(self, key) for key in ("image", "label", "caption", "soft_label", "mask", "boxes", "box_labels")}
        for key, name in columns.items():
            if name is not None:
                _columns.require(data.features, name, key, where)
        synthetic = _marked(data, where)
        if self.label is None:
            index, labels, names = np.arange(len(data)), np.full(len(data), -1, np.int32), list[str]()
        else:
            values = _columns.column(data, self.label)
            labels, names = _columns.labels(values, _columns.feature_at(data.features, self.label), self.class_names, where)
            index, labels, names = self._choose(labels, names, where)
        if len(index) == 0:
            raise UserError(f"{where}: there are no images")
        captions = _first_texts(_columns.column(data, self.caption), index) if self.caption is not None else None
        tops = list(dict.fromkeys(_columns.root(data.features, name) for name in columns.values() if name is not None))
        return DatasetTable(self, data.select_columns(tops), index, labels, names, captions, synthetic[index])

    def _choose(self, labels: np.ndarray, names: list[str], where: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """The rows that `classes` and `shots` leave, in the order of the dataset, with labels renumbered to the kept classes."""
        for name in self.classes or []:
            if name not in names:
                raise UserError(f"{where}: there is no class {name!r}{near(name, names)}; there are: {', '.join(names)}")
        kept = [number for number, name in enumerate(names) if self.classes is None or name in self.classes]
        chosen = [] if self.shots is not None or self.classes is not None else [np.flatnonzero(labels < 0)]
        for number in kept:
            rows = np.flatnonzero(labels == number)
            if len(rows) == 0:
                raise UserError(f"{where}: class {names[number]!r} has no image; leave it out with `classes`, or use another split")
            if self.shots is not None and len(rows) < self.shots:
                log.warning("%s: class %r has %d images, fewer than %d shots", where, names[number], len(rows), self.shots)
            if self.shots is not None:  # by name, so that `classes` does not change which images are drawn
                rows = seeds.rng(self.seed, "shots", names[number]).permutation(rows)[: self.shots]
            chosen.append(rows)
        index = np.sort(np.concatenate(chosen)) if chosen else np.empty(0, np.int64)
        renumber = np.full(len(names) + 1, -1, np.int32)  # the last entry is where label -1 points
        renumber[kept] = np.arange(len(kept))
        return index, renumber[labels[index]], [names[number] for number in kept]


def _marked(data: Any, where: str) -> np.ndarray:
    """Which rows say that they were generated, bool [N]. Raise UserError for those of a generated test set: they never pass for real images."""
    if "synthetic" not in data.features:
        return np.zeros(len(data), bool)
    marks = _columns.column(data, "synthetic")
    count = marks.count("stress_test")
    if count:
        raise UserError(
            f"{where}: {count} of {len(marks)} rows are a generated stress test (column `synthetic`); use real images as the source"
        )
    return np.array([bool(mark) for mark in marks], bool)


class DatasetTable:
    """A `Table` over a `datasets.Dataset` in Arrow format; rows are read and decoded one at a time, from any thread.

    fingerprint: sha256 over the class names and, for every chosen row in order, its content hash, label and caption, and its masks,
    boxes and soft labels where they are named. Beyond 50,000
    chosen rows that are files on disk, a file's name relative to their common folder and its size stand for its content.
    synthetic: bool [N], rows that carry the mark of a factory's export.
    """

    def __init__(
        self,
        source: TableSource,
        rows: Any,
        index: np.ndarray,
        labels: np.ndarray,
        names: list[str],
        captions: list[str] | None,
        synthetic: np.ndarray,
    ):
        self._source, self._rows, self._index = source, rows, index
        self._root = source.root()
        self.notes = frozenset(key for key in ("caption", "soft_label", "mask", "boxes") if getattr(source, key) is not None)
        self.class_names, self.labels, self.captions, self.synthetic = names, labels, captions, synthetic
        self.fingerprint = self._fingerprint()

    def __len__(self) -> int:
        return len(self._index)

    def read(self, index: int) -> Example:
        """Decode one row. Raises Undecodable for a missing or damaged image or mask, and IndexError past the end."""
        source, row = self._source, self._rows[int(self._index[index])].to_pylist()[0]

        def cell(name: str | None) -> Any:
            return None if name is None else value_at(row, name)

        data = _content.stored_bytes(_content.placed(cell(source.image), self._root))
        image = images.decode(data)
        mask = (
            None
            if cell(source.mask) is None
            else _content.mask(_content.placed(cell(source.mask), self._root), (image.shape[0], image.shape[1]))
        )
        boxes = None if source.boxes is None else _content.boxes(cell(source.boxes), source.box_format)
        return Example(
            index=index,
            key=hashlib.sha256(data).hexdigest(),
            image=image,
            label=int(self.labels[index]),
            caption=None if self.captions is None else self.captions[index],
            soft_label=self._soft(cell(source.soft_label)),
            annotations=_content.notes(mask, boxes, cell(source.box_labels)),
        )

    def _soft(self, values: list[float] | None) -> np.ndarray | None:
        if values is None:
            return None
        soft = np.nan_to_num(np.asarray(values, np.float32))
        if self.class_names and len(soft) != len(self.class_names):
            raise Undecodable(f"soft_label has {len(soft)} numbers for {len(self.class_names)} classes")
        return soft / soft.sum() if soft.sum() > 0 else None

    def _fingerprint(self) -> str:
        total = hashlib.sha256(json.dumps(self.class_names).encode())
        captions = self.captions or [""] * len(self)
        for content, label, caption in zip(self._contents(), self.labels, captions, strict=True):
            total.update(f"{content}\x1e{label}\x1e{caption}\x1d".encode())
        for key in ("soft_label", "mask", "boxes", "box_labels"):
            self._update_with_targets(total, key)
        return total.hexdigest()

    def _update_with_targets(self, total: Any, key: str) -> None:
        """What children inherit is part of the source: its cells, and how boxes are written."""
        name = getattr(self._source, key)
        if name is None:
            return
        total.update(f"{key}\x1e{self._source.box_format if key == 'boxes' else ''}\x1d".encode())
        top = _columns.root(self._rows.features, name)
        for batch in _batches(self._rows.select_columns([top]), self._index, top):
            cells = [_content.placed(value_at({top: value}, name), self._root if key == "mask" else None) for value in batch]
            for digest in _content.digests(cells) if key == "mask" else map(repr, cells):
                total.update(f"{digest}\x1d".encode())

    def _contents(self) -> Iterator[str]:
        """A digest per chosen row, in order."""
        source = self._source
        first = value_at(self._rows[int(self._index[0])].to_pylist()[0], source.image)
        top = _columns.root(self._rows.features, source.image)
        cells = self._rows.select_columns([top])

        def at(value: Any) -> Any:
            return _content.placed(value_at({top: value}, source.image), self._root)

        if len(self) > _content.HASH_FILES_UP_TO and _content.file_path(first):
            every = (at(value) for batch in _batches(cells, self._index, top) for value in batch)
            yield from _content.sizes([_content.file_path(cell) or "" for cell in every])
            return
        for batch in _batches(cells, self._index, top):
            yield from _content.digests([at(value) for value in batch])


def _batches(rows: Any, index: np.ndarray, name: str, size: int = 500) -> Iterator[list[Any]]:
    """The cells of one column at the given rows, some hundreds at a time: whole images are in memory meanwhile."""
    for start in range(0, len(index), size):
        part = index[start : start + size]
        run = part[-1] - part[0] + 1 == len(part)  # a slice costs nothing, a gather copies
        yield rows[int(part[0]) : int(part[-1]) + 1].column(name).to_pylist() if run else rows[part.tolist()].column(name).to_pylist()


def _first_texts(values: list[Any], index: np.ndarray) -> list[str]:
    chosen = (values[row] for row in index)
    return [str((value[0] if value else "") if isinstance(value, list) else value if value is not None else "") for value in chosen]
