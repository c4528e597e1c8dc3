"""The trainings behind the utility section: each arm, ratio, seed and classifier once, stored as a row, so that an evaluation goes on."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from factory import seeds
from factory.evaluate import draws as drawing
from factory.evaluate import guards, hits
from factory.evaluate.draws import Draw, Draws
from factory.evaluate.evidence import Evidence
from factory.evaluate.sets import ImageSet
from factory.evaluate.utility import Arm, Part, Split, of_arm

log = logging.getLogger("factory")
FORMAT = 2  # of a stored row
VIEWS = 4  # strongly augmented copies of a real image that a linear probe learns from beside it
UNEVEN = 2  # one class has so many times the images of another: a long tail


@dataclass(frozen=True)
class Trial:
    """One training. synthetic: rows of Evidence.made, none for an arm without.  ratio: 0 for such an arm."""

    arm: Arm
    classifier: str
    ratio: float
    draw: Draw
    synthetic: np.ndarray


def plan(evidence: Evidence, draws: Draws) -> list[Trial]:
    """Every training of an evaluation, in the order in which they are made: a whole point after another."""
    trials = []
    by_labels = sorted(draws.draws, key=lambda draw: (draw.labels or 0, draw.seed))
    none = np.zeros(0, np.int64)
    for _, group in groupby(by_labels, key=lambda draw: draw.labels):
        point = list(group)
        found = drawing.ratios(evidence, point)
        for place, draw in enumerate(point):
            arms: list[tuple[Arm, float, np.ndarray]] = [("real", 0.0, none), ("real_strong", 0.0, none)]
            arms += [("real_synthetic", ratio, rows[place]) for ratio, rows in found.items()]
            arms += [("synthetic", ratio, rows[place]) for ratio, rows in list(found.items())[-1:]]
            trials += [Trial(arm, c, ratio, draw, rows) for c in evidence.settings.classifiers for arm, ratio, rows in arms]
    return trials


def run(evidence: Evidence, draws: Draws, trials: list[Trial], path: Path) -> list[dict[str, Any]]:
    """A row for each training: {key, arm, classifier, ratio, labels, seed, validation, test, counts}.

    validation, test: which images were recognised, as hits.written has it.  counts: drawn real images of each class.
    Rows that the file at `path` holds are not made again; a key names everything that decides a row.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = {row["key"]: row for row in _stored(path)}
    torn = path.exists() and not path.read_bytes().endswith(b"\n")  # killed in the middle of a line
    judges = _Judges(evidence, draws.validation)
    rows, started, made = [], time.perf_counter(), 0
    keys = [judges.key(trial) for trial in trials]
    todo = sum(key not in stored for key in keys)
    log.info("utility: %d trainings%s", len(trials), f", {len(trials) - todo} already there" if todo < len(trials) else "")
    for trial, key in zip(trials, keys, strict=True):
        if key not in stored:
            row = {"key": key, **_facts(evidence, trial), **judges.judge(trial)}
            with path.open("a", encoding="utf-8") as file:
                file.write("\n" * torn + json.dumps(row) + "\n")
            torn = False
            stored[key] = row
            made += 1
            left = (time.perf_counter() - started) / made * (todo - made)
            log.info(
                "utility: %d/%d  %s  validation %.3f  %d:%02d left",
                made,
                todo,
                _name(trial),
                hits.balanced_accuracy(row["validation"]),
                *divmod(int(left), 60),
            )
        rows.append({**stored[key], **_facts(evidence, trial)})  # the same images may have another ratio in another evaluation
    return rows


