"""Pictures of what a representation-guided model makes while it learns: images of the set, and variations of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from factory import images
from factory.models.guided import RepresentationDiffusionPipeline
from factory.train.encoded import Arrays
from factory.train.prepared import Prepared

PARENTS, CHILDREN = 8, 5  # rows of the picture, and variations in each
STEPS = 20  # sampling steps
GAP, APART = 2, 4  # pixels between pictures, and more between a parent and its children
SIDE = 96  # pixels that smaller pictures are enlarged to


def write(pipe: RepresentationDiffusionPipeline, data: Prepared, arrays: Arrays, path: Path) -> None:
    """A row for each of some images, evenly spread over the set: the image, then variations of it with the seeds 0, 1, 2, …"""
    rows = np.linspace(0, len(data) - 1, min(PARENTS, len(data))).astype(int)
    embeds = arrays.conditions(np.zeros(len(rows), int), rows).repeat_interleave(CHILDREN, 0)
    embeds = embeds if embeds.shape[1] > 1 else embeds[:, 0]
    generators = [torch.Generator().manual_seed(number) for number in range(len(embeds))]
    made = pipe(image_embeds=embeds, generator=generators, num_inference_steps=STEPS, output_type="np", return_dict=False)
    real = data.seen(rows, arrays.symmetries[0, rows]).numpy().transpose(0, 2, 3, 1)
    sheet = _sheet(real, images.from_output(made))
    zoom = max(1, SIDE // max(real.shape[1:3]))
    path.parent.mkdir(parents=True, exist_ok=True)
    images.to_pil(np.repeat(np.repeat(sheet, zoom, 0), zoom, 1)).save(path)


def _sheet(real: np.ndarray, made: list[np.ndarray]) -> np.ndarray:
    """uint8 [N, H, W, 1 or 3] and N · CHILDREN pictures [H, W, 3] -> uint8, on white."""
    height, width = made[0].shape[:2]
    down, across = height + GAP, width + GAP
    sheet = np.full((len(real) * down, (CHILDREN + 1) * across + APART, 3), 255, np.uint8)
    for number, parent in enumerate(real):
        top = number * down
        for column, picture in enumerate([parent, *made[number * CHILDREN : (number + 1) * CHILDREN]]):
            left = column * across + (APART if column else 0)
            sheet[top : top + height, left : left + width] = picture  # grey ones are broadcast
    return sheet
