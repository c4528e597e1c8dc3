"""The judges of utility: a small network trained from scratch, and a linear probe on frozen features; each returns logits on a test set."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.transforms import v2

from factory import seeds
from factory.errors import UserError

Flips = Literal["none", "horizontal", "dihedral"]
Augmentation = Literal["none", "strong"]
Mix = Literal["none", "mixup", "cutmix"]
HALVE_ABOVE = 40  # pixels a side from which the stem halves the image, so that 64 pixels cost about what 32 do


@dataclass(frozen=True)
class Training:
    """How the small network is trained; the same in every arm of a comparison.

    steps, batch: of the optimizer and images in each.  width: channels of the first layer; the last has 8 times as many.
    augmentation: "strong" is a crop, flips where allowed, two random operations and a cut-out.  flips: what leaves a label true.
    balanced: Balanced Softmax (Ren et al. 2020, arXiv 2007.10740) for a long tail.
    mix: after the augmentation every image and label is mixed with another of its batch, by MixUp (Zhang et al. 2018, arXiv 1710.09412) or
    CutMix (Yun et al. 2019, arXiv 1905.04899), the share drawn from Beta(1, 1).
    """

    steps: int = 1000
    batch: int = 128
    width: int = 16
    lr: float = 2e-3
    weight_decay: float = 0.05
    smoothing: float = 0.05
    augmentation: Augmentation = "strong"
    flips: Flips = "horizontal"
    balanced: bool = False
    mix: Mix = "none"


class SmallNetwork(nn.Module):
    """A residual network with batch normalisation for images of 28 to 64 pixels: three halvings, 0.3 M parameters at width 16."""

    def __init__(self, channels: int, classes: int, width: int, halve_first: bool):
        super().__init__()
        self.stem = _convolution(channels, width, 2 if halve_first else 1)
        widths = [width * 2**i for i in range(4)]
        self.downs = nn.ModuleList(_convolution(a, b, 2) for a, b in pairwise(widths))
        self.blocks = nn.ModuleList(_convolution(b, b, 1) for b in widths[1:])
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised [N, C, H, W] -> logits [N, classes]."""
        x = F.relu(self.stem(x))
        for down, block in zip(self.downs, self.blocks, strict=True):
            x = F.relu(down(x))
            x = x + F.relu(block(x))
        return self.head(F.dropout(x.mean((2, 3)), 0.1, self.training))


def _convolution(before: int, after: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after))


