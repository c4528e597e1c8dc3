"""Real parents beside their synthetic children, or plain images, as one picture."""

from __future__ import annotations

import contextlib
import functools
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from factory import images
from factory.contracts import Table
from factory.files import write_atomically
from factory.sources import readable
from factory.store import Store

CLASSES, GROUPS = 12, 5  # rows and parent-child groups per row at most
COLUMNS = 8  # of images without parents
CELL, GAP, MARGIN, LABEL = 72, 4, 16, 120
PAPER, INK, QUIET, REAL = (250, 250, 248), (30, 30, 30), (120, 120, 120), (214, 120, 40)

SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "Arial Unicode.ttf",
    "arialuni.ttf",
    "msyh.ttc",
    "segoeui.ttf",
)
MISSING = "\uffff"  # no letter, by the standard

Group = tuple[list[np.ndarray], np.ndarray]


def of_run(store: Store, table: Table, shards: list[str], labels: np.ndarray | None = None, keep: np.ndarray | None = None) -> Path | None:
    """The first children of the first classes, with their parents. None when there are none.

    labels, keep: int32 [N] and bool [N] over all rows of the shards, to show kept ones only; without them every row counts, and the
    shards should be few.
    """
    if labels is None:
        labels = np.concatenate([store.read_shard(shard, ["label"])["label"].to_numpy() for shard in shards] or [np.zeros(0, np.int32)])
    shown = np.flatnonzero(keep) if keep is not None else np.arange(len(labels))
    chosen = {int(label): shown[labels[shown] == label][:GROUPS] for label in np.unique(labels[shown])[:CLASSES]}
    if not chosen:
        return None
    records = store.records(shards, np.concatenate(list(chosen.values())), ["image", "parent_rows"])
    children = {row: _group(table, record) for row, record in records.items()}
    groups = {table.class_names[label] if label >= 0 else "": [children[int(row)] for row in rows] for label, rows in chosen.items()}
    path = store.folder / "contact_sheet.png"
    picture = draw(groups, store.folder.name)
    write_atomically(path, lambda p: picture.save(p, "PNG"))
    return path


def _group(table: Table, record: dict[str, Any]) -> Group:
    """A stored row with those of its parents that can be read."""
    return [parent.image for _, parent in readable(table, record["parent_rows"])], images.decode(record["image"])


def _shortened(text: str, room: float, font: Any) -> str:
    """As much of a text as fits into `room` pixels."""
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + "…") > room:
        text = text[:-1]
    return text + "…"


def draw(classes: dict[str, list[Group]], title: str) -> Image.Image:
    """Class name -> groups of (parents, child), all uint8 [H, W, 3]; parents are framed in orange."""
    most = max((len(parents) for own in classes.values() for parents, _ in own), default=0)
    group_width = (most + 1) * (CELL + GAP) + 3 * GAP
    width = 2 * MARGIN + LABEL + GROUPS * group_width
    height = 2 * MARGIN + 34 + len(classes) * (CELL + 2 * GAP)
    legend = "orange frame: real parent   no frame: synthetic child" if most else "synthetic images"
    sheet, pen = _sheet(width, height, title, legend)
    for row, (name, own) in enumerate(classes.items()):
        y = MARGIN + 34 + row * (CELL + 2 * GAP)
        _write(pen, (MARGIN, y + CELL // 2 - 8), name[:16], INK)
        for column, (parents, child) in enumerate(own[:GROUPS]):
            x = MARGIN + LABEL + column * group_width
            for parent in parents:
                pen.rectangle((x - 2, y - 2, x + CELL + 1, y + CELL + 1), fill=REAL)
                sheet.paste(thumbnail(parent), (x, y))
                x += CELL + GAP
            sheet.paste(thumbnail(child), (x, y))
    return sheet


def grid(groups: Sequence[tuple[str, str, Sequence[Image.Image]]], title: str, legend: str) -> Image.Image:
    """(name, note, what `thumbnail` gives of its images) of each group, in lines of eight, as many as it takes."""
    lines = [-(-len(own) // COLUMNS) for _, _, own in groups]
    columns = min(COLUMNS, max(5, *(len(own) for _, _, own in groups)))  # the title needs five
    sheet, pen = _sheet(2 * MARGIN + LABEL + columns * (CELL + GAP), 2 * MARGIN + 34 + sum(lines) * (CELL + GAP), title, legend)
    y = MARGIN + 34
    for (name, note, own), count in zip(groups, lines, strict=True):
        _write(pen, (MARGIN, y + CELL // 2 - 16), name, INK, room=LABEL - GAP)
        _write(pen, (MARGIN, y + CELL // 2 + 2), note, QUIET, room=LABEL - GAP)
        for place, picture in enumerate(own):
            line, column = divmod(place, COLUMNS)
            sheet.paste(picture, (MARGIN + LABEL + column * (CELL + GAP), y + line * (CELL + GAP)))
        y += count * (CELL + GAP)
    return sheet


def _sheet(width: int, height: int, title: str, legend: str) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Paper with a title and, at its right end, a legend."""
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    left = width - MARGIN - pen.textlength(legend, ImageFont.load_default(13))
    _write(pen, (left, MARGIN), legend, QUIET)
    _write(pen, (MARGIN, MARGIN - 4), title, INK, 18, left - 2 * MARGIN)
    return sheet, pen


def _write(
    pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, ink: tuple[int, int, int], size: int = 13, room: float = np.inf
) -> None:
    """A text in the first font of this machine that has its letters; a letter that none has is written as its plain one, or as `?`."""
    fonts = [ImageFont.load_default(size)] if text.isascii() else [ImageFont.load_default(size), *_system_fonts(size)]
    font = max(fonts, key=lambda one: sum(_has(one, letter) for letter in text))
    plain = (letter if _has(font, letter) else unicodedata.normalize("NFKD", letter)[0] for letter in text)
    shown = "".join(letter if _has(font, letter) else "?" for letter in plain)
    pen.text(place, _shortened(shown, room, font), ink, font)


@functools.lru_cache
def _system_fonts(size: int) -> list[Any]:
    """Fonts with many scripts, as far as they are installed where Pillow looks for fonts."""
    found = []
    for name in SYSTEM_FONTS:
        with contextlib.suppress(OSError):
            found.append(ImageFont.truetype(name, size))
    return found


def _has(font: Any, letter: str) -> bool:
    """Whether a font has a letter: the sign for what is missing is drawn in place of any other."""
    return letter.isspace() or bytes(font.getmask(letter)) != bytes(font.getmask(MISSING))


def thumbnail(image: np.ndarray, side: int = CELL) -> Image.Image:
    """Square, `side` wide, the whole image on paper; small images grow by whole pixels so that they stay honest."""
    picture = images.to_pil(image)
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
    cell = Image.new("RGB", (side, side), PAPER)
    cell.paste(picture, ((side - size[0]) // 2, (side - size[1]) // 2))
    return cell
