"""The memorisation section: the nearest real training image of every synthetic one, the worst pairs as pictures, and a gate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from factory import contact_sheet
from factory.evaluate import copies
from factory.evaluate.copies import Nearest
from factory.evaluate.sets import ImageSet
from factory.files import write_atomically

SHEET = 24
CELL, GAP, TEXT = 112, 8, 18


def measure(
    made: ImageSet, real: ImageSet, floor: Nearest, backbone: str, threshold: float, pairs: int, folder: Path, there_are: int | None = None
) -> dict[str, Any]:  # fmt: skip
    """The section; pictures go to folder/evaluation/.

    A ratio is the distance to the nearest real training image over the distance of that image to the nearest other one. Real test images,
    which no generator has seen, show what to expect: `ratio_median_real` and `share_closer_than_real_floor`. The gate passes when no more of the
    synthetic images than of the test images are copies (ratio below the threshold).

    floor: of test images that are no real training images, since others tell nothing of unseen ones.
    there_are: real training images in all, where `real` is a sample of them: copies of the others are not found, and the gate's text says so.
    """
    found = copies.nearest(made.space, real.space)
    copied, expected = int((found.ratio < threshold).sum()), float((floor.ratio < threshold).mean())
    passed = copied <= expected * len(made)
    of = f"{copied} of {len(made)} synthetic images are copies of real training images (ratio below {threshold:g}"
    text = f"{of}; of real test images {expected:.2%} are)" + ("" if passed else "; filter them out before publishing")
    if there_are is not None and there_are > len(real):
        text += f". Only {len(real)} of the {there_are} real training images were compared with; more with --set reference={there_are}"
    worst = np.argsort(found.ratio, kind="stable")[:pairs]
    return {
        "backbone": backbone,
        "compared_with": len(real),
        "ratio_median": float(np.median(found.ratio)),
        "ratio_median_real": float(np.median(floor.ratio)),
        "share_closer_than_real": float((found.ratio < 1).mean()),
        "share_closer_than_real_floor": float((floor.ratio < 1).mean()),
        "gate": {
            "passed": bool(passed),
            "threshold": threshold,
            "text": text,
            "ids": [made.ids[i] for i in np.flatnonzero(found.ratio < threshold)],
        },
        "pairs": _pictures(made, real, found, worst, folder),
    }


def _pictures(made: ImageSet, real: ImageSet, found: copies.Nearest, worst: np.ndarray, folder: Path) -> list[dict[str, Any]]:
    (folder / "evaluation").mkdir(parents=True, exist_ok=True)
    drawn, listed = [], []
    for number, place in enumerate(worst.tolist()):
        row = int(found.row[place])
        name = f"evaluation/pair_{number:03d}.png"
        drawn.append(pair(made.read(place), real.read(row), f"{made.ids[place]}  {found.ratio[place]:.2f}"))
        _save(drawn[-1], folder / name)
        facts = {"id": made.ids[place], "real": int(real.ids[row]), "distance": float(found.distance[place])}
        listed.append({**facts, "ratio": float(found.ratio[place]), "picture": name})
    for stale in sorted((folder / "evaluation").glob("pair_*.png"))[len(listed) :]:
        stale.unlink()
    if drawn:
        _save(_sheet(drawn[:SHEET]), folder / "evaluation" / "worst_pairs.png")
    return listed


def pair(synthetic: np.ndarray, real: np.ndarray, text: str) -> Image.Image:
    """A synthetic image and, framed in orange, its nearest real one, uint8 [H, W, 3] each."""
    picture = Image.new("RGB", (2 * CELL + 3 * GAP, CELL + 2 * GAP + TEXT), contact_sheet.PAPER)
    pen = ImageDraw.Draw(picture)
    right = CELL + 2 * GAP
    pen.rectangle((right - 3, GAP - 3, right + CELL + 2, GAP + CELL + 2), fill=contact_sheet.REAL)
    for left, image in ((GAP, synthetic), (right, real)):
        picture.paste(contact_sheet.thumbnail(image, CELL), (left, GAP))
    pen.text((GAP, CELL + GAP + 5), text, contact_sheet.INK, ImageFont.load_default(12))
    return picture


def _sheet(pictures: list[Image.Image]) -> Image.Image:
    width, height = pictures[0].size
    columns = min(4, len(pictures))
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height + 28), contact_sheet.PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text(
        (GAP, 6), "synthetic, and its nearest real training image (orange); the ratio", contact_sheet.QUIET, ImageFont.load_default(13)
    )
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (number % columns * width, 28 + number // columns * height))
    return sheet


def _save(picture: Image.Image, path: Path) -> None:
    write_atomically(path, lambda p: picture.save(p, "PNG"))
