"""Real parents beside their synthetic children, as one picture."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw, ImageFont

from factory import images
from factory.contracts import Table
from factory.errors import Undecodable
from factory.select import Selection
from factory.store import Store, write_atomically

CLASSES, GROUPS = 12, 5  # rows and parent-child groups per row at most
CELL, GAP, MARGIN, LABEL = 72, 4, 16, 120
PAPER, INK, QUIET, REAL = (250, 250, 248), (30, 30, 30), (120, 120, 120), (214, 120, 40)

Group = tuple[list[np.ndarray], np.ndarray]


def of_run(store: Store, table: Table, shards: list[str], selection: Selection | None) -> Path | None:
    """The first children of each class (only kept ones when there is a selection), with their parents. None when there are none."""
    groups: dict[int, list[Group]] = defaultdict(list)
    wanted = min(len(table.class_names) or 1, CLASSES)
    at = 0
    for shard in shards:
        rows = store.read_shard(shard, ["image", "label", "parent_rows"])
        keep = selection.keep[at : at + rows.num_rows] if selection is not None else np.ones(rows.num_rows, bool)
        at += rows.num_rows
        _collect(groups, rows, keep, table)
        if sum(len(own) >= GROUPS for own in groups.values()) >= wanted:
            break
    if not groups:
        return None
    names = {label: table.class_names[label] if label >= 0 else "" for label in sorted(groups)[:CLASSES]}
    path = store.folder / "contact_sheet.png"
    picture = draw({names[label]: groups[label] for label in names}, store.folder.name)
    write_atomically(path, lambda p: picture.save(p, "PNG"))
    return path


def _collect(groups: dict[int, list[Group]], rows: pa.Table, keep: np.ndarray, table: Table) -> None:
    labels = rows["label"].to_numpy()
    for i in np.flatnonzero(keep):
        own = groups[int(labels[i])]
        if len(own) >= GROUPS:
            continue
        parents = [_real(table, index) for index in rows["parent_rows"][int(i)].as_py()]
        own.append(([p for p in parents if p is not None], images.decode(rows["image"][int(i)].as_py())))


def _real(table: Table, index: int) -> np.ndarray | None:
    try:
        return table.read(index).image
    except Undecodable:
        return None


def draw(classes: dict[str, list[Group]], title: str) -> Image.Image:
    """Class name -> groups of (parents, child), all uint8 [H, W, 3]; parents are framed in orange."""
    most = max((len(parents) for own in classes.values() for parents, _ in own), default=0)
    group_width = (most + 1) * (CELL + GAP) + 3 * GAP
    width = 2 * MARGIN + LABEL + GROUPS * group_width
    height = 2 * MARGIN + 34 + len(classes) * (CELL + 2 * GAP)
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN - 4), title, INK, ImageFont.load_default(18))
    legend = "orange frame: real parent   no frame: synthetic child" if most else "synthetic images"
    pen.text((MARGIN + LABEL, MARGIN), legend, QUIET, ImageFont.load_default(13))
    for row, (name, own) in enumerate(classes.items()):
        y = MARGIN + 34 + row * (CELL + 2 * GAP)
        pen.text((MARGIN, y + CELL // 2 - 8), name[:16], INK, ImageFont.load_default(13))
        for column, (parents, child) in enumerate(own[:GROUPS]):
            x = MARGIN + LABEL + column * group_width
            for parent in parents:
                pen.rectangle((x - 2, y - 2, x + CELL + 1, y + CELL + 1), fill=REAL)
                sheet.paste(_thumbnail(parent), (x, y))
                x += CELL + GAP
            sheet.paste(_thumbnail(child), (x, y))
    return sheet


def _thumbnail(image: np.ndarray) -> Image.Image:
    """Square, CELL wide, the whole image on paper; small images grow by whole pixels so that they stay honest."""
    picture = images.to_pil(image)
    scale = CELL / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
    cell = Image.new("RGB", (CELL, CELL), PAPER)
    cell.paste(picture, ((CELL - size[0]) // 2, (CELL - size[1]) // 2))
    return cell
