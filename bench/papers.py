"""Does the synthetic data help? python -m bench.papers [--json] --fashion FOLDER --cifar10 FOLDER --bccd FOLDER [--models FOLDER]

The published methods of bench/_methods.py, each with the same few labelled images, the same small network and the same number of its steps, on
real test images alone, several seeds (each draws other labelled images). Generators were trained without labels and without test images
(recipes/train/representation/{fashion_rich,cifar10_rich,bccd}.yaml), but for prompts, whose model has seen labels and is marked. The encoder that
guides the first two contains EfficientNet-Lite0, which has seen the labels of ImageNet; `linear_probe` is a probe of that same encoder. Each method
that makes images is measured twice: with --synthetic of its images a class, and, filtered, with as many of twice that number: the half to
which a linear probe on the guiding embedding, fitted to the labelled images alone, gives that class with the least doubt.

Every measurement is a line of --rows, and those that are there are not made again; --minutes stops in between. Then docs/results.json,
{rows: [{set, labels, method, filtered, accuracy_mean, ci95, seeds, gain, gain_ci95}]}, and docs/results.md are written from what there is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from bench import _results, _trials
from bench._methods import FILTERED, METHODS, PROPAGATION, Method
from bench._report import emit, parser
from bench._trials import Set, filled, opened, read, squared
from factory import kinds, runtime
from factory.contracts import Condition, Context
from factory.errors import UserError
from factory.evaluate.classifiers import Training, linear_probe
from factory.files import cache_folder

PROMPTED = Path(__file__).parent.parent / "data/models/fashion-mnist"
RECIPE = """
name: bench
seed: SEED
source: LABELLED
generator: {model: MODEL, steps: STEPS, guidance: GUIDANCE, batch: 32, dtype: DTYPE}
condition: CONDITION
prompts: PROMPTS
amount: {per_class: AMOUNT}
threads: THREADS
"""
NAMES = ("fashion-mnist", "cifar10", "cifar10-long-tail", "bccd")
ABOUT = {
    "fashion-mnist": "28×28 grey clothing, ten classes; guided by an encoder trained here without labels and EfficientNet-Lite0, side by side. † The model that takes prompts has seen the labels of all training images.",
    "cifar10": "32×32 photographs, ten classes; guided by EfficientNet-Lite0. Labelled and unlabelled images are of the first 40,000, test images of the rest.",
    "cifar10-long-tail": "As above; the labelled images fall exponentially from the first class to the last, to a hundredth. Balanced Softmax.",
    "bccd": "Patches round the cells of blood smears, three classes; all of the test split. Guided by an encoder trained here without labels.",
}


def options() -> argparse.ArgumentParser:
    """The flags of the bench."""
    flags = parser(__doc__)
    flags.add_argument("--fashion", type=Path, help="a folder with train.parquet and test.parquet of Fashion-MNIST")
    flags.add_argument("--cifar10", type=Path, help="a folder with train.parquet of CIFAR-10; its rows from 40,000 on are the test images")
    flags.add_argument("--bccd", type=Path, help="a folder with train.parquet and test.parquet of BCCD, with boxes and categories")
    flags.add_argument("--models", type=Path, default=Path("runs/models"), help="where recipes/train/representation/*.yaml wrote")
    flags.add_argument("--sets", nargs="+", choices=NAMES, default=NAMES)
    flags.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD", help=" ".join(METHODS))
    flags.add_argument("--labels", type=int, nargs="+", default=[5, 10], help="a class")
    flags.add_argument("--tail", type=int, nargs="+", default=[500], help="labels of the largest class of the long tail")
    flags.add_argument("--seeds", type=int, default=5)
    flags.add_argument("--synthetic", type=int, default=60, help="synthetic images of each class to train on")
    flags.add_argument("--unfiltered", action="store_true", help="make no images to choose from, and leave the filtered rows out")
    flags.add_argument("--pool", type=int, default=20_000, help="unlabelled images, of Fashion-MNIST and CIFAR-10")
    flags.add_argument("--test", type=int, default=400, help="test images a class, of Fashion-MNIST and CIFAR-10")
    flags.add_argument("--steps", type=int, default=8, help="of sampling")
    flags.add_argument("--guidance", type=float, default=2.0, help="scale; chosen on training images, like `keep` of propagation")
    flags.add_argument("--dtype", default="bfloat16", help="of the generator")
    flags.add_argument("--device", default="cpu", help="of the generator")
    flags.add_argument("--training-steps", type=int, default=400, help="of the small network")
    flags.add_argument("--threads", type=int, default=2)
    flags.add_argument("--minutes", type=float, help="stop after the measurement that is going on then")
    flags.add_argument("--rows", type=Path, default=Path("docs/results.jsonl"), help="every measurement, one a line; continued")
    flags.add_argument("--out", type=Path, default=Path("docs"), help="where results.json and results.md go")
    return flags


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, seed by seed, so that a bench that is stopped early has every method; then write the tables."""
    given = options().parse_args(arguments)
    runtime.fix_numerics(given.threads)
    found, left_out = sets(given)
    studies = [Study(one, given) for one in found]
    end = time.monotonic() + 60 * (np.inf if given.minutes is None else given.minutes)
    for seed in range(given.seeds):
        for study in studies:
            for labels in given.tail if study.one.tail else given.labels:
                for method in study.methods:
                    if time.monotonic() < end:
                        left_out += study.attempt(method, labels, seed)
    measured = {study.one.name: study.measured() for study in studies}
    rows = [row for name in measured for row in _results.table(name, measured[name])]
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "results.json").write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    (given.out / "results.md").write_text(_results.markdown(rows, measured, ABOUT, left_out, how(given)))
    emit({"rows": rows} if given.json else {"rows": len(rows), "left out": left_out, "written": str(given.out / "results.md")}, given.json)


