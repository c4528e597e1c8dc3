"""Near-duplicates by perceptual hash: the hash itself, the index of bits against comparing all, and the rule in a run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from factory import images as pixels
from factory import neighbours
from factory.neighbours import earlier_neighbours, greedy
from tests.conftest import ROOT
from tests.test_filters import make, samples, score, slow_greedy


def signs(count: int, seed: int, copies: float = 0.5, flips: int = 14) -> np.ndarray:
    """Rows of 64 signs, many of them copies of an earlier row with some bits changed, a few exact, some NaN."""
    draw = np.random.default_rng(seed)
    rows = np.where(draw.random((count, 64)) < 0.5, 1.0, -1.0)
    for row in range(1, count):
        if draw.random() < copies:
            rows[row] = rows[draw.integers(row)]
            rows[row, draw.permutation(64)[: draw.integers(flips)]] *= -1
    rows[draw.integers(0, count, count // 10)] = rows[0]
    rows[draw.integers(1, count, 3)] = np.nan
    return rows.astype(np.float16)


def compared_with_all(rows: np.ndarray, bits: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The slow and obvious reading."""
    index, similarity = np.full((len(rows), k), -1, np.int32), np.full((len(rows), k), -1, np.float32)
    for row in range(len(rows)):
        distance = (rows[:row] != rows[row]).sum(axis=1)
        near = [(int(distance[other]), other) for other in range(row) if distance[other] <= bits and not np.isnan(rows[[row, other]]).any()]
        for slot, (bit, other) in enumerate(sorted(near)[:k]):
            index[row, slot], similarity[row, slot] = other, 1 - bit / 32
    return index, similarity


@pytest.mark.parametrize("bits", [0, 3, 4, 10, 11, 17])
@pytest.mark.parametrize("entries", [64, 4_000_000])
def test_the_index_of_bits_finds_what_comparing_all_finds(bits: int, entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "ENTRIES", entries)
    rows = signs(300, seed=bits)
    expected = compared_with_all(rows, bits, k=5)
    found = earlier_neighbours(rows, 1 - 2 * bits / 64, k=5)
    assert (found[0] == expected[0]).all() and (found[1] == expected[1]).all()
    assert (expected[0] >= 0).sum() > 100
    assert found[0].dtype == np.int32 and found[1].dtype == np.float32


def test_rows_of_signs_and_matrix_products_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = signs(500, seed=1)
    fast = earlier_neighbours(rows, 1 - 22 / 64)
    monkeypatch.setattr(neighbours, "MOST_FLIPS", -1)
    monkeypatch.setattr(neighbours, "_earlier_hashes", lambda *_: pytest.fail("the other way was to be taken"))
    slow = earlier_neighbours(rows, 1 - 22 / 64)
    assert (fast[0] == slow[0]).all() and (fast[1] == slow[1]).all()


@pytest.mark.parametrize("distance", [0, 5, 10])
def test_the_first_of_each_crowd_stays(distance: int) -> None:
    f = make("perceptual_hash", distance=distance)
    rows = signs(400, seed=3, copies=0.9, flips=8)
    kept = np.random.default_rng(1).random(400) < 0.8
    index, similarity = earlier_neighbours(rows, f.floor, k=3)  # type: ignore[attr-defined]
    whole = np.nan_to_num(rows.astype(np.float64))
    expected = slow_greedy(whole @ whole.T / 64, kept, 1 - (2 * distance + 1) / 64)
    assert (greedy(index, similarity, kept, f.bounds()[1], lambda: rows) == expected).all() and expected.sum() > 20


def test_a_crowd_of_equal_rows_costs_no_more_than_its_size() -> None:
    rows = np.ones((20_000, 64), np.float16)
    rows[7] = np.nan
    index, similarity = earlier_neighbours(rows, 0.65)
    assert index[100].tolist() == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16] and (similarity[100] == 1).all()
    assert (index[7] == -1).all() and index[9, :9].tolist() == [0, 1, 2, 3, 4, 5, 6, 8, -1]
    assert (~greedy(index, similarity, np.ones(20_000, bool), 0.67, lambda: rows)).sum() == 2  # one picture, and one without a hash