def _stored(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # the last line of a killed evaluation: its training is made again
        if isinstance(row, dict) and {"key", "validation", "test"} <= row.keys():
            yield row


def _facts(evidence: Evidence, trial: Trial) -> dict[str, Any]:
    counts = np.bincount(evidence.real.labels[trial.draw.real], minlength=len(evidence.class_names))
    facts = {"arm": trial.arm, "classifier": trial.classifier, "ratio": trial.ratio, "labels": trial.draw.labels, "seed": trial.draw.seed}
    return {**facts, "counts": counts.tolist()}


def _name(trial: Trial) -> str:
    labels = "" if trial.draw.labels is None else f"  {trial.draw.labels} labels"
    ratio = f" {trial.ratio:g}:1" if trial.ratio else ""
    return f"{trial.classifier} {trial.arm}{ratio}{labels}  seed {trial.draw.seed}"


class _Judges:
    """The classifiers over one evidence; each answers for validation and test images in one pass."""

    def __init__(self, evidence: Evidence, validation: np.ndarray):
        self.evidence, self.validation = evidence, validation
        self.classes = len(evidence.class_names)
        self.tested = evidence.tested
        self._asked: dict[str, Part] = {}
        self._views: dict[int, np.ndarray] = {}
        self._strengths: dict[bytes, float] = {}

    def key(self, trial: Trial) -> str:
        """A digest of everything that decides a training's result."""
        facts = [FORMAT, trial.arm, trial.classifier, trial.draw.seed, self.classes, self._settings(trial)]
        total = hashlib.sha256(json.dumps(facts).encode())
        evidence = self.evidence
        for part, rows in ((evidence.real, trial.draw.real), (evidence.made.images, trial.synthetic), (evidence.real, self.validation)):
            total.update(_digest(part, rows))
        total.update(_digest(evidence.test, self.tested))
        if evidence.made.soft is not None:
            total.update(self._targets(trial).tobytes())
        return total.hexdigest()[:24]

    def _settings(self, trial: Trial) -> dict[str, Any]:
        own = self.evidence.settings
        if trial.classifier == "linear_probe":
            views = {"side": self.evidence.eyes.side} if trial.arm == "real_strong" else {}
            return {"backbone": self.evidence.eyes.backbone.identity, "flips": own.flips, "balanced": self._balanced(trial), **views}
        return {**asdict(self._training(trial)), "side": self.evidence.eyes.side, "threads": own.threads}

    def judge(self, trial: Trial) -> dict[str, Any]:
        """{validation, test}: which images are recognised, class by class. Raises UserError for a leak; see Split."""
        split = self._split(trial)
        if trial.classifier == "small_network":
            logits = split.network(trial.arm, self.classes, self._training(trial), trial.draw.seed)
        else:
            logits = self._linear_probe(trial, split)
        held, predicted, truth = len(self.validation), logits.argmax(1), split.test.labels
        parts = {"validation": slice(None, held), "test": slice(held, None)}
        return {name: hits.written(predicted[part], truth[part], self.classes) for name, part in parts.items()}

    def _split(self, trial: Trial) -> Split:
        """What the training may see and is asked about: small images for the network, features for the probe."""
        seen = "small" if trial.classifier == "small_network" else "features"
        evidence, rows = self.evidence, trial.synthetic
        real, asked = _part(evidence.real, trial.draw.real, seen), self._validation_and_test(seen)
        if not len(rows):
            return Split(real, asked)
        guards.require_parents([evidence.common], trial.draw.real)
        made = replace(_part(evidence.made.images, rows, seen), labels=self._targets(trial))
        return Split(real, asked, made, [evidence.parents[row] for row in rows], trial.draw.real)

    def _validation_and_test(self, seen: str) -> Part:
        """Validation images, then test images."""
        if seen not in self._asked:
            parts = [_part(self.evidence.real, self.validation, seen), _part(self.evidence.test, self.tested, seen)]
            images, labels = (np.concatenate([getattr(part, name) for part in parts]) for name in ("images", "labels"))
            self._asked[seen] = Part(images, labels, [digest for part in parts for digest in part.pixels])
        return self._asked[seen]

    def _targets(self, trial: Trial) -> np.ndarray:
        """Probabilities of the synthetic images, float [N, classes]."""
        made = self.evidence.made
        hard = np.eye(self.classes, dtype=np.float32)[made.images.labels[trial.synthetic]]
        if made.soft is None:
            return hard
        soft = made.soft[trial.synthetic]
        soft = np.pad(soft, ((0, 0), (0, self.classes - soft.shape[1])))
        return np.where(soft.sum(1, keepdims=True) > 0, soft, hard)

    def _balanced(self, trial: Trial) -> bool:
        wanted = self.evidence.settings.balanced
        counts = np.bincount(self.evidence.real.labels[trial.draw.real])
        counts = counts[counts > 0]
        return bool(counts.max() >= UNEVEN * counts.min()) if wanted is None else wanted

    def _training(self, trial: Trial) -> Any:
        from factory.evaluate.classifiers import Training

        own = self.evidence.settings
        return of_arm(trial.arm, Training(own.steps, own.batch, own.width, flips=own.flips, balanced=self._balanced(trial)))

    def _linear_probe(self, trial: Trial, split: Split) -> np.ndarray:
        from factory.evaluate.classifiers import linear_probe

        real, rows = split.real, trial.draw.real
        parts = [] if trial.arm == "synthetic" else [(real.images, real.labels)]
        if trial.arm == "real_strong":
            views = self._strong(rows)
            parts.append((views.reshape(-1, views.shape[-1]), np.repeat(real.labels, VIEWS)))
        if split.made is not None:
            parts.append((split.made.images, split.made.labels.argmax(1)))
        features, labels = (np.concatenate(values) for values in zip(*parts, strict=True))
        shares = [1.0] if len(parts) == 1 else [0.5, 0.5]  # half and half, as in the network's batches
        weights = np.concatenate(
            [np.full(len(part[1]), share * len(rows) / len(part[1])) for part, share in zip(parts, shares, strict=True)]
        )
        if self._balanced(trial):
            mass = np.bincount(labels, weights, self.classes)
            weights *= (weights.sum() / (mass > 0).sum() / np.maximum(mass, 1e-9))[labels]
        return linear_probe(features, labels, split.test.images, self.classes, trial.draw.seed, self._strength(trial, real), weights)

    def _strength(self, trial: Trial, real: Part) -> float:
        """Chosen on the drawn real images alone, for every arm: children of an image in another fold would give it away."""
        from factory.evaluate.classifiers import probe_strength

        name = trial.draw.real.tobytes()
        if name not in self._strengths:
            self._strengths[name] = probe_strength(real.images, real.labels, 0)
        return self._strengths[name]

    def _strong(self, rows: np.ndarray) -> np.ndarray:
        """Features of strongly augmented views, float32 [N, VIEWS, D]; an image's views do not depend on its neighbours."""
        missing = [row for row in rows.tolist() if row not in self._views]
        if missing:
            pixels = np.concatenate([self._viewed(row) for row in missing])
            features = self.evidence.eyes.backbone.features(pixels)
            self._views.update(zip(missing, features.reshape(len(missing), VIEWS, -1), strict=True))
        return np.stack([self._views[row] for row in rows.tolist()])

    def _viewed(self, row: int) -> np.ndarray:
        """uint8 [VIEWS, S, S, 3]."""
        import torch

        from factory.evaluate.classifiers import strong

        image = self.evidence.real.small[row]
        x = torch.from_numpy(image).permute(2, 0, 1)[None].float().repeat(VIEWS, 1, 1, 1) / 255
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seeds.rng("views", self.evidence.real.pixels[row].hex()).integers(2**62)))
            views = strong(self.evidence.settings.flips, 3)(x)
        pixels: np.ndarray = (views.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        return pixels


def _part(images: ImageSet, rows: np.ndarray, seen: str) -> Part:
    return Part(getattr(images, seen)[rows], images.labels[rows], [images.pixels[row] for row in rows.tolist()])


def _digest(images: ImageSet, rows: np.ndarray) -> bytes:
    total = hashlib.sha256(images.labels[rows].tobytes())
    for row in rows.tolist():
        total.update(images.pixels[row])
    return total.digest()