def sets(given: argparse.Namespace) -> tuple[list[Set], list[str]]:
    """The sets that were asked for and can be measured, and a sentence on each other one."""
    folders = {"fashion-mnist": given.fashion, "cifar10": given.cifar10, "cifar10-long-tail": given.cifar10, "bccd": given.bccd}
    found, left_out = [], []
    for name in NAMES:
        flag = name.partition("-")[0]
        if name not in given.sets:
            left_out.append(f"{name}: not asked for.")
        elif folders[name] is None:
            left_out.append(f"{name}: no data; name their folder with --{flag}.")
        elif not (one := _set(name, folders[name], given)).model.is_dir():
            left_out.append(
                f"{name}: no model {one.model.name} among --models; train it with recipes/train/representation/{one.model.name.replace('-', '_')}.yaml."
            )
        else:
            found.append(one)
    return found, left_out


def _set(name: str, folder: Path, given: argparse.Namespace) -> Set:
    if name == "fashion-mnist":
        return _trials.fashion(folder, given.models, given.pool, given.test, PROMPTED, "fashion-rich")
    if name == "bccd":
        return _trials.bccd(folder, given.models)
    return _trials.cifar10(folder, given.models, given.pool, given.test, tail=name == "cifar10-long-tail")


def how(given: argparse.Namespace) -> str:
    """How it was measured, for the head of the tables."""
    return (
        "Written by `python -m bench.papers` (its docstring says how each number is made). "
        f"A small network from scratch, {given.training_steps} steps of 64 images with strong augmentation in every arm but `real`; with "
        f"synthetic images half of each batch is real and half synthetic. {given.synthetic} synthetic images a class, made in "
        f"{given.steps} steps at guidance {given.guidance:g} in {given.dtype}; filtered rows take as many of twice that number. "
        "`pseudo_labels` trains in their place on every unlabelled real image that `propagation` generates from, `true_labels` on all of these "
        "under their own labels (of BCCD on the boxes of all training images), which no method knows and which says what there is to gain, and `image_variation` is also the "
        "variant of augmented conditioning that neither mixes nor drops. Prompts are measured where a model takes them: one that was "
        "trained without labels and captions takes none. Class-balanced "
        f"accuracy on real test images ({given.test} a class; of BCCD the whole split), mean over seeds ± the 95% interval of the mean; gains are over real + RandAugment (`real_strong`) with the "
        "same labelled images."
    )


