"""Sets with few labels, what judges a method on them, and a log on disk: what the benches of utility share."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from bench import _images
from factory import images, kinds
from factory.contracts import Source, Table
from factory.evaluate import backbones, hits
from factory.evaluate.classifiers import Training, linear_probe
from factory.evaluate.statistics import interval, paired
from factory.evaluate.utility import Arm, Split, part
from factory.models.representation import RepresentationEncoder

BASELINE = "real_strong"  # the arm that gains are over


@dataclass(frozen=True)
class Set:
    """One set and the model that its images trained without labels.

    labelled, test, pool: sources as YAML; labelled takes SHOTS and SEED.  told: the images of the pool, with their labels.
    side: of the judges' images.  flips: what leaves a label true.
    tail: the labelled images are a long tail, and SHOTS is the size of its largest class.
    prompted: a model of these classes that takes text and has seen labels, where there is one.
    eyes: a backbone that does not guide the model, for distances.
    """

    name: str
    model: Path
    labelled: str
    test: str
    pool: str
    told: str
    side: int
    flips: Any
    tail: bool = False
    prompted: Path | None = None
    eyes: str = "efficientnet_lite0@64"


def fashion(
    folder: Path, models: Path, pool: int = 20_000, test: int = 400, prompted: Path | None = None, model: str = "fashion-variations"
) -> Set:
    """Fashion-MNIST: train.parquet and test.parquet. pool: unlabelled images.  test: images a class.  model: of recipes/train/representation."""
    one = f"{{dataset: {folder}/FILE.parquet, kind: parquet, EXTRA}}"
    return Set(
        "fashion-mnist",
        models / model,
        one.replace("FILE", "train").replace("EXTRA", "shots: SHOTS, seed: SEED"),
        one.replace("FILE", "test").replace("EXTRA", f"shots: {test}"),
        one.replace("FILE", "train").replace("EXTRA", f"label: null, split: 'train[:{pool}]'"),
        one.replace("FILE", "train").replace("EXTRA", f"split: 'train[:{pool}]'"),
        28,
        "horizontal",
        prompted=prompted,
    )


def cifar10(folder: Path, models: Path, pool: int = 20_000, test: int = 400, tail: bool = False) -> Set:
    """CIFAR-10, of which train.parquet alone: rows from 40,000 on are the test images, and nothing else looks at them."""
    one = f"{{dataset: {folder}/train.parquet, kind: parquet, EXTRA}}"
    few = one.replace("EXTRA", "split: 'train[:40000]', shots: SHOTS, seed: SEED")
    whole = one.replace("EXTRA", "split: 'train[:40000]'")
    return Set(
        "cifar10-long-tail" if tail else "cifar10",
        models / "cifar10-rich",
        f"{{kind: bench._tail.LongTail, images: {whole}, most: SHOTS, seed: SEED}}" if tail else few,
        one.replace("EXTRA", f"split: 'train[40000:]', shots: {test}"),
        one.replace("EXTRA", f"label: null, split: 'train[:{pool}]'"),
        one.replace("EXTRA", f"split: 'train[:{pool}]'"),
        32,
        "horizontal",
        tail,
        eyes="efficientnet_lite1@64",
    )


def bccd(folder: Path, models: Path) -> Set:
    """Patches of BCCD: train.parquet and test.parquet, with boxes and categories."""
    whole = f"{{dataset: {folder}/FILE.parquet, kind: parquet, label: null, boxes: boxes, box_labels: categories}}"
    boxes = f"{{kind: patches, side: 128, class_names: [RBC, WBC, Platelets], images: {whole}, EXTRA}}"
    plain = f"{{dataset: {folder}/train.parquet, kind: parquet, label: null}}"
    return Set(
        "bccd",
        models / "bccd",
        boxes.replace("FILE", "train").replace("EXTRA", "shots: SHOTS, seed: SEED"),
        boxes.replace("FILE", "test").replace(", EXTRA", ""),
        f"{{kind: patches, around: grid, side: 128, stride: 64, images: {plain}}}",
        boxes.replace("FILE", "train").replace(", EXTRA", ""),
        64,
        "dihedral",
    )


class Maker:
    """Makes the images of recipes over one set; each model is loaded once."""

    def __init__(self, cache: Path, device: str = "cpu"):
        self.cache, self.device = cache, device
        self._open: dict[str, Any] = {}

    def __call__(self, recipe: str, model: Path, parts: dict[str, str]) -> _images.Made:
        """recipe: its text, in which each name of `parts` gives way to its value, one after the other, and MODEL to the model at last."""
        made = _images.make(filled(recipe, parts | {"MODEL": str(model)}), self.cache, self._open.get(str(model)), self.device)
        self._open[str(model)] = made.generator
        return made


def filled(text: str, parts: dict[str, str]) -> str:
    """Every name replaced by its value, in this order, so that a value may hold later names."""
    for name, value in parts.items():
        text = text.replace(name, value)
    return text


class Judge:
    """The classifiers on the real test images of one set."""

    def __init__(self, one: Set, training: Training):
        table = opened(one.test)
        self.training, self.class_names = training, table.class_names
        self.test = part(read(table, one.side), table.labels.astype(int))
        self.eyes = before_whitening(one.model / "encoder")

    def __call__(
        self, arm: Arm | Literal["linear_probe"], real: np.ndarray, known: np.ndarray, seed: int,
        made: tuple[np.ndarray, np.ndarray] | None = None, training: Training | None = None,
    ) -> list[float | None]:  # fmt: skip
        """Accuracy of each class, None for one that is not tested.

        real, known: the labelled images, uint8 [N, side, side, 3], and int [N].  made: further images and labels to train on, of this size.
        Raises UserError where one of them is a test image.
        """
        split, classes = Split(part(real, known), self.test, part(*made) if made else None), len(self.class_names)
        if arm == "linear_probe":
            logits = linear_probe(self.eyes.features(real), known, self._features, classes, seed)
        else:
            logits = split.network(arm, classes, training or self.training, seed)
        return hits.per_class(hits.written(logits.argmax(1), self.test.labels, classes))

    @cached_property
    def _features(self) -> np.ndarray:
        return self.eyes.features(self.test.images)


def before_whitening(folder: Path) -> backbones.Backbone:
    """What a guided model's encoder sees before it is whitened: whitening serves the generator, and costs a linear probe several points."""
    if not (folder / RepresentationEncoder.config_name).is_file():  # a CLIP, which is never whitened
        return backbones.open(str(folder))
    encoder = RepresentationEncoder.from_pretrained(folder)

    def embed(batch: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return encoder.wide(torch.from_numpy(batch).permute(0, 3, 1, 2)).cpu().numpy()

    return backbones.Backbone(str(folder), sum(tower["dim"] for tower in encoder.config.towers), embed)


def balanced(per_class: list[float | None]) -> float:
    """The mean accuracy of the tested classes."""
    return float(np.mean([value for value in per_class if value is not None]))


def summarise(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows {arm, labels_per_class, seed, accuracy} -> for each arm and number of labels, in order of first appearance,
    {arm, labels_per_class, accuracy_mean, ci95, seeds, gain, gain_ci95}; the gain is over BASELINE with the same seeds, None without it.
    """
    groups: dict[tuple[str, float], dict[int, float]] = {}
    for row in rows:
        groups.setdefault((row["arm"], row["labels_per_class"]), {})[row["seed"]] = row["accuracy"]
    return [_summary(arm, amount, found, groups.get((BASELINE, amount), {})) for (arm, amount), found in groups.items()]


def _summary(arm: str, amount: float, found: dict[int, float], base: dict[int, float]) -> dict[str, Any]:
    own, both = interval(list(found.values())), [seed for seed in found if seed in base]
    gain = paired([found[s] for s in both], [base[s] for s in both]) if both and arm != BASELINE else None
    entry = {"arm": arm, "labels_per_class": amount, "accuracy_mean": own.mean, "ci95": own.half, "seeds": own.size}
    return {**entry, "gain": gain.mean if gain else None, "gain_ci95": gain.half if gain else None}


class Log:
    """Measurements on disk, one JSON object a line, so that an interrupted bench goes on.

    rows: those of one set, {set, arm, labels_per_class, seed, accuracy, …}.
    """

    def __init__(self, path: Path, name: str):
        self.path, self.name = path, name
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        own = [line for line in lines if line["set"] == name]
        self.rows = [line for line in own if "arm" in line]
        self.facts = {line["fact"]: line["value"] for line in own if "fact" in line}

    def has(self, labels: int, arm: str, seed: int, **settings: Any) -> bool:
        """Whether this was measured before, with these settings."""
        key = self._key(labels, arm, seed, settings)
        return any(all(row.get(name) == value for name, value in key.items()) for row in self.rows)

    def once(self, labels: int, arm: str, seed: int, measure: Callable[[], dict[str, Any]], **settings: Any) -> None:
        """Keep what `measure` finds, {accuracy, …}, unless it is there."""
        if not self.has(labels, arm, seed, **settings):
            self.rows.append(self._write(self._key(labels, arm, seed, settings) | measure()))

    def fact(self, name: str, measure: Callable[[], Any]) -> Any:
        """A fact of the set, measured once."""
        if name not in self.facts:
            self.facts[name] = self._write({"set": self.name, "fact": name, "value": measure()})["value"]
        return self.facts[name]

    def _key(self, labels: int, arm: str, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
        return {"set": self.name, "arm": arm, "labels_per_class": labels, "seed": seed, **settings}

    def _write(self, row: dict[str, Any]) -> dict[str, Any]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        return row


def opened(text: str) -> Table:
    """A source written as in a recipe."""
    from ruamel.yaml import YAML

    source: Any = kinds.nested("sources", Source, YAML(typ="safe").load(text))
    return source.open()  # type: ignore[no-any-return]


def read(table: Table, side: int, rows: np.ndarray | None = None) -> np.ndarray:
    """Real images, uint8 [N, side, side, 3]."""
    return squared([table.read(int(row)).image for row in (range(len(table)) if rows is None else rows)], side)


def squared(pictures: list[np.ndarray], side: int) -> np.ndarray:
    """uint8 [H, W, 3] each -> uint8 [N, side, side, 3]."""
    return np.stack([images.fit(picture, side, side) for picture in pictures])
