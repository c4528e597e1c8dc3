"""Few labels and many unlabelled images: python -m bench.representation [--json] --fashion FOLDER --cifar10 FOLDER --bccd FOLDER [--models FOLDER]

For each set, labels for 1, 5, 10 and 50 images a class and the rest unlabelled; models of recipes/train/representation/*.yaml, which saw no label
and no test image. On real test images alone, over several seeds (each draws other labelled images), the class-balanced accuracy of

real_strong   a small network from scratch on the labelled images, with strong augmentation
linear_probe  logistic regression on what the generator's encoder sees, before whitening
variation     the small network on half real and half synthetic images: each parent's embedding, jittered
neighbours    the same, each child from a random mix of the embeddings of its parent's four nearest unlabelled images
propagation   the same, each child from an unlabelled image that the labels reach on a graph of nearest neighbours

frechet is the Fréchet distance of the synthetic images of the largest number of labels to real training images, and frechet_real that of other
real training images, as many: the floor. Both in features of a network that does not guide the set's model: EfficientNet-Lite0 (ImageNet), for
CIFAR-10, which that one guides, EfficientNet-Lite1; precision, recall, density and coverage in the same. Rows that --rows already holds are not made again; --minutes stops in between, and what is there is printed.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench import _images, _trials
from bench._report import emit, parser
from bench._trials import Set, opened, read, squared, summarise
from factory import contact_sheet, runtime, seeds
from factory.evaluate import backbones, fidelity
from factory.evaluate.classifiers import Training

CONDITIONS = {
    "variation": "{kind: embedding, jitter: 0.4}",
    "neighbours": "{kind: retrieval, k: 4, mix: random, model: MODEL/encoder, library: POOL}",
    "propagation": "{kind: propagation, model: MODEL/encoder, library: POOL, keep: 0.5}",
}
ARMS: tuple[Any, ...] = ("real_strong", "linear_probe")
RECIPE = """
name: bench
seed: SEED
source: LABELLED
generator: {model: MODEL, steps: 8, guidance: GUIDANCE, batch: 32, dtype: bfloat16}
condition: CONDITION
amount: {per_class: AMOUNT}
threads: THREADS
"""


def sets(given: argparse.Namespace) -> list[Set]:
    """The sets whose data were named."""
    found = [_trials.fashion(given.fashion, given.models)] if given.fashion else []
    found += [_trials.cifar10(given.cifar10, given.models)] if given.cifar10 else []
    return found + ([_trials.bccd(given.bccd, given.models)] if given.bccd else [])


def main() -> None:
    """Every set, number of labels, seed and method; then the table."""
    options = parser(__doc__)
    options.add_argument("--fashion", type=Path, help="a folder with train.parquet and test.parquet of Fashion-MNIST")
    options.add_argument(
        "--cifar10", type=Path, help="a folder with train.parquet of CIFAR-10; its rows from 40,000 on are the test images"
    )
    options.add_argument("--bccd", type=Path, help="a folder with train.parquet and test.parquet of BCCD, with boxes and categories")
    options.add_argument("--models", type=Path, default=Path("runs/models"), help="where recipes/train/representation/*.yaml wrote")
    options.add_argument("--labels", type=int, nargs="+", default=[1, 5, 10, 50])
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--synthetic", type=int, default=200, help="synthetic images of a set, for each number of labels and seed")
    options.add_argument("--guidance", type=float, default=1.0, help="guidance scale of the generator")
    options.add_argument("--steps", type=int, default=400, help="of the small network")
    options.add_argument(
        "--rows", type=Path, default=Path("runs/bench/representation.jsonl"), help="every measurement, one a line; continued"
    )
    options.add_argument("--minutes", type=float, default=math.inf, help="stop after the measurement that is going on then")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--sheets", type=Path, help="write parents beside children into this folder")
    given = options.parse_args()
    if not sets(given):
        options.error("name a set with --fashion, --cifar10 or --bccd")
    runtime.fix_numerics(given.threads)
    given.end = time.monotonic() + 60 * given.minutes
    rows = [row for one in sets(given) for row in measured(one, given)]
    for row in rows if not given.json else []:
        print("  ".join(f"{value!s:>14}" for value in row.values()))
    emit({"rows": rows} if given.json else {"rows": len(rows)}, given.json)


def measured(one: Set, given: argparse.Namespace) -> list[dict[str, Any]]:
    """The table's rows of one set."""
    log = _trials.Log(given.rows, one.name)
    judge = _trials.Judge(one, Training(steps=given.steps, batch=64, flips=one.flips))
    maker = _Maker(one, given)
    for labels in given.labels:
        for seed in range(given.seeds):
            table = opened(one.labelled.replace("SHOTS", str(labels)).replace("SEED", str(seed)))
            real, known = read(table, one.side), table.labels.astype(int)
            if time.monotonic() > given.end:
                continue
            for arm in ARMS:
                log.once(labels, arm, seed, lambda arm=arm: _accuracy(judge(arm, real, known, seed)))  # type: ignore[misc] # noqa: B023
            for method in CONDITIONS:

                def measure(method: str = method, labels: int = labels, seed: int = seed, real: Any = real, known: Any = known) -> Any:
                    made = maker(method, labels, seed)
                    return _accuracy(judge("real_synthetic", real, known, seed, (squared(made.images, one.side), made.labels)))

                log.once(labels, method, seed, measure)
    names = {method: f"{method}, {max(given.labels)} labels, {given.seeds} seeds" for method in CONDITIONS}
    in_time = [method for method, name in names.items() if name in log.facts or time.monotonic() < given.end]
    quality = {method: log.fact(names[method], lambda method=method: likeness(one, maker, method, given)) for method in in_time}  # type: ignore[misc]
    return [
        {"set": one.name, "labels": entry["labels_per_class"], "method": entry["arm"], "accuracy_mean": round(entry["accuracy_mean"], 4)}
        | {name: None if entry[name] is None else round(entry[name], 4) for name in ("ci95", "gain", "gain_ci95")}
        | quality.get(entry["arm"], dict.fromkeys(("frechet", "frechet_real", "precision", "recall", "density", "coverage")))
        for entry in summarise(log.rows)
    ]


