"""bench.papers at toy size on the shipped sample: what it measures, that it goes on, and what it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench import _results, _trials, papers
from bench._methods import CLAIMS, FILTERED, METHODS, Claim
from bench._tail import LongTail
from factory.errors import UserError
from factory.evaluate.classifiers import Training, small_network
from tests.conftest import ROOT

SAMPLE, MODEL = ROOT / "data/fashion-mnist", ROOT / "data/models/fashion-mnist"
NAMES = ["real_strong", "linear_probe", "pseudo_labels", "true_labels", "augmented_embed_mixup_dropout", "propagation", "prompts"]
FLAGS = ["--labels=3", "--synthetic=2", "--pool=60", "--test=4", "--steps=1", "--training-steps=2", "--dtype=float32", "--threads=1"]
SETS = ["--sets", "fashion-mnist", "bccd"]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the bench in a folder and returns (rows of results.json, results.md)."""
    monkeypatch.setenv("FACTORY_CACHE", str(tmp_path / "cache"))
    data, model = tmp_path / "fashion", tmp_path / "models/fashion-rich"
    data.mkdir()
    model.mkdir(parents=True)
    for split in ("train", "test"):
        (data / f"{split}.parquet").symlink_to(SAMPLE / f"{split}-00000-of-00001.parquet")
    for part in MODEL.iterdir():
        (model / part.name).symlink_to(part)
    (model / "encoder").symlink_to(MODEL / "clip")
    threads = torch.get_num_threads()
    folders = ["--fashion", str(data), "--models", str(model.parent), "--rows", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path)]

    def run(*more: str) -> tuple[list[dict[str, Any]], str]:
        papers.main([*folders, *FLAGS, *SETS, *more])
        return json.loads((tmp_path / "results.json").read_text())["rows"], (tmp_path / "results.md").read_text()

    yield run
    torch.set_num_threads(threads)


