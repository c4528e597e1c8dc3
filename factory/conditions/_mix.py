"""Two images or two embeddings into one. λ is the share of the first."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from factory import seeds
from factory.augment import _geometry
from factory.images import to_pil
from factory.records import Annotations


def same_size(second: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, bool]:
    """The second image resized to the first's height and width where they differ, and whether they did."""
    if second.shape == first.shape:
        return second, False
    return np.asarray(to_pil(second).resize((first.shape[1], first.shape[0]), Image.Resampling.BICUBIC)), True


def mixup(first: np.ndarray, second: np.ndarray, lam: float) -> np.ndarray:
    """λ·first + (1−λ)·second, uint8 (Zhang et al. 2018, eq. 1)."""
    return np.rint(lam * first.astype(np.float32) + (1 - lam) * second.astype(np.float32)).astype(np.uint8)


def cut_window(shape: tuple[int, ...], lam: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A window (x0, y0, x1, y1) of the image's aspect and of area share 1−λ (Yun et al. 2019, eq. 2).

    It lies wholly inside, so that its share is 1−λ up to whole pixels; the paper's own is cut off at the borders and smaller.
    """
    height, width = shape[:2]
    h, w = round(height * math.sqrt(1 - lam)), round(width * math.sqrt(1 - lam))
    y0, x0 = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    return x0, y0, x0 + w, y0 + h


def cutmix(first: np.ndarray, second: np.ndarray, window: tuple[int, int, int, int]) -> np.ndarray:
    """The first with the second's window in the same place; arrays [H, W] or [H, W, 3]."""
    x0, y0, x1, y1 = window
    out = first.copy()
    out[y0:y1, x0:x1] = second[y0:y1, x0:x1]
    return out


def cutmix_notes(first: Annotations | None, second: Annotations | None, window: tuple[int, int, int, int]) -> Annotations | None:
    """What stays true of a CutMix: the masks cut alike; the boxes of either image of which at least half is in view.

    Both images must have the same notes; else the result could show an object that nothing marks.
    """
    if first is None or second is None:
        return None
    mask = None if first.mask is None or second.mask is None else cutmix(first.mask, second.mask, window)
    if first.boxes is None or second.boxes is None:
        return None if mask is None else Annotations(mask=mask)
    x0, y0, x1, y1 = window
    hidden = _geometry.area(np.clip(first.boxes, [x0, y0, x0, y0], [x1, y1, x1, y1]))
    stays = hidden <= 0.5 * _geometry.area(first.boxes)
    pasted, kept = _geometry.clip_boxes(second.boxes, window, 0.5)
    labels = None
    if first.box_labels is not None and second.box_labels is not None:
        labels = np.concatenate([first.box_labels[stays], second.box_labels[kept]])
    return Annotations(np.concatenate([first.boxes[stays], pasted]).astype(np.float32), labels, mask)


def embed_mixup(embeddings: np.ndarray, lam: float) -> np.ndarray:
    """λ·e1 + (1−λ)·e2 of float32 [2, D] -> [D]."""
    return (lam * embeddings[0] + (1 - lam) * embeddings[1]).astype(np.float32)


def embed_cutmix(embeddings: np.ndarray, lam: float, start: float) -> np.ndarray:
    """The first of float32 [2, D] with round((1−λ)·D) neighbouring features of the second, from ⌊start·D⌋ on and round the end.

    The cut is along the features of one request, so it does not depend on what else is in the batch.
    """
    size = embeddings.shape[1]
    places = (int(start * size) + np.arange(round((1 - lam) * size))) % size
    out = embeddings[0].astype(np.float32, copy=True)
    out[places] = embeddings[1][places]
    return out


def embed_slerp(embeddings: np.ndarray, lam: float) -> np.ndarray:
    """The point of float32 [2, D] on the arc between both directions, λ = 1 at the first; lengths are mixed linearly (Shoemake 1985)."""
    lengths = np.linalg.norm(embeddings, axis=1).astype(np.float64)
    first, second = (embeddings / lengths[:, None].clip(1e-12)).astype(np.float64)
    angle = np.arccos(np.clip(first @ second, -1, 1))
    if np.sin(angle) < 1e-6:
        return embed_mixup(embeddings, lam)
    arc = (np.sin(lam * angle) * first + np.sin((1 - lam) * angle) * second) / np.sin(angle)
    return (arc * (lam * lengths[0] + (1 - lam) * lengths[1])).astype(np.float32)


def jitter(embedding: np.ndarray, scale: float, seed: int) -> np.ndarray:
    """float32 [D] moved by Gaussian noise of expected length scale·‖e‖, and brought back to its length."""
    length = float(np.linalg.norm(embedding))
    noise = seeds.rng("embedding jitter", seed).standard_normal(len(embedding)) * (scale * length / len(embedding) ** 0.5)
    moved = embedding + noise
    return (moved * (length / max(float(np.linalg.norm(moved)), 1e-12))).astype(np.float32)


def embed_mean(embeddings: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The weighted sum of float32 [K, D], brought to the rows' mean length."""
    mixed = weights @ embeddings
    length = float(np.linalg.norm(embeddings, axis=1).mean())
    return (mixed * (length / max(float(np.linalg.norm(mixed)), 1e-12))).astype(np.float32)


def drop(embedding: np.ndarray, p: float, seed: int) -> np.ndarray:
    """float32 [D] with each entry set to 0 with probability p; the others are kept as they are, not scaled by 1/(1−p)."""
    return np.where(seeds.rng("embedding dropout", seed).random(len(embedding)) < p, 0, embedding).astype(np.float32)


def soft_label(first: np.ndarray | None, second: np.ndarray | None, share: float) -> np.ndarray | None:
    """The parents' soft labels in the proportion in which they were mixed, or None when either has none."""
    return None if first is None or second is None else (share * first + (1 - share) * second).astype(np.float32)