def small_network(
    images: np.ndarray, labels: np.ndarray, test: np.ndarray, classes: int, training: Training, seed: int,
    synthetic: np.ndarray | None = None, synthetic_labels: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Train from scratch and return float32 logits [M, classes] on the test images.

    images, synthetic, test: uint8 [N, H, W, 3] of one size.  labels: int [N], or probabilities [N, classes].
    Where synthetic images are given, half of every batch is real and half synthetic; the number of steps does not change.
    Deterministic in `seed` on one machine with one number of threads.
    """
    streams = [_Stream(images, labels, classes, seed, "real")]
    if synthetic is not None and synthetic_labels is not None:
        streams.append(_Stream(synthetic, synthetic_labels, classes, seed, "synthetic"))
    look = _Look(images)
    prior = torch.stack([stream.targets.mean(0) for stream in streams]).mean(0).clamp_min(1e-8).log()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(seeds.rng(seed, "network").integers(2**62)))
        network = SmallNetwork(look.channels, classes, training.width, max(images.shape[1:3]) > HALVE_ABOVE)
        network = network.to(memory_format=torch.channels_last).train()
        _fit(network, streams, look, prior if training.balanced else None, training)
    network.eval()
    with torch.inference_mode():
        return np.concatenate([network(look(test[i : i + 500])).numpy() for i in range(0, len(test), 500)])


def _fit(network: nn.Module, streams: list[_Stream], look: _Look, prior: torch.Tensor | None, training: Training) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=training.lr, weight_decay=training.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, training.lr, training.steps, pct_start=0.1)
    augment = strong(training.flips, look.channels) if training.augmentation == "strong" else nn.Identity()
    mix = {"none": None, "mixup": v2.MixUp(), "cutmix": v2.CutMix()}[training.mix]
    share = training.batch // len(streams)
    for _ in range(training.steps):
        parts = [stream.next(share) for stream in streams]
        pixels, targets = np.concatenate([p[0] for p in parts]), torch.cat([p[1] for p in parts])
        x = look(pixels, augment)
        if mix is not None:
            x, targets = mix(x, targets)
        logits = network(x)
        if prior is not None:
            logits = logits + prior
        loss = F.cross_entropy(logits, targets, label_smoothing=training.smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()


class _Stream:
    """Rows of one kind of images for ever, each once before any comes again."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, classes: int, seed: int, name: str):
        if not len(images) or len(images) != len(labels):
            raise UserError(f"{len(images)} {name} training images with {len(labels)} labels; there must be as many of both, and some")
        self.images, self.targets = images, soft(labels, classes)
        self._rng, self._order = seeds.rng(seed, "batches", name), np.zeros(0, np.int64)

    def next(self, count: int) -> tuple[np.ndarray, torch.Tensor]:
        while len(self._order) < count:
            self._order = np.concatenate([self._order, self._rng.permutation(len(self.images))])
        rows, self._order = self._order[:count], self._order[count:]
        return self.images[rows], self.targets[rows]


class _Look:
    """What the network sees of uint8 images: grey in one channel where the real images are grey, normalised by their mean and spread."""

    def __init__(self, images: np.ndarray):
        self.channels = 1 if (images == images[..., :1]).all() else 3
        values = self._floats(images)
        self._mean, self._std = values.mean(), values.std().clamp_min(1e-3)

    def __call__(self, images: np.ndarray, augment: nn.Module | None = None) -> torch.Tensor:
        x = self._floats(images)
        x = x if augment is None else augment(x)
        return ((x - self._mean) / self._std).contiguous(memory_format=torch.channels_last)

    def _floats(self, images: np.ndarray) -> torch.Tensor:
        x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
        return x.mean(1, keepdim=True) if self.channels == 1 else x


def soft(labels: np.ndarray, classes: int) -> torch.Tensor:
    """int [N], or probabilities [N, classes] -> float [N, classes] whose rows sum to 1. Raises UserError for anything else."""
    labels = np.asarray(labels)
    if labels.ndim == 1 and (not len(labels) or (labels.min() >= 0 and labels.max() < classes)):
        return F.one_hot(torch.from_numpy(labels.astype(np.int64)), classes).float()
    if labels.ndim == 2 and labels.shape[1] == classes and np.allclose(labels.sum(1), 1, atol=1e-3) and labels.min() >= 0:
        return torch.from_numpy(labels.astype(np.float32))
    raise UserError(f"labels of shape {list(labels.shape)} are neither classes 0 to {classes - 1} nor {classes} probabilities a row")


def strong(flips: Flips, channels: int) -> nn.Module:
    """Crop, flips, two of the RandAugment operations (Cubuk et al. 2020, arXiv 1909.13719) and a cut-out, on float [N, C, H, W] in [0, 1].

    The two operations change from batch to batch and their magnitude from image to image.
    """
    try:
        import kornia.augmentation as K
    except ImportError as error:
        raise UserError("strong augmentation needs kornia; run `pip install synthetic-dataset-factory[evaluate]`") from error
    p: dict[str, Any] = {"p": 0.8}
    two = [
        K.RandomRotation(30.0, **p),
        K.RandomShear((-17.0, 17.0, -17.0, 17.0), **p),
        K.RandomAffine(0.0, translate=(0.2, 0.2), **p),
        K.RandomAffine(0.0, scale=(0.75, 1.25), **p),
        K.RandomBrightness((0.5, 1.5), **p),
        K.RandomContrast((0.5, 1.5), **p),
        K.RandomGamma((0.5, 2.0), **p),
        K.RandomSharpness(1.0, **p),
        K.RandomSolarize(0.1, 0.1, **p),
        K.RandomPosterize((3.0, 7.0), **p),
        K.RandomAutoContrast(**p),
    ]
    if channels == 3:
        two += [K.RandomSaturation((0.2, 1.8), **p), K.RandomHue((-0.1, 0.1), **p)]
    steps: list[Any] = [_Crop()]
    if flips != "none":
        steps.append(K.RandomHorizontalFlip(p=0.5))
    if flips == "dihedral":
        steps += [K.RandomVerticalFlip(p=0.5), K.RandomRotation90((0, 3), p=1.0)]
    return nn.Sequential(*steps, K.ImageSequential(*two, random_apply=2), K.RandomErasing((0.02, 0.2), (0.4, 2.5), p=0.5))


class _Crop(nn.Module):
    """A random part of 0.5 to 1 of each image, resized to the image's own size."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        import kornia.augmentation as K

        return K.RandomResizedCrop((x.shape[2], x.shape[3]), scale=(0.5, 1.0), ratio=(0.8, 1.25), p=1.0)(x)


def linear_probe(
    features: np.ndarray, labels: np.ndarray, test_features: np.ndarray, classes: int, seed: int = 0,
    strength: float | None = None, weights: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Logistic regression on frozen features -> float32 logits [M, classes]; a class without training images gets −inf.

    strength: inverse of the penalty; None chooses it by `probe_strength`.  weights: of the training images, float [N]; 1 each by default.
    """
    from sklearn.linear_model import LogisticRegression

    known = _at_least_two(labels)
    train, test = _scaled(features, test_features)
    chosen = probe_strength(features, labels, seed) if strength is None else strength
    model: Any = LogisticRegression(C=chosen, max_iter=500)
    scores = model.fit(train, labels, sample_weight=weights).decision_function(test)
    logits = np.full((len(test), classes), -np.inf, np.float32)
    logits[:, known] = np.stack([-scores, scores], 1) / 2 if len(known) == 2 else scores
    return logits


def probe_strength(features: np.ndarray, labels: np.ndarray, seed: int = 0) -> float:
    """The inverse penalty of a linear probe, chosen by cross-validation on the training images alone where every class has two or more."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    _at_least_two(labels)
    fewest = int(np.unique(labels, return_counts=True)[1].min())
    if fewest < 2:
        return 10.0
    folds = StratifiedKFold(min(5, fewest), shuffle=True, random_state=seed)
    grid = {"C": [0.1, 1.0, 10.0, 100.0, 1000.0]}
    search = GridSearchCV(LogisticRegression(max_iter=500), grid, cv=folds, scoring="neg_log_loss", refit=False)
    return float(search.fit(_scaled(features)[0], labels).best_params_["C"])


def _at_least_two(labels: np.ndarray) -> np.ndarray:
    known = np.unique(labels)
    if len(known) < 2:
        raise UserError(f"a linear probe needs two classes or more, and the training images are of {len(known)}")
    return known


def _scaled(train: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Centred and brought to unit mean square length by the training features, which come first.

    Where these are fewer than their length, all are turned into the directions that they span: a penalised solution lies there, so that
    nothing changes but the time.
    """
    centre = train.mean(0, dtype=np.float64)
    scale = np.sqrt(np.square(train - centre).sum(1).mean()) + 1e-12
    parts = [(x - centre) / scale for x in (train, *others)]
    if len(train) < train.shape[1]:
        spanned = np.linalg.svd(parts[0], full_matrices=False)[2].T
        parts = [x @ spanned for x in parts]
    return [np.asarray(x, np.float32) for x in parts]
