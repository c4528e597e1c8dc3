"""Does it help? What one training may see and is asked about, kept apart, and the network that every arm of the comparison trains."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from factory.errors import UserError
from factory.evaluate import guards

Arm = Literal["real", "real_strong", "real_synthetic", "synthetic"]
ARMS: tuple[Arm, ...] = get_args(Arm)


@dataclass(frozen=True)
class Part:
    """Labelled images as a classifier sees them.

    images: all of one size, uint8 [N, H, W, 3], or features of them, float32 [N, D].  labels: int [N], or probabilities [N, classes].
    pixels: a digest of each one's pixels, whatever `images` are.
    """

    images: np.ndarray
    labels: np.ndarray
    pixels: Sequence[bytes]

    @property
    def fingerprint(self) -> str:
        """Hex digest of pixels and labels."""
        return hashlib.sha256(b"".join(self.pixels) + self.labels.tobytes()).hexdigest()


def part(images: np.ndarray, labels: np.ndarray) -> Part:
    """Images, uint8 [N, H, W, 3], with their own digests."""
    return Part(images, labels, [guards.digest(image) for image in images])


@dataclass(frozen=True)
class Split:
    """Real images to train on, real images to be tested on, and synthetic images to train on, if any. There is none with a leak.

    parents: for each synthetic image the numbers of the real images that it was made from; None where it can have no others than `real`.
    drawn: the numbers of `real`.  Raises UserError where a training image is a test image, or a parent was not drawn.
    """

    real: Part
    test: Part
    made: Part | None = None
    parents: Sequence[Collection[int]] | None = None
    drawn: Iterable[int] = ()

    def __post_init__(self) -> None:
        guards.require_disjoint(self.real.pixels, self.test.pixels, "drawn real image")
        if self.made is None:
            return
        ours, theirs = (list(one.images.shape[1:]) for one in (self.made, self.real))
        if ours != theirs:
            raise UserError(f"synthetic images are {ours} and real ones {theirs}; resize one of them")
        guards.require_disjoint(self.made.pixels, self.test.pixels, "synthetic image")
        if self.parents is not None:
            images, lists = len(self.made.images), len(self.parents)
            if lists != images:
                raise UserError(f"{lists} lists of parents for {images} synthetic images; there must be one for each")
            guards.require_parents(self.parents, self.drawn)

    def network(self, arm: Arm, classes: int, training: Any, seed: int) -> np.ndarray:
        """Train the small network of an arm and return its logits on the test images, float32 [M, classes].

        training: a classifiers.Training, of which every arm takes what `of_arm` says.  Raises UserError where the arm needs synthetic
        images and there are none.
        """
        from factory.evaluate.classifiers import small_network

        own = self.made if arm == "synthetic" else self.real
        beside = self.made if arm == "real_synthetic" else None
        if own is None or (beside is None and arm == "real_synthetic"):
            raise UserError(f"arm {arm} needs synthetic images, and there are none")
        more = (beside.images, beside.labels) if beside else ()
        return small_network(own.images, own.labels, self.test.images, classes, of_arm(arm, training), seed, *more)


def of_arm(arm: Arm, training: Any) -> Any:
    """A classifiers.Training as an arm takes it: `real` is without augmentation."""
    return replace(training, augmentation="none") if arm == "real" else training