class Study:
    """All methods on one set."""

    def __init__(self, one: Set, given: argparse.Namespace):
        self.one, self.given = one, given
        self.log = _trials.Log(given.rows, one.name)
        self.methods = [METHODS[name] for name in given.methods if one.prompted or not METHODS[name].prompted]
        self.make = _trials.Maker(cache_folder(), given.device)
        self.training = Training(steps=given.training_steps, batch=64, flips=one.flips, balanced=one.tail)

    @cached_property
    def judge(self) -> _trials.Judge:
        return _trials.Judge(self.one, self.training)

    def measured(self) -> list[dict[str, Any]]:
        """The log's rows that were made with the present settings."""
        settings = {arm: self.settings(method) for method in self.methods for arm in method.arms}
        return [row for row in self.log.rows if row["arm"] in settings and row["settings"] == settings[row["arm"]]]

    def settings(self, method: Method) -> str:
        """What besides the row's own names decides its number: another model or another budget is another measurement."""
        given, parts = self.given, [f"{self.given.training_steps} training steps, {self.given.test} test images a class"]
        if method.unlabelled == "true":
            parts += [f"pool {given.pool}"]
        elif method.condition or method.unlabelled or method.arm == "linear_probe":
            parts += [f"model {_digest(self.one.model)}", f"pool {given.pool}"]
        if method.condition:
            parts += [
                f"{given.synthetic} images a class in {given.steps} steps at guidance {given.guidance:g} in {given.dtype}",
                method.condition,
            ]
        if method.prompted and self.one.prompted:
            parts += [f"model {_digest(self.one.prompted)}", method.prompts]
        return ", ".join(parts)

    def attempt(self, method: Method, labels: int, seed: int) -> list[str]:
        """Measure a method, and say why where it cannot be done with these labels; the others go on."""
        try:
            self.measure(method, labels, seed)
        except UserError as error:
            return [f"{self.one.name}, {_results.about_labels(self.one.name, labels)}, seed {seed}: {method.name}: {error}"]
        return []

    def measure(self, method: Method, labels: int, seed: int) -> None:
        """Every arm of a method that the log does not hold."""
        settings = {"settings": self.settings(method)}
        arms = [arm for arm in method.arms if not (self.given.unfiltered and arm.endswith(FILTERED))]
        if all(self.log.has(labels, arm, seed, **settings) for arm in arms):
            return
        parts = {"LABELLED": self.one.labelled, "SHOTS": str(labels), "SEED": str(seed)}
        table = opened(filled("LABELLED", parts))
        real, known = read(table, self.one.side), table.labels.astype(int)
        made = self._made(method, parts) if method.condition else self._unlabelled(method, table)
        for arm in arms:
            chosen = made
            if method.condition and made is not None:
                chosen = self._half(made, real, known, seed, arm.endswith(FILTERED))

            def trial(more: Any = chosen) -> dict[str, Any]:
                training = replace(self.training, mix=method.mix)
                kind: Any = method.arm if more is None else "real_synthetic"
                per_class = self.judge(kind, real, known, seed, more, training)
                return {"accuracy": _trials.balanced(per_class), "per_class": per_class}

            self.log.once(labels, arm, seed, trial, **settings)

    def _made(self, method: Method, parts: dict[str, str]) -> tuple[np.ndarray, np.ndarray]:
        """A method's images and labels, in the order of its requests."""
        given = self.given
        knobs = {"STEPS": str(given.steps), "GUIDANCE": str(given.guidance), "DTYPE": given.dtype, "THREADS": str(given.threads)}
        knobs |= {"CONDITION": str(method.condition), "PROMPTS": method.prompts, "POOL": self.one.pool}
        knobs |= {"AMOUNT": str(given.synthetic * (1 if given.unfiltered else 2))}
        model = self.one.prompted if method.prompted and self.one.prompted else self.one.model
        made = self.make(RECIPE, model, knobs | parts)
        return squared(made.images, self.one.side), made.labels.astype(int)

    def _half(
        self, made: tuple[np.ndarray, np.ndarray], real: np.ndarray, known: np.ndarray, seed: int, filtered: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """--synthetic images of each class: the first, or those that the probe of the labelled images doubts least."""
        images, labels = made
        order = np.arange(len(labels))
        if filtered:
            eyes, classes = self.judge.eyes, len(self.judge.class_names)
            logits = linear_probe(eyes.features(real), known, eyes.features(images), classes, seed).astype(np.float64)
            doubt = np.logaddexp.reduce(logits, axis=1) - logits[order, labels]
            order = np.argsort(doubt, kind="stable")
        kept = np.concatenate([order[labels[order] == label][: self.given.synthetic] for label in np.unique(labels)])
        return images[kept], labels[kept]

    def _unlabelled(self, method: Method, table: Any) -> tuple[np.ndarray, np.ndarray] | None:
        """The unlabelled images that a method trains on, and their labels."""
        if method.unlabelled is None:
            return None
        return self._evened(*self._guessed(table)) if method.unlabelled == "guessed" else self._told

    def _guessed(self, table: Any) -> tuple[Any, list[np.ndarray]]:
        """The library that propagation would generate from, and the rows of each class."""
        text = filled(PROPAGATION, {"POOL": self.one.pool, "MODEL": str(self.one.model)})
        kind: Any = kinds.nested("conditions", Condition, YAML(typ="safe").load(text))
        reached = kind.open(Context(table, table.class_names, 0, "cpu", cache_folder()))
        return reached.library, reached.rows

    @cached_property
    def _told(self) -> tuple[np.ndarray, np.ndarray]:
        table = opened(self.one.told)
        return self._evened(table, [np.flatnonzero(table.labels == label) for label in range(len(table.class_names))])

    def _evened(self, source: Any, rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The images of each class's rows and their labels, as often as makes every class equally large."""
        size = max(len(own) for own in rows)
        images = [read(source, self.one.side, own) for own in rows]
        repeated = [np.resize(np.arange(len(one)), size) for one in images]
        return np.concatenate([one[own] for one, own in zip(images, repeated, strict=True)]), np.repeat(np.arange(len(images)), size)


@cache
def _digest(model: Path) -> str:
    """Names a model's weights, by the files that hold them."""
    digest = hashlib.sha256()
    for path in sorted(model.rglob("*.safetensors")):
        digest.update(path.relative_to(model).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


if __name__ == "__main__":
    main()
