"""Captions that are true of an image: its label, and attributes measured from its pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TONES = (("dark",), ("mid-toned", "grey"), ("bright", "light"))
PATTERNS = (("plain",), ("patterned", "textured"))
SHAPES = (("narrow",), ("medium",), ("wide", "broad"))
WORDS = (TONES, PATTERNS, SHAPES)

SCENES = (
    "a photo of a {}",
    "a photo of the {}",
    "a picture of a {}",
    "an image of a {}",
    "a {}",
    "the {}",
    "{}",
    "a small photo of a {}",
    "a close-up photo of a {}",
    "a cropped photo of a {}",
    "a good photo of a {}",
    "a bad photo of a {}",
    "a low resolution photo of a {}",
    "a blurry photo of a {}",
    "a black and white photo of a {}",
    "a greyscale photo of a {}",
    "a product photo of a {}",
    "a catalogue picture of a {}",
    "a studio photo of a {}",
    "a clean photo of a {}",
    "a rendering of a {}",
    "a drawing of a {}",
    "a sketch of a {}",
    "one {}",
    "a type of {}",
)
PLAIN_SCENES = 14  # the first ones are true of any photo
PLACES = (
    "on a plain background",
    "on a black background",
    "in a shop",
    "in a catalogue",
    "on a table",
    "on a shelf",
    "for sale",
    "worn by a person",
    "on a hanger",
    "on the floor",
    "seen from the front",
    "seen from the side",
    "fashion",
    "a type of clothing",
    "product shot",
    "in a store window",
)
NOUNS = ("item", "thing", "product", "piece of clothing", "fashion item")


@dataclass(frozen=True)
class Facts:
    """What is known of N images. values: int64 [N, 4]: label, tone, pattern, shape; each indexes its words.

    plain: captions keep to the class, its tone and scenes that are true of any image.
    """

    values: np.ndarray
    class_names: list[str]
    plain: bool = False

    def __len__(self) -> int:
        return len(self.values)


def measure(pixels: np.ndarray, labels: np.ndarray, class_names: list[str], words: str = "fashion") -> Facts:
    """uint8 [N, C, H, W], labels [N] -> Facts. Tone is the foreground's mean, pattern its local variance, shape the width
    to height ratio of its bounding box; the bins are thirds (pattern: the upper 40%) of these very images."""
    x = (pixels[:, 0] if pixels.shape[1] == 1 else pixels.mean(axis=1, dtype=np.float32)).astype(np.float32) / 255
    front: np.ndarray = x > 0.06
    area = front.sum((1, 2)).clip(1)
    tone = (x * front).sum((1, 2)) / area
    inner = front[:, 1:-1, 1:-1] & front[:, :-2, 1:-1] & front[:, 2:, 1:-1] & front[:, 1:-1, :-2] & front[:, 1:-1, 2:]
    centre = x[:, 1:-1, 1:-1]
    around = (x[:, :-2, 1:-1] + x[:, 2:, 1:-1] + x[:, 1:-1, :-2] + x[:, 1:-1, 2:]) / 4
    pattern = (((centre - around) ** 2) * inner).sum((1, 2)) / inner.sum((1, 2)).clip(1)
    ratio = _extent(np.asarray(front.any(1))) / _extent(np.asarray(front.any(2))).clip(1)
    bins = [_bins(tone, (1 / 3, 2 / 3)), _bins(pattern, (0.6,)), _bins(ratio, (1 / 3, 2 / 3))]
    return Facts(np.stack([labels, *bins], axis=1).astype(np.int64), [name.lower() for name in class_names], words == "plain")


def _extent(line: np.ndarray) -> np.ndarray:
    """bool [N, L] -> how far apart the first and last true entries are, counted inclusively."""
    length = line.shape[1]
    span = length - line[:, ::-1].argmax(1) - line.argmax(1)
    return np.where(line.any(1), span, 0).astype(np.float32)


def _bins(values: np.ndarray, shares: tuple[float, ...]) -> np.ndarray:
    return np.searchsorted(np.quantile(values, shares), values)


def draw(facts: Facts, index: int, rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """One true caption of an image, and what it claims: int64 [4], -1 where it is silent."""
    claim = np.full(4, -1)
    words: list[str] = []
    count = int(rng.choice(4, p=[0.4, 0.3, 0.2, 0.1]))
    if facts.plain:
        count = min(count, 1)
    for kind in [0] * count if facts.plain else sorted(rng.permutation(3)[:count]):
        claim[1 + kind] = facts.values[index, 1 + kind]
        words.append(str(rng.choice(WORDS[kind][claim[1 + kind]])))
    if count and not facts.plain and rng.random() < 0.15:
        words.append(str(rng.choice(NOUNS)))
    else:
        claim[0] = facts.values[index, 0]
        words.append(spelling(facts.class_names[claim[0]], rng))
    scenes = SCENES[:PLAIN_SCENES] if facts.plain else SCENES
    text = scenes[0 if rng.random() < 0.25 else rng.integers(len(scenes))].format(" ".join(words))
    return (f"{text}, {rng.choice(PLACES)}" if not facts.plain and rng.random() < 0.2 else text), claim


def spelling(name: str, rng: np.random.Generator) -> str:
    """A class name as people write it: 't-shirt/top' whole, or one of its alternatives."""
    parts = [name, *(part.strip() for part in name.split("/"))] if "/" in name else [name]
    return parts[int(rng.integers(len(parts)))]


def match(facts: np.ndarray, claims: np.ndarray) -> np.ndarray:
    """int64 [N, 4] and [M, 4] -> bool [N, M]: whether caption j is true of image i."""
    return ((claims[None] < 0) | (claims[None] == facts[:, None])).all(-1)


def corpus(class_names: list[str]) -> list[str]:
    """Text with every word that captions use: where the tokenizer's vocabulary comes from."""
    words = [word for kind in WORDS for synonyms in kind for word in synonyms]
    return [*(name.lower() for name in class_names), *words, *NOUNS, *PLACES, *(scene.format("") for scene in SCENES)]
