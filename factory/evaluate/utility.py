"""Does it help? The same classifier trained with and without synthetic images, and tested on real ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from factory.errors import UserError
from factory.evaluate import guards
from factory.evaluate.backbones import Backbone
from factory.evaluate.statistics import interval, paired

Arm = Literal["real", "real_strong", "real_synthetic", "synthetic", "linear_probe"]
ARMS: tuple[Arm, ...] = get_args(Arm)
_NEED_SYNTHETIC = ("real_synthetic", "synthetic")
BASELINE: Arm = "real_strong"


@dataclass(frozen=True)
class Synthetic:
    """Generated images to train on.

    images: uint8 [M, H, W, 3] of the real images' size.  labels: int [M], or probabilities [M, classes].
    parents: for each, indices of the real images it was made from; None where no real image was looked at.
    """

    images: np.ndarray
    labels: np.ndarray
    parents: Sequence[Sequence[int]] | None


@dataclass(frozen=True)
class Outcome:
    """rows: {arm, labels_per_class, seed, accuracy, per_class}, accuracies in [0, 1] and None for a class that is not tested.

    summary: for each arm {arm, labels_per_class, accuracy_mean, ci95, seeds, gain, gain_ci95}; the gain is over real + strong augmentation
    with the same seed, and None where that arm was not run.
    """

    rows: list[dict[str, Any]]
    summary: list[dict[str, Any]]


def run(
    real: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    synthetic: Synthetic | Callable[[int, np.ndarray], Synthetic] | None = None,
    *,
    draw: Callable[[np.ndarray, int], np.ndarray] | None = None,
    arms: Sequence[Arm] | None = None,
    seeds: Sequence[int] = range(5),
    training: Any = None,
    backbone: Backbone | None = None,
    on_row: Callable[[dict[str, Any]], None] | None = None,
) -> Outcome:
    """Train every arm for every seed and test it on the real test images.

    real, test: uint8 [N, H, W, 3] of one size.  labels, test_labels: int [N], classes from 0.
    synthetic: one set for all seeds, or a function of (seed, drawn indices) where each draw has its own.
    draw: (labels, seed) -> indices of the real images that this seed may use, such as partial(protocols.few_shot, shots=5); all by default.
    arms: all that can be run by default: those with synthetic images need them, the linear probe needs a backbone.
    training: a classifiers.Training.  on_row: is told every row as it is made.
    Raises UserError where a training image is a test image, or where a synthetic image has a parent outside the draw.
    """
    from factory.evaluate.classifiers import Training

    training = training or Training()
    arms = _arms(arms, synthetic is not None, backbone is not None)
    classes = int(max(labels.max(), test_labels.max())) + 1
    test_digests = guards.digests(test)
    test_features = backbone.features(test) if backbone and "linear_probe" in arms else None
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        drawn = np.arange(len(labels)) if draw is None else draw(labels, seed)
        guards.require_disjoint(guards.digests(real[drawn]), test_digests, "drawn real image")
        made = synthetic(seed, drawn) if callable(synthetic) else synthetic
        if made is not None:
            _check(made, drawn, test_digests, real.shape[1:])
        trial = _Trial(real[drawn], labels[drawn], made, test, test_features, classes, training, backbone)
        for arm in arms:
            per_class = _per_class(trial.logits(arm, seed).argmax(1), test_labels, classes)
            share = np.bincount(test_labels, minlength=classes) / len(test_labels)
            row = {"arm": arm, "labels_per_class": round(len(drawn) / classes, 2), "seed": int(seed)}
            row |= {"accuracy": float((np.nan_to_num(per_class) * share).sum())}
            rows.append({**row, "per_class": [None if np.isnan(value) else float(value) for value in per_class]})
            if on_row is not None:
                on_row(rows[-1])
    return Outcome(rows, summarise(rows))


def summarise(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of any number of arms and labels a class -> one entry for each pair, in order of first appearance; see Outcome."""
    groups: dict[tuple[str, float], dict[int, float]] = {}
    for row in rows:
        groups.setdefault((row["arm"], row["labels_per_class"]), {})[row["seed"]] = row["accuracy"]
    return [_summary(arm, amount, found, groups.get((BASELINE, amount))) for (arm, amount), found in groups.items()]


def _summary(arm: str, amount: float, found: dict[int, float], base: dict[int, float] | None) -> dict[str, Any]:
    own = interval(list(found.values()))
    entry = {"arm": arm, "labels_per_class": amount, "accuracy_mean": own.mean, "ci95": own.half, "seeds": own.size}
    both = [seed for seed in found if base is not None and seed in base]
    gain = paired([found[s] for s in both], [base[s] for s in both]) if base and both and arm != BASELINE else None
    return {**entry, "gain": gain.mean if gain else None, "gain_ci95": gain.half if gain else None}


@dataclass(frozen=True)
class _Trial:
    """The images of one seed; every arm trains on some of them."""

    real: np.ndarray
    labels: np.ndarray
    made: Synthetic | None
    test: np.ndarray
    test_features: np.ndarray | None
    classes: int
    training: Any
    backbone: Backbone | None

    def logits(self, arm: Arm, seed: int) -> np.ndarray:
        from factory.evaluate.classifiers import linear_probe, small_network

        if arm == "linear_probe":
            assert self.backbone is not None and self.test_features is not None
            return linear_probe(self.backbone.features(self.real), self.labels, self.test_features, self.classes, seed)
        if arm == "synthetic":
            assert self.made is not None
            return small_network(self.made.images, self.made.labels, self.test, self.classes, self.training, seed)
        training = replace(self.training, augmentation="none") if arm == "real" else self.training
        with_made = (self.made.images, self.made.labels) if arm == "real_synthetic" and self.made is not None else (None, None)
        return small_network(self.real, self.labels, self.test, self.classes, training, seed, *with_made)


def _arms(asked: Sequence[Arm] | None, synthetic: bool, backbone: bool) -> Sequence[Arm]:
    able = [arm for arm in ARMS if (synthetic or arm not in _NEED_SYNTHETIC) and (backbone or arm != "linear_probe")]
    for arm in asked or ():
        if arm not in ARMS:
            raise UserError(f"there is no arm {arm!r}; there are: {', '.join(ARMS)}")
        if arm not in able:
            raise UserError(f"arm {arm} needs {'a backbone' if arm == 'linear_probe' else 'synthetic images'}, and there is none")
    return able if asked is None else asked


def _check(made: Synthetic, drawn: np.ndarray, test_digests: list[bytes], shape: tuple[int, ...]) -> None:
    if made.images.shape[1:] != shape:
        raise UserError(f"synthetic images are {list(made.images.shape[1:])} and real ones {list(shape)}; resize one of them")
    guards.require_disjoint(guards.digests(made.images), test_digests, "synthetic image")
    if made.parents is not None:
        if len(made.parents) != len(made.images):
            raise UserError(f"{len(made.parents)} lists of parents for {len(made.images)} synthetic images; there must be one for each")
        guards.require_parents(made.parents, drawn)


def _per_class(predicted: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Accuracy of each class, float [classes]; NaN for one that is not tested."""
    counts = np.bincount(truth, minlength=classes)
    right = np.bincount(truth[predicted == truth], minlength=classes)
    return np.where(counts > 0, right / np.maximum(1, counts), np.nan)
