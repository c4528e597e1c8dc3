"""The fidelity section: distances and diversity of the synthetic images, per class and overall, each beside what real images get."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from factory import seeds
from factory.diversity import vendi_score
from factory.encoders import Encoder
from factory.evaluate import fidelity
from factory.evaluate.backbones import INCEPTION
from factory.evaluate.sets import ImageSet

log = logging.getLogger("factory")
NEIGHBOURS = 5
MOST = 5000  # rows in one distance


def measure(
    made: ImageSet, real: ImageSet, backbone: str, class_names: Sequence[str], prompts: Sequence[str], clip: Encoder | None
) -> dict[str, Any]:
    """{backbone, rows}: the first row is overall, the others one a class; None where there are too few images, or no CLIP.

    The real images are cut in two: one half is what the synthetic images are compared with, the other half stands in their place for the
    floor. All samples of a row are of one size, since these numbers shrink or grow with it.
    """
    scores = None if clip is None else _scored(made, real, prompts, clip)
    rows = [_row(None, made, real, np.arange(len(made)), np.arange(len(real)), scores)]
    for label, name in enumerate(class_names):
        ours, theirs = np.flatnonzero(made.labels == label), np.flatnonzero(real.labels == label)
        if len(ours) and len(class_names) > 1:
            rows.append(_row(name, made, real, ours, theirs, scores))
            log.info("fidelity: %s", name)
    return {"backbone": name_of(backbone), "rows": rows}


def name_of(backbone: str) -> str:
    """What a Fréchet distance in this backbone may be called: FID for Inception alone."""
    return "Inception (FID, KID)" if backbone == INCEPTION else backbone


def clip_scores(images: np.ndarray, prompts: Sequence[str], clip: Encoder) -> np.ndarray:
    """100 · max(cosine of image and prompt, 0), float [N] (Hessel et al. 2021, arXiv 2104.08718, scaled as torchmetrics does); NaN for no prompt.

    images: the encoder's embeddings, float32 [N, E] of unit length.
    """
    texts = clip.encode_texts(list(prompts))
    values = 100 * np.maximum((images * texts).sum(1), 0)
    return np.where([bool(prompt.strip()) for prompt in prompts], values, np.nan)


def _scored(made: ImageSet, real: ImageSet, prompts: Sequence[str], clip: Encoder) -> dict[str, np.ndarray]:
    """CLIP scores of the synthetic images, and of real images of their classes under the same prompts; NaN where a class has none."""
    assert made.clip is not None and real.clip is not None
    rng = seeds.rng("fidelity", "clip_score")
    partner = np.full(len(made), -1)
    for label in np.unique(made.labels):
        own = np.flatnonzero(made.labels == label)
        some = np.flatnonzero(real.labels == label) if label >= 0 else np.arange(len(real))
        partner[own] = rng.permutation(np.resize(some, len(own))) if len(some) else -1
    theirs = np.where(partner[:, None] >= 0, real.clip[partner], np.nan)
    return {"clip_score": clip_scores(made.clip, prompts, clip), "clip_score_real": clip_scores(theirs, prompts, clip)}


def _row(
    name: str | None, made: ImageSet, real: ImageSet, ours: np.ndarray, theirs: np.ndarray, scores: dict[str, np.ndarray] | None
) -> dict[str, Any]:
    size = min(len(ours), len(theirs) // 2, MOST)
    row: dict[str, Any] = {"class": name}
    order = seeds.rng("fidelity", name or "").permutation(theirs)
    reference, other = order[:size], order[size : 2 * size]
    some = seeds.rng("fidelity", "synthetic", name or "").permutation(ours)[:size]
    features = [real.features[reference], made.features[some], real.features[other]]
    clips = None if made.clip is None or real.clip is None else [real.clip[reference], made.clip[some], real.clip[other]]
    row |= _pair("frechet", features, size, fidelity.frechet_distance)
    row |= _pair("kernel", features, size, fidelity.kernel_distance)
    row |= _pair("cmmd", clips, size, fidelity.clip_distance)
    found = {"": features[1], "_real": features[2]}
    for suffix, fake in found.items():
        near = fidelity.manifold(features[0], fake, NEIGHBOURS) if size > NEIGHBOURS else {}
        row |= {key + suffix: near.get(key) for key in ("precision", "recall", "density", "coverage")}
        row["vendi" + suffix] = vendi_score(fake) if size >= 2 else None
    for key in ("clip_score", "clip_score_real"):
        own = np.full(1, np.nan) if scores is None else scores[key][ours]
        row[key] = None if np.isnan(own).all() else float(np.nanmean(own))
    return row


def _pair(
    name: str, parts: list[np.ndarray] | None, size: int, distance: Callable[[np.ndarray, np.ndarray], float]
) -> dict[str, float | None]:
    """A distance from reference images to synthetic ones, and to other real ones. parts: features of the three, `size` rows each."""
    if parts is None or size < 2:
        return {name: None, f"{name}_real": None}
    return {name: distance(parts[0], parts[1]), f"{name}_real": distance(parts[0], parts[2])}
