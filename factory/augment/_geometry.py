"""Moves of pixels that take boxes and masks along."""

from __future__ import annotations

import numpy as np
from PIL import Image

from factory.images import to_pil
from factory.records import Annotations


def crop_resize(
    image: np.ndarray, notes: Annotations | None, window: tuple[int, int, int, int], size: tuple[int, int], min_visible: float
) -> tuple[np.ndarray, Annotations | None]:
    """The window (x0, y0, x1, y1) of an image, enlarged to size (height, width): bicubic for pixels, nearest for masks."""
    height, width = size
    out = np.asarray(to_pil(image).resize((width, height), Image.Resampling.BICUBIC, box=window))
    if notes is None:
        return out, None
    x0, y0, x1, y1 = window
    mask = None
    if notes.mask is not None:  # Pillow cannot resize every integer mask; nearest is a choice of rows and columns
        rows = y0 + np.floor((np.arange(height) + 0.5) * (y1 - y0) / height).astype(int)
        columns = x0 + np.floor((np.arange(width) + 0.5) * (x1 - x0) / width).astype(int)
        mask = notes.mask[np.ix_(rows, columns)]
    if notes.boxes is None:
        return out, Annotations(mask=mask)
    boxes, kept = clip_boxes(notes.boxes, window, min_visible)
    boxes = (boxes - [x0, y0, x0, y0]) * np.array([width / (x1 - x0), height / (y1 - y0)] * 2)
    return out, Annotations(boxes.astype(np.float32), None if notes.box_labels is None else notes.box_labels[kept], mask)


def clip_boxes(boxes: np.ndarray, window: tuple[float, float, float, float], min_visible: float) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [K, 4] cut to a window, without those of which less than a share min_visible stays -> (boxes [M, 4], kept bool [K])."""
    x0, y0, x1, y1 = window
    cut = np.clip(boxes, [x0, y0, x0, y0], [x1, y1, x1, y1])
    before, after = area(boxes), area(cut)
    kept = (after > 0) & (after >= min_visible * before)
    return cut[kept], kept


def area(boxes: np.ndarray) -> np.ndarray:
    """float [K] of boxes [K, 4]."""
    return np.maximum(boxes[:, 2] - boxes[:, 0], 0) * np.maximum(boxes[:, 3] - boxes[:, 1], 0)


def mirror(image: np.ndarray, notes: Annotations | None) -> tuple[np.ndarray, Annotations | None]:
    """Left and right exchanged."""
    out = np.ascontiguousarray(image[:, ::-1])
    if notes is None:
        return out, None
    boxes = notes.boxes
    if boxes is not None:
        width = image.shape[1]
        boxes = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1).astype(np.float32)
    mask = None if notes.mask is None else np.ascontiguousarray(notes.mask[:, ::-1])
    return out, Annotations(boxes, notes.box_labels, mask)