def likeness(one: Set, maker: _Maker, method: str, given: argparse.Namespace) -> dict[str, float]:
    """Distances of the synthetic images of the most labels, all seeds together, to real training images of the same classes."""
    eyes = backbones.open(one.eyes)
    made = [maker(method, max(given.labels), seed) for seed in range(given.seeds)]
    fake = eyes.features(squared([image for batch in made for image in batch.images], one.side))
    pool = opened(one.labelled.replace("shots: SHOTS, seed: SEED", f"shots: {2 * len(fake)}"))
    chosen = np.concatenate(
        [_some(np.flatnonzero(pool.labels == c), 2 * len(fake) // len(pool.class_names)) for c in range(len(pool.class_names))]
    )
    real = eyes.features(read(pool, one.side, chosen))
    first, second = real[: len(real) // 2 * 2 : 2], real[1::2]
    count = min(len(fake), len(second))
    some = fake[_some(np.arange(len(fake)), count)]
    found = {"frechet": fidelity.frechet_distance(first, some), "frechet_real": fidelity.frechet_distance(first, second[:count])}
    return {name: round(value, 4) for name, value in (found | fidelity.manifold(first, some)).items()}


class _Maker:
    """Makes the synthetic images of a method, a number of labels and a seed."""

    def __init__(self, one: Set, given: argparse.Namespace):
        self.one, self.given, self._make = one, given, _trials.Maker(Path("runs/cache"))

    def __call__(self, method: str, labels: int, seed: int) -> _images.Made:
        one = self.one
        amount = max(1, self.given.synthetic // len(opened(one.test).class_names))
        parts = {"THREADS": str(self.given.threads), "CONDITION": CONDITIONS[method], "LABELLED": one.labelled, "POOL": one.pool}
        parts["GUIDANCE"] = str(self.given.guidance)
        made = self._make(RECIPE, one.model, parts | {"AMOUNT": str(amount), "SHOTS": str(labels), "SEED": str(seed)})
        if self.given.sheets and seed == 0:
            groups: dict[str, list[contact_sheet.Group]] = {}
            for label, own, image in zip(made.labels.tolist(), made.parents, made.images, strict=True):
                group = groups.setdefault(made.class_names[label], [])
                if len(group) < 6:
                    group.append(([parent.image for parent in own], image))
            self.given.sheets.mkdir(parents=True, exist_ok=True)
            contact_sheet.draw(groups, f"{one.name} {method} {labels}").save(self.given.sheets / f"{one.name}-{method}-{labels}.png")
        return made


def _accuracy(per_class: list[float | None]) -> dict[str, float]:
    return {"accuracy": _trials.balanced(per_class)}


def _some(rows: np.ndarray, count: int) -> np.ndarray:
    return np.sort(seeds.rng("bench").permutation(rows)[:count])


if __name__ == "__main__":
    main()