def test_methods_are_measured_once_and_tabled(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, text = bench("--methods", *NAMES, "--seeds", "1")
    expected = [(arm.removesuffix(FILTERED), arm.endswith(FILTERED)) for name in NAMES for arm in METHODS[name].arms]
    assert [(row["method"], row["filtered"]) for row in rows] == expected
    assert set(rows[0]) == {"set", "labels", "method", "filtered", "accuracy_mean", "ci95", "seeds", "gain", "gain_ci95"}
    assert all(0 <= row["accuracy_mean"] <= 1 and row["ci95"] is None and row["labels"] == 3 for row in rows)
    assert "| prompts † |" in text and "bccd: no data" in text and "with one seed" in text
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert len(lines) == len(expected)

    (tmp_path / "rows.jsonl").write_text("\n".join(line for line in lines if '"arm": "linear_probe"' not in line) + "\n")
    measured = []
    monkeypatch.setattr(papers._trials.Judge, "__call__", lambda self, arm, *rest: measured.append(arm) or [0.5] * 10)
    again, _ = bench("--methods", *NAMES, "--seeds", "1")
    assert measured == ["linear_probe"], "only what is missing is measured"
    assert [row for row in again if row["method"] != "linear_probe"] == [row for row in rows if row["method"] != "linear_probe"]
    more, _ = bench("--methods", *NAMES, "--seeds", "9", "--minutes", "0")
    assert more == again, "no time is left"
    other, _ = bench("--methods", "real_strong", "--seeds", "1", "--training-steps", "3", "--minutes", "0")
    assert other == [], "a row of another budget is another measurement"


def test_a_method_that_cannot_be_done_is_named_and_the_others_go_on(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(study: Any, table: Any) -> Any:
        raise UserError("nothing is near")

    monkeypatch.setattr(papers.Study, "_guessed", refuse)
    monkeypatch.setattr(papers._trials.Judge, "__call__", lambda self, *rest: [0.5] * 10)
    rows, text = bench("--methods", "pseudo_labels", "real_strong", "--seeds", "1")
    assert [row["method"] for row in rows] == ["real_strong"] and "seed 0: pseudo_labels: nothing is near" in text


def test_the_filter_keeps_what_the_probe_believes() -> None:
    """Two classes of brightness; the made images of each are half right, half of the other class."""

    class Eyes:
        def features(self, images: np.ndarray) -> np.ndarray:
            return images.reshape(len(images), -1).mean(1, keepdims=True).astype(np.float32)

    class Judge:
        eyes, class_names = Eyes(), ["dark", "bright"]

    study: Any = papers.Study.__new__(papers.Study)
    study.given, study.judge = papers.options().parse_args(["--synthetic", "4"]), Judge()
    rng = np.random.default_rng(0)

    def values(levels: list[int]) -> np.ndarray:
        noisy = np.array(levels)[:, None, None, None] + rng.integers(-9, 9, (len(levels), 4, 4, 3))
        return np.clip(noisy, 0, 255).astype(np.uint8)

    def right(part: tuple[np.ndarray, np.ndarray]) -> float:
        return float(((part[0].reshape(len(part[0]), -1).mean(1) > 120) == part[1]).mean())

    real, known = values([40, 200] * 5), np.array([0, 1] * 5)
    made = values([40, 200, 200, 40] * 4), np.array([0, 1, 0, 1] * 4)
    assert right(study._half(made, real, known, 0, False)) == 0.5 and right(study._half(made, real, known, 0, True)) == 1
    assert np.bincount(study._half(made, real, known, 0, True)[1]).tolist() == [4, 4]


def _row(arm: str, seed: int, accuracy: float) -> dict[str, Any]:
    return {"arm": arm, "seed": seed, "accuracy": accuracy, "labels_per_class": 5}


@pytest.mark.parametrize(
    ("gains", "word"), [([3, 4, 5], "*holds*, +4.0"), ([-3, -4, -5], "*does not hold*, -4.0"), ([-9, 1, 9], "*not settled*")]
)
def test_a_claim_is_judged_by_its_interval(gains: list[int], word: str) -> None:
    measured = [_row("real_strong", s, 0.5 + s / 10) for s in range(3)] + [
        _row("mixup", s, 0.5 + s / 10 + g / 100) for s, g in enumerate(gains)
    ]
    (sentence,) = _results.judged(Claim("p", "helps", ("mixup",)), "set", measured)
    assert word in sentence and "over real + RandAugment" in sentence and "5 labels a class" in sentence
    assert not list(_results.judged(Claim("p", "helps", ("cutmix",)), "set", measured))


def test_means_and_gains_are_over_the_seeds_of_both_arms() -> None:
    rows = [_row("real_strong", s, 0.5 + s / 10) for s in (0, 1)] + [_row("mixup", s, 0.6 + s / 10) for s in (0, 1, 2)]
    strong, mixed = _trials.summarise([*rows, {**_row("mixup", 0, 0.9), "labels_per_class": 9}])[:2]
    assert strong["accuracy_mean"] == pytest.approx(0.55) and strong["gain"] is None and strong["seeds"] == 2
    assert (mixed["arm"], mixed["labels_per_class"], mixed["seeds"]) == ("mixup", 5, 3) and mixed["accuracy_mean"] == pytest.approx(0.7)
    assert mixed["gain"] == pytest.approx(0.1) and mixed["gain_ci95"] == pytest.approx(0, abs=1e-9)


def test_claims_name_arms_that_are_measured() -> None:
    arms = {arm for method in METHODS.values() for arm in method.arms}
    assert all(arms.issuperset(pair) for claim in CLAIMS for pair in claim.pairs())
    assert len([name for name in METHODS if name.startswith("augmented")]) == 9


def test_long_tail_falls_to_a_share_of_the_first_class() -> None:
    table = LongTail(images={"dataset": str(SAMPLE)}, most=40, ratio=20, seed=1).open()  # type: ignore[arg-type]
    counts = np.bincount(table.labels)
    assert counts[0] == 40 and counts[-1] == 2 and (np.diff(counts) <= 0).all() and len(table) == counts.sum()
    assert table.read(3).label == table.labels[3] and table.read(3).index == 3
    other = LongTail(images={"dataset": str(SAMPLE)}, most=40, ratio=20, seed=2).open()  # type: ignore[arg-type]
    assert other.fingerprint != table.fingerprint


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_mixing_is_an_option_of_the_small_network(mix: Any) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(24) % 2
    images = np.clip(rng.normal(60 + 120 * labels[:, None, None, None], 25, (24, 28, 28, 3)), 0, 255).astype(np.uint8)
    plain, mixed = (
        small_network(images, labels, images, 2, Training(steps=30, batch=16, width=4, augmentation="none", mix=m), 0)
        for m in ("none", mix)
    )
    assert not np.allclose(plain, mixed) and (mixed.argmax(1) == labels).mean() > 0.8
    again = small_network(images, labels, images, 2, Training(steps=30, batch=16, width=4, augmentation="none", mix=mix), 0)
    assert np.array_equal(mixed, again)
