"""The conditioning strategies side by side: python -m bench.conditioning [--json] [--images N] [--cifar10 FILE] [--sheets FOLDER]

For each set (Fashion-MNIST, and CIFAR-10 where a Parquet file of it and models trained by recipes/train/cifar10/*.yaml are given) and each
strategy the same number of images of every class, from 16 real images a class that no model was trained on:

class_agreement  share of images in which an independent classifier, trained on real images alone, sees the wanted class
diversity        Vendi score within a class over the classifier's features, divided by that of as many real images
parent_distance  mean cosine distance from an image to its first parent in those features; null where there is no parent of the class
images_per_s     with everything loaded; neighbours in a run are not to be compared to a percent
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from bench import _images
from bench._report import emit, parser
from factory import contact_sheet, runtime
from factory.diversity import vendi_score
from factory.models.classifier import SmallClassifier

STRATEGIES: dict[str, str] = {
    "text": "condition: text",
    "text, clip_80": "condition: text\nprompts: {set: clip_80}",
    "image": "condition: image",
    "image and text": "condition: {kind: image, text: true}",
    "sdedit 0.5": "condition: {kind: image, strength: 0.5, text: true}",
    "sdedit 0.8": "condition: {kind: image, strength: 0.8, text: true}",
    "mixup": "condition: {kind: augmented_image, mix: mixup}",
    "cutmix": "condition: {kind: augmented_image, mix: cutmix}",
    "embed_mixup": "condition: {kind: augmented_image, mix: embed_mixup}",
    "embed_cutmix": "condition: {kind: augmented_image, mix: embed_cutmix}",
    "dropout": "condition: {kind: augmented_image, dropout: 0.4}",
    "rand_augment": "condition: {kind: augmented_image, augment: [rand_augment]}",
    "augmix": "condition: {kind: augmented_image, augment: [augmix]}",
    "gaussian_random_field": "condition: {kind: augmented_image, augment: [gaussian_random_field]}",
    "adv_style": "condition: {kind: augmented_image, augment: [adv_style]}",
    "retrieval": "condition: {kind: retrieval, k: 4, model: MODEL/clip}",
    "inpaint": "condition: {kind: inpaint, area: random}",
    "outpaint": "condition: {kind: outpaint, scale: [0.6, 0.9]}",
    "other_class": "condition: {kind: other_class, strength: 0.8}",
}
RECIPE = """
name: bench
seed: 5
source: {source}
generator: {{model: {model}, steps: 12, guidance: 2.0, batch: 32}}
prompts: {{text: "a photo of a {{label}}"}}
amount: {{per_class: {per_class}}}
threads: 2
"""


@dataclass(frozen=True)
class Set:
    """One data set: its recipe's source, its generator and its judge."""

    name: str
    source: str
    model: Path
    judge: Path


def main() -> None:
    """Measure every strategy on every set that is there."""
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=160, help="images per strategy and set")
    options.add_argument("--cifar10", type=Path, help="train.parquet of CIFAR-10; its rows from 40,000 on are the real images")
    options.add_argument("--cifar10-models", type=Path, default=Path("runs/models"), help="where recipes/train/cifar10/*.yaml wrote")
    options.add_argument("--sheets", type=Path, help="write a contact sheet of every strategy into this folder")
    given = options.parse_args()
    runtime.fix_numerics(2)
    rows = [row for one in sets(given) for row in measured(one, given)]
    if not given.json:
        for row in rows:
            print("  ".join(f"{value:>22}" if isinstance(value, str) else f"{value!s:>8}" for value in row.values()))
    emit({"rows": rows} if given.json else {"strategies": len(STRATEGIES), "images": given.images}, given.json)


def sets(given: argparse.Namespace) -> list[Set]:
    """Fashion-MNIST's test images, which no embedded model has seen, are the real ones here; and CIFAR-10's last rows."""
    found = [
        Set(
            "fashion-mnist",
            "{dataset: data/fashion-mnist, split: test, shots: 16}",
            Path("data/models/fashion-mnist"),
            Path("data/models/fashion-classifier"),
        )
    ]
    models = given.cifar10_models
    if given.cifar10 is not None:
        source = f"{{dataset: {given.cifar10}, kind: parquet, split: 'train[40000:]', shots: 16}}"
        found.append(Set("cifar10", source, models / "cifar10", models / "cifar10-classifier"))
    return found


def measured(one: Set, given: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each strategy."""
    judge = SmallClassifier.from_pretrained(one.judge).float().eval()

    def features(images: list[np.ndarray]) -> np.ndarray:
        return seen(judge, images)[1]

    generator: Any = None
    real = 0.0  # diversity of real images, the same for every strategy
    rows = []
    for name, section in STRATEGIES.items():
        base = RECIPE.format(source=one.source, model=one.model, per_class=given.images // 10)
        own = section.replace("MODEL", str(one.model))
        kept = [line for line in base.splitlines() if not any(line.startswith(new.split(":")[0] + ":") for new in own.splitlines())]
        with TemporaryDirectory() as cache:
            made = _images.make("\n".join([*kept, own]), Path(cache), generator)
        generator, images, labels, parents, table = made.generator, made.images, made.labels, made.parents, made.table
        guesses, rows_of = seen(judge, images)
        of_class = bool(parents[0]) and all(own[0].label == label for own, label in zip(parents, labels.tolist(), strict=True))
        near = 1 - (rows_of * features([own[0].image for own in parents])).sum(1) if of_class else None
        real = real or real_diversity(table, features, given.images // 10)
        row = {
            "set": one.name,
            "strategy": name,
            "class_agreement": round(float((guesses == labels).mean()), 4),
            "diversity": round(within(rows_of, labels) / real, 4),
            "parent_distance": None if near is None else round(float(near.mean()), 4),
            "images_per_s": round(len(images) / made.seconds, 2),
        }
        if not given.json:
            print(row, flush=True)
        rows.append(row)
        if given.sheets is not None:
            path = given.sheets / f"{one.name}-{name.replace(', ', '-').replace(' ', '-')}.png"
            sheet(path, name, made.class_names, labels, parents, images)
    return rows


def seen(judge: SmallClassifier, images: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The judge's class and its unit features [N, D]."""
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    rows = torch.nn.functional.normalize(judge.features(pixels), dim=1).numpy()
    return judge.probabilities(pixels).argmax(1).numpy(), rows


def within(rows: np.ndarray, labels: np.ndarray) -> float:
    """The mean over classes of the Vendi score of unit rows."""
    return float(np.mean([vendi_score(rows[labels == c]) for c in np.unique(labels)]))


def real_diversity(table: Any, features: Callable[[list[np.ndarray]], np.ndarray], per_class: int) -> float:
    """The same of real images, as many of each class as were made, or all there are."""
    some = np.concatenate([np.flatnonzero(table.labels == c)[:per_class] for c in range(len(table.class_names))])
    return within(features([table.read(int(i)).image for i in some]), table.labels[some])


def sheet(path: Path, name: str, class_names: list[str], labels: np.ndarray, parents: list[Any], images: list[np.ndarray]) -> None:
    """Parents beside children, a few of each class."""
    path.parent.mkdir(parents=True, exist_ok=True)
    groups: dict[str, list[contact_sheet.Group]] = {}
    for label, own, image in zip(labels.tolist(), parents, images, strict=True):
        group = groups.setdefault(class_names[label], [])
        if len(group) < 4:
            group.append(([p.image for p in own], image))
    contact_sheet.draw(groups, name).save(path)


if __name__ == "__main__":
    main()
