"""Whether the images of one call stay apart: some pipelines lay the first image's mask or background over the whole batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from factory.records import Inputs

if TYPE_CHECKING:
    from factory.generators._pipeline import OpenDiffusers

SEEDS, SIDE, STEPS = (1, 2), 64, 4
MIXED = (
    0.03  # of the difference between two images; rounding in a batch of another shape was below 0.001 in every family tried, bfloat16 too
)


def mixes(opened: OpenDiffusers, needs: frozenset[str]) -> bool | None:
    """Whether the second of two made together differs from the same made alone. Takes a few steps of denoising, twice.

    None where these cannot be made: at another size they may, else the first real batch will say why.
    """
    both = [_request(needs, seed) for seed in SEEDS]
    try:
        first, second = opened.generate(SEEDS, both)
        if opened.alone:
            return False
        alone = opened.generate(SEEDS[1:], both[1:])[0]
    except Exception:  # code of any author at a size that it may not know: what is a real failure comes back with the first real batch
        return None
    return bool(_distance(alone, second) > MIXED * _distance(first, second))


def _request(needs: frozenset[str], seed: int) -> Inputs:
    """Noise pictures, of which half is to be repainted."""
    rng = np.random.default_rng(seed)
    picture, control = rng.integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:, : SIDE // 2] = 255
    return Inputs(
        prompt="a photo" if "text" in needs else None,
        label=0,
        images=(picture,) if needs & {"image", "mask", "image_embedding"} else (),
        strength=0.5 if "image" in needs else None,
        control=control if "control" in needs else None,
        mask=mask if "mask" in needs else None,
    )


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(np.float32) - other).mean())
