"""The same picture moved: how like two images are once one is shifted, turned, zoomed or mirrored onto the other.

By the enhanced correlation coefficient of grey values (Evangelidis and Psarakis 2008, "Parametric image alignment using enhanced correlation
coefficient maximization"), from no movement; what is more than a camera's hand could do counts as no match.
"""

from __future__ import annotations

import numpy as np

SIDE = 32  # pixels of the grey images that are registered
BLUR = 3  # pixels: what interpolation leaves of a movement is smaller
ALL = np.full((SIDE, SIDE), 255, np.uint8)  # no part is masked
STEPS, EPSILON = 30, 1e-3
TURN, ZOOM, SKEW, SHIFT = 15.0, 1.35, 1.15, 0.2  # most: degrees, factor either way, of one axis over the other, of a side


def grey(images: np.ndarray) -> np.ndarray:
    """uint8 [N, S, S, 3] -> uint8 [N, 32, 32]."""
    import cv2

    out = np.empty((len(images), SIDE, SIDE), np.uint8)
    for place, image in zip(out, images, strict=True):
        how = cv2.INTER_AREA if len(image) > SIDE else cv2.INTER_CUBIC
        place[:] = cv2.resize(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY), (SIDE, SIDE), interpolation=how)
    return out


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """0 for the same picture to 2, of two uint8 [32, 32]: the distance of unit vectors without brightness and contrast, registered or not."""
    found = 2.0
    for face in (one, np.ascontiguousarray(one[:, ::-1])):
        found = min(found, _apart(_correlation(face, other)), _apart(_registered(face, other)))
    return found


def _apart(correlation: float) -> float:
    return max(0.0, 2 - 2 * correlation) ** 0.5


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """As they lie; -1 where one of them is of one colour."""
    import cv2

    a, b = (cv2.GaussianBlur(x, (BLUR, BLUR), 0).astype(np.float32) for x in (one, other))
    a, b = a - a.mean(), b - b.mean()
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a * b).sum()) / length if length else -1.0


def _registered(one: np.ndarray, other: np.ndarray) -> float:
    """Of the part that both show; -1 where no small movement brings them together."""
    import cv2

    enough = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, STEPS, EPSILON)
    try:
        found, warp = cv2.findTransformECC(other, one, np.eye(2, 3, dtype=np.float32), cv2.MOTION_AFFINE, enough, ALL, BLUR)
    except cv2.error as error:
        if error.code != cv2.Error.StsNoConv:
            raise
        return -1.0  # as with most strangers
    return float(found) if np.isfinite(found) and np.isfinite(warp).all() and _small(warp) else -1.0


def _small(warp: np.ndarray) -> bool:
    """Whether an affine [2, 3] is a slight shift, turn and zoom."""
    left, sizes, right = np.linalg.svd(warp[:, :2])
    turn = left @ right
    degrees = abs(np.degrees(np.arctan2(turn[1, 0], turn[0, 0])))
    centre = np.full(2, SIDE / 2)
    moved = np.abs(warp[:, :2] @ centre + warp[:, 2] - centre).max()
    return bool(
        np.linalg.det(warp[:, :2]) > 0
        and degrees <= TURN
        and sizes[1] >= 1 / ZOOM
        and sizes[0] <= ZOOM
        and sizes[0] <= SKEW * sizes[1]
        and moved <= SHIFT * SIDE
    )