def scene(seed: int, side: int = 96) -> np.ndarray:
    """A picture with structure: a few coloured discs on a slope of light."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    picture = np.stack([draw.random() * x + draw.random() * y for _ in range(3)], axis=2) * 120
    for _ in range(5):
        (cy, cx), radius = draw.random(2), draw.uniform(0.1, 0.3)
        picture[(y - cy) ** 2 + (x - cx) ** 2 < radius**2] = draw.uniform(0, 255, 3)
    return picture.astype(np.uint8)


def test_copies_of_other_size_and_quality_are_the_same_picture_and_others_are_not() -> None:
    first = scene(0)
    small = np.asarray(Image.fromarray(first).resize((48, 48)))
    squeezed = pixels.decode(pixels.encode(first, "jpeg", 30))
    brighter = np.clip(first.astype(int) + 12, 0, 255).astype(np.uint8)
    columns = score("perceptual_hash", samples([first, scene(1), small, None, squeezed, scene(2), brighter, None]))
    rows = columns["embedding"]
    assert rows.dtype == np.float16 and rows.shape == (8, 64) and np.isnan(rows[[3, 7]]).all()
    f = make("perceptual_hash")
    gone = greedy(*earlier_neighbours(rows, f.floor), np.ones(8, bool), f.bounds()[1])  # type: ignore[attr-defined]
    assert gone.tolist() == [False, False, True, False, True, False, True, False]


def test_the_hash_is_imagehashs_own() -> None:
    import imagehash

    found = score("perceptual_hash", samples([scene(4)]))["embedding"][0] > 0
    assert (found == imagehash.phash(Image.fromarray(scene(4))).hash.ravel()).all()


def test_distance_is_a_rule_and_reach_bounds_it() -> None:
    assert make("perceptual_hash").bounds() == (-np.inf, 1 - 21 / 64)
    assert make("perceptual_hash", distance=4).identity() == make("perceptual_hash").identity()
    assert make("perceptual_hash", reach=14, distance=12).identity() != make("perceptual_hash").identity()
    bad: list[dict[str, Any]] = [{"distance": 12}, {"distance": -1}, {"reach": 40}, {"min": 0.5}, {"max": 3}, {"keep_top": 5}]
    for keys in bad:
        with pytest.raises(ValidationError):
            make("perceptual_hash", **keys)


def test_a_run_drops_copies_and_a_stricter_distance_needs_no_images(tmp_path: Path) -> None:
    """The stored column is what the rule of a run reads."""
    from factory import assemble
    from factory.store import Shards, Store

    f = make("perceptual_hash", distance=10)
    store = Store(tmp_path)
    rows = signs(60, seed=5, copies=0.6, flips=10)
    for number, part in enumerate(np.split(rows, 3)):
        store.write_scores(f"00-{number:05d}", f.identity(), {"embedding": part})
    shards = Shards(tuple(f"00-{number:05d}" for number in range(3)), "digest")
    whole = np.nan_to_num(rows.astype(np.float64))
    for distance in (10, 6):
        rule = getattr(assemble, "rule", None) or assemble._rule
        found = rule(make("perceptual_hash", distance=distance), "perceptual_hash", store, shards)
        gone = greedy(*found.neighbours, np.ones(60, bool), found.high, found.embeddings)
        assert (gone == slow_greedy(whole @ whole.T / 64, np.ones(60, bool), 1 - (2 * distance + 1) / 64)).all() and gone.any()


@pytest.mark.parametrize("of", ["hash", "embedding"])
def test_the_bench_finds_every_planted_copy(of: str) -> None:
    command = [sys.executable, "-m", "bench.duplicates", "--rows", "3000", "--of", of, "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["rows"] == 3000 and answer["recall"] == 1 and answer["seconds"] > 0 and answer["peak_mb"] > 0
    assert 140 <= answer["dropped"] <= 160
