"""Images as the measurements see them: decoded once, small, digested, and with their features."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from factory import files, images, kinds
from factory.contracts import Condition, Source, Table
from factory.encoders import Encoder
from factory.errors import UserError
from factory.evaluate import copies, guards
from factory.evaluate.backbones import Backbone
from factory.records import Example
from factory.sources import readable

log = logging.getLogger("factory")
CHUNK, BYTES = 256, 1 << 28  # images decoded at once, and the most that they fill, but for one
Item = tuple[str, str, np.ndarray, int]  # id, content key, image, label


@dataclass(frozen=True)
class ImageSet:
    """Images of one kind, in order.

    ids, keys: names, and hex digests of the stored bytes.  pixels: a digest of each one's pixels.  labels: int [N], -1 unlabelled.
    small: uint8 [N, S, S, 3].  features: float32 [N, D].  clip: float32 [N, E] of unit length, or None.  read: an image at its own size.
    """

    ids: list[str]
    keys: list[str]
    pixels: list[bytes]
    labels: np.ndarray
    small: np.ndarray
    features: np.ndarray
    clip: np.ndarray | None
    read: Callable[[int], np.ndarray]

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def space(self) -> copies.Space:
        """Where copies are looked for."""
        return copies.space(self.features, self.small)


@dataclass(frozen=True)
class Eyes:
    """What every image is looked at with. side: of the small images.  clip: an opened CLIP, or None."""

    side: int
    backbone: Backbone
    clip: Encoder | None

    def look(self, items: Iterator[Item], read: Callable[[int], np.ndarray], what: str) -> ImageSet:
        """Digest and shrink every image, and take its features, which are kept in the cache by content. Raises UserError for none."""
        ids, keys, pixels, labels, small, features, clip = [], [], [], [], [], [], []
        for part in _chunks(items):
            pictures = [image for _, _, image, _ in part]
            digests = [guards.digest(picture) for picture in pictures]
            ids += [item[0] for item in part]
            keys += [item[1] for item in part]
            labels += [item[3] for item in part]
            pixels += digests
            small.append(np.stack([images.fit(picture, self.side, self.side) for picture in pictures]))
            features.append(_cached(self.backbone, digests, partial(self.backbone.features, pictures)))
            if self.clip is not None:
                clip.append(_cached(self.clip, digests, partial(self.clip.encode_images, pictures)))
        if not ids:
            raise UserError(f"there are no {what}")
        log.info("%d %s", len(ids), what)
        together = np.concatenate(clip) if clip else None
        return ImageSet(
            ids, keys, pixels, np.array(labels, np.int64), np.concatenate(small), np.concatenate(features), together, read
        )  # fmt: skip


def _chunks(items: Iterator[Item]) -> Iterator[list[Item]]:
    part: list[Item] = []
    for item in items:
        part.append(item)
        if len(part) == CHUNK or sum(image.nbytes for _, _, image, _ in part) >= BYTES:
            yield part
            part = []
    if part:
        yield part


def _cached(by: Backbone | Encoder, digests: Sequence[bytes], compute: Callable[[], np.ndarray]) -> np.ndarray:
    """What a backbone or an encoder makes of these images, float32 [N, dim], from the cache where another run has left it."""
    name = hashlib.sha256(b"\0".join([by.identity.encode(), *digests])).hexdigest()[:32]
    path = files.cache_folder() / "features" / name[:2] / f"{name}.npy"
    return files.array_once(path, (len(digests), by.dim), compute)


def opened(option: str, text: str, split: str, alone: bool = False) -> tuple[Source, Table]:
    """`of_text`, whose errors begin with the option that named the images."""
    try:
        return of_text(text, split, alone)
    except UserError as error:
        raise UserError(f"{option}: {str(error).removeprefix('source.dataset: ')}") from error


def of_text(text: str, split: str, alone: bool = False) -> tuple[Source, Table]:
    """The source, as it was opened, of real images named on the command line: a path, or a source as a recipe writes it, {dataset: …, split: …}. Raises UserError.

    split: which one is meant where the text does not say so.  alone: a set that has no such split is taken whole, as its `train`.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    value: Any = {"dataset": text}
    if text.lstrip().startswith("{"):
        try:
            value = YAML(typ="safe").load(text)
        except YAMLError as error:
            raise UserError(f"{text!r} is not a source: {str(error).splitlines()[0]}") from error
    try:
        source: Any = kinds.nested("sources", Source, value)
    except ValueError as error:
        raise UserError(f"{text}: {error}") from error
    if "split" not in type(source).model_fields or "split" in source.model_fields_set:
        return source, source.open()
    try:
        chosen = source.model_copy(update={"split": split})
        return chosen, chosen.open()
    except UserError:
        if not alone or split == "train":
            raise
        with contextlib.suppress(UserError):
            return source, source.open()
        raise


def digests(table: Table, what: str = "") -> Iterator[tuple[str, bytes]]:
    """(row number, pixel digest) of every image that can be decoded. what: they are, for a warning about each other one."""
    for row, example in readable(table, range(len(table)), what):
        yield str(row), guards.digest(example.image)


def libraries(condition: Condition) -> Iterator[tuple[str, Example]]:
    """(field and row, image) of everything in the sets that a condition searches beside its source (retrieval, propagation)."""
    for name in type(condition).model_fields:
        source = getattr(condition, name)
        if isinstance(source, Source):
            table = source.open()
            for row, example in readable(table, range(len(table))):  # the condition has left out without a word what cannot be decoded, too
                yield f"{name} {row}", example


def of_table(table: Table, rows: np.ndarray, eyes: Eyes, labels: np.ndarray, what: str) -> ImageSet:
    """Rows of a table under the labels given for all of its rows; what cannot be decoded is left out. ids are row numbers."""

    held: list[int] = []

    def items() -> Iterator[Item]:
        for row, example in readable(table, rows, f"the {what}"):
            held.append(row)
            yield str(row), example.key, example.image, int(labels[row])

    return eyes.look(items(), lambda place: table.read(held[place]).image, what)
