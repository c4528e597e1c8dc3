"""Which part of an image is repainted: uint8 [H, W], 255 where it is."""

from __future__ import annotations

import numpy as np

from factory.records import Annotations


def of_object(notes: Annotations) -> np.ndarray:
    """The object's pixels: mask > 0."""
    assert notes.mask is not None
    return np.where(notes.mask > 0, 255, 0).astype(np.uint8)


def of_boxes(notes: Annotations, shape: tuple[int, int]) -> np.ndarray:
    """The inside of all boxes."""
    assert notes.boxes is not None
    out = np.zeros(shape, np.uint8)
    for x0, y0, x1, y1 in np.rint(notes.boxes).astype(int).tolist():
        out[max(y0, 0) : y1, max(x0, 0) : x1] = 255
    return out


def rectangle(shape: tuple[int, int], share: float, rng: np.random.Generator) -> np.ndarray:
    """A rectangle of that share of the area, of the image's aspect up to a factor of 2, anywhere inside."""
    stretch = np.exp(rng.uniform(-np.log(2) / 2, np.log(2) / 2))
    height = int(np.clip(round(shape[0] * np.sqrt(share) * stretch), 1, shape[0]))
    width = int(np.clip(round(shape[1] * np.sqrt(share) / stretch), 1, shape[1]))
    y0, x0 = int(rng.integers(shape[0] - height + 1)), int(rng.integers(shape[1] - width + 1))
    out = np.zeros(shape, np.uint8)
    out[y0 : y0 + height, x0 : x0 + width] = 255
    return out


def dilated(mask: np.ndarray, pixels: int) -> np.ndarray:
    """The mask grown by so many pixels on all sides."""
    if pixels == 0:
        return mask
    import cv2

    return np.asarray(cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1, 2 * pixels + 1))), np.uint8)
