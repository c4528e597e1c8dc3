"""Geometry and colour that vary smoothly over the image: random field augmentation, each parameter a Gaussian random field."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from factory.contracts import Augment
from factory.records import Annotations

# RGB -> luma and two chroma axes (the YIQ of NTSC): hue turns the chroma plane, saturation stretches it, brightness scales all.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]], np.float32)
_RGB = np.linalg.inv(_YIQ).astype(np.float32)


class GaussianRandomField(Augment):
    """Rotation, scale, shear, shift, hue, saturation and brightness, each with a field of its own in place of one number."""

    alpha: float = Field(5.0, ge=0, le=10, description="Power spectrum |k|^-alpha of the fields; 3 is ragged, 6 nearly one number.")
    rotation: float = Field(12.0, ge=0, description="Standard deviation, degrees.")
    scale: float = Field(0.1, ge=0, description="Standard deviation of the logarithm of the scale.")
    shear: float = Field(0.1, ge=0, description="Standard deviation, horizontal shift per vertical distance.")
    shift: float = Field(0.03, ge=0, description="Standard deviation, share of the shorter side.")
    hue: float = Field(12.0, ge=0, description="Standard deviation, degrees.")
    saturation: float = Field(0.2, ge=0, description="Standard deviation of the logarithm.")
    brightness: float = Field(0.12, ge=0, description="Standard deviation of the logarithm.")
    min_visible: float = Field(0.1, ge=0, le=1, description="Boxes of which a smaller share of the area stays in view are dropped.")

    def apply(
        self, image: np.ndarray, annotations: Annotations | None, rng: np.random.Generator
    ) -> tuple[np.ndarray, Annotations | None, dict[str, float | int | str]]:
        """Pixels are interpolated bilinearly, masks take the nearest. Records the seed of the fields and how far pixels moved at most."""
        seed = int(rng.integers(2**53))
        draws = np.random.Generator(np.random.Philox(key=seed))
        height, width = image.shape[:2]
        fields = {
            name: getattr(self, name) * gaussian_field((height, width), self.alpha, draws)
            for name in ("rotation", "scale", "shear", "hue", "saturation", "brightness")
        }
        shifts = [self.shift * min(height, width) * gaussian_field((height, width), self.alpha, draws) for _ in range(2)]
        y, x = _sources(fields, shifts)
        out = _coloured(_bilinear(image, y, x), fields)
        moved = float(np.hypot(y - np.arange(height)[:, None], x - np.arange(width)).max())
        return out, _moved(annotations, y, x, self.min_visible), {"seed": seed, "moved": round(moved, 3)}


def gaussian_field(shape: tuple[int, int], alpha: float, rng: np.random.Generator) -> np.ndarray:
    """float32 [H, W] with power spectrum |k|^-alpha, mean 0 and variance 1 over a torus of twice the sides, of which this is a part.

    Cut from a larger torus, so that opposite borders are not alike and a field may have a mean of its own, as a single number would.
    """
    sides = tuple(2 * side for side in shape)
    k = np.hypot(np.fft.fftfreq(sides[0])[:, None], np.fft.rfftfreq(sides[1])[None])
    amplitude = np.zeros_like(k)
    amplitude[k > 0] = k[k > 0] ** (-alpha / 2)
    field = np.fft.irfft2(np.fft.rfft2(rng.normal(size=sides)) * amplitude, s=sides)
    deviation = field.std()
    return (field[: shape[0], : shape[1]] / (deviation if deviation > 0 else 1)).astype(np.float32)


def _sources(fields: dict[str, np.ndarray], shifts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """For every output pixel the (y, x) that it shows, float32 [H, W] each."""
    height, width = shifts[0].shape
    dy, dx = np.meshgrid(np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2, indexing="ij")
    angle, zoom = np.radians(fields["rotation"]), np.exp(-fields["scale"])
    dx = dx + fields["shear"] * dy
    y = zoom * (np.cos(angle) * dy + np.sin(angle) * dx) + (height - 1) / 2 + shifts[0]
    x = zoom * (np.cos(angle) * dx - np.sin(angle) * dy) + (width - 1) / 2 + shifts[1]
    return y.astype(np.float32), x.astype(np.float32)


def _bilinear(image: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """float32 [H, W, 3] of the image at these places; outside, the border goes on."""
    height, width = image.shape[:2]
    y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
    y0, x0 = np.floor(y).astype(int), np.floor(x).astype(int)
    y1, x1 = np.minimum(y0 + 1, height - 1), np.minimum(x0 + 1, width - 1)
    fy, fx = (y - y0)[..., None], (x - x0)[..., None]
    top = image[y0, x0] * (1 - fx) + image[y0, x1] * fx
    low = image[y1, x0] * (1 - fx) + image[y1, x1] * fx
    return (top * (1 - fy) + low * fy).astype(np.float32)


def _coloured(pixels: np.ndarray, fields: dict[str, np.ndarray]) -> np.ndarray:
    luma, i, q = np.moveaxis(pixels @ _YIQ.T, -1, 0)
    angle, more = np.radians(fields["hue"]), np.exp(fields["saturation"])
    turned = np.stack([luma, more * (np.cos(angle) * i - np.sin(angle) * q), more * (np.sin(angle) * i + np.cos(angle) * q)], axis=-1)
    out = (turned @ _RGB.T) * np.exp(fields["brightness"])[..., None]
    return np.clip(np.rint(out), 0, 255).astype(np.uint8)


def _moved(notes: Annotations | None, y: np.ndarray, x: np.ndarray, min_visible: float) -> Annotations | None:
    """Masks by the nearest pixel; a box becomes the extent of the output pixels that show a place inside it."""
    if notes is None:
        return None
    height, width = y.shape
    mask = None
    if notes.mask is not None:
        mask = notes.mask[np.clip(np.rint(y).astype(int), 0, height - 1), np.clip(np.rint(x).astype(int), 0, width - 1)]
    if notes.boxes is None:
        return Annotations(mask=mask)
    boxes, kept = [], []
    for x0, y0, x1, y1 in notes.boxes.tolist():
        rows, columns = np.nonzero((x >= x0 - 0.5) & (x < x1 - 0.5) & (y >= y0 - 0.5) & (y < y1 - 0.5))
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else [0, 0, 0, 0]
        share = len(rows) / max((x1 - x0) * (y1 - y0), 1e-6)
        kept.append(len(rows) > 0 and share >= min_visible)
        boxes.append(box)
    keep = np.array(kept, bool)
    found = np.array(boxes, np.float32).reshape(-1, 4)[keep]
    return Annotations(found, None if notes.box_labels is None else notes.box_labels[keep], mask)
