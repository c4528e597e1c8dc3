"""Filters against direct computation, on a tiny model with random weights and on plain arrays."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from factory import kinds, neighbours
from factory.contracts import Filter, FilterContext
from factory.errors import UserError
from factory.neighbours import earlier_neighbours, greedy
from factory.records import Example, Samples
from tests.test_encoders import Table, directly, make_model, pictures

NAMES = ["wren", "robin", "jay"]
ALL = ["blank", "clip_similarity", "near_duplicate", "source_similarity", "undecodable", "zero_shot"]  # the rest is in test_scorers


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_model(tmp_path_factory.mktemp("filters") / "clip"))


def make(kind: str, **keys: Any) -> Filter:
    return kinds.find("filters", kind, Filter)(**keys)  # type: ignore[return-value]


def samples(images: list[np.ndarray | None], **other: Any) -> Samples:
    count = len(images)
    values: dict[str, Any] = {
        "ids": [str(number) for number in range(count)],
        "labels": np.arange(count, dtype=np.int32) % len(NAMES),
        "prompts": [f"a photo of a {NAMES[number % 3]}" for number in range(count)],
        "parents": [()] * count,
    }
    return Samples(images=images, **{**values, **other})


def score(kind: str, batch: Samples, table: Any = None, names: list[str] | None = None, cache: Path | None = None, **keys: Any) -> dict:
    context = FilterContext("cpu", NAMES if names is None else names, table, cache)
    return make(kind, **keys).open(context).score(batch)


def test_the_kinds_are_there_and_only_near_duplicate_is_whole() -> None:
    assert set(ALL) <= set(kinds.names("filters"))
    assert [kind for kind in ALL if kinds.find("filters", kind, Filter).whole] == ["near_duplicate"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ALL)
def test_an_undecodable_image_is_a_row_without_a_score_and_disturbs_no_other(kind: str, model: str) -> None:
    images: list[np.ndarray | None] = list(pictures(4))
    keys = {"model": model} if "model" in kinds.find("filters", kind, Filter).model_fields else {}
    parent = Example(0, "p", pictures(1, seed=5)[0])
    with_hole = samples([images[0], None, images[2], images[3]], parents=[(parent,)] * 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        found = score(kind, with_hole, **keys)
        nothing = score(kind, samples([None, None], parents=[(parent,), ()]), **keys)
    alone = score(kind, samples(images, parents=[(parent,)] * 4), **keys)
    for name, column in found.items():
        assert len(column) == 4 and len(nothing[name]) == 2
        rest = [0, 2, 3]
        assert np.allclose(column[rest].astype(float), alone[name][rest].astype(float), atol=2e-3 if column.dtype == np.float16 else 1e-6)
        assert column[1] == 0 if kind == "undecodable" else np.isnan(column[1]).all()
        assert column.dtype == (np.float16 if name == "embedding" else np.float32)
        assert kind == "undecodable" or np.isnan(nothing[name]).all()


def test_clip_similarity_is_the_cosine_of_open_clip(model: str) -> None:
    images = pictures(5)
    batch = samples(list(images))
    seen, read, _ = directly(model, images, batch.prompts)
    assert np.allclose(score("clip_similarity", batch, model=model)["score"], (seen * read).sum(axis=1), atol=1e-6)
    _, templated, _ = directly(model, [], [f"a blurred {NAMES[number % 3]}" for number in range(5)])
    found = score("clip_similarity", batch, model=model, prompt="a blurred {label}")["score"]
    assert np.allclose(found, (seen * templated).sum(axis=1), atol=1e-6)


def test_clip_similarity_has_no_answer_without_a_text(model: str) -> None:
    batch = samples(list(pictures(3)), prompts=["", "a wren", "a jay"], labels=np.array([0, -1, 2], np.int32))
    assert np.isnan(score("clip_similarity", batch, model=model)["score"]).tolist() == [True, False, False]
    assert np.isnan(score("clip_similarity", batch, model=model, prompt="a {label}")["score"]).tolist() == [False, True, False]
    assert not np.isnan(score("clip_similarity", batch, model=model, prompt="{prompt}, sharp", names=[])["score"]).any()
    with pytest.raises(UserError, match="no class names"):
        score("clip_similarity", batch, model=model, prompt="a {label}", names=[])


@pytest.mark.parametrize(("kind", "key"), [("clip_similarity", "prompt"), ("zero_shot", "template")])
@pytest.mark.parametrize("text", ["a {lable}", "a {label", "a {}"])
def test_a_template_that_cannot_be_filled_is_a_fault_of_the_recipe(kind: str, key: str, text: str) -> None:
    with pytest.raises(ValidationError):
        make(kind, **{key: text})


def test_zero_shot_is_softmax_over_averaged_templates(model: str) -> None:
    images, templates = pictures(6), ["a photo of a {label}", "art of the {label}"]
    batch = samples(list(images), labels=np.array([0, 1, 2, -1, 1, 0], np.int32))
    seen, read, scale = directly(model, images, [text.format(label=name) for name in NAMES for text in templates])
    classes = read.reshape(3, 2, -1).mean(axis=1)
    classes /= np.linalg.norm(classes, axis=1, keepdims=True)
    weights = np.exp(scale * seen @ classes.T)
    expected = weights / weights.sum(axis=1, keepdims=True)
    found = score("zero_shot", batch, model=model, template=templates)
    labelled = [0, 1, 2, 4, 5]
    assert np.allclose(found["score"][labelled], expected[labelled, batch.labels[labelled]], atol=1e-5)
    assert np.isnan(found["score"][3]) and (found["predicted"] == expected.argmax(axis=1)).all()
    every = [score("zero_shot", samples(list(images), labels=np.full(6, label, np.int32)), model=model)["score"] for label in range(3)]
    assert np.sum(every, axis=0) == pytest.approx(np.ones(6), abs=1e-5)


def test_zero_shot_needs_classes_and_a_label_in_each_template(model: str) -> None:
    with pytest.raises(UserError, match="class names"):
        score("zero_shot", samples(list(pictures(1))), model=model, names=[])
    for template in ("a photo", ["a {label}", "a photo"], []):
        with pytest.raises(ValidationError, match="label"):
            make("zero_shot", template=template)


def test_source_similarity_takes_the_closest_parent(model: str, tmp_path: Path) -> None:
    images, real = pictures(4), pictures(6, seed=4)
    table = Table(real)  # row 3 cannot be decoded
    parent = [Example(index, f"{index:x}", image) for index, image in enumerate(real)]
    parents: list[tuple[Example, ...]] = [(parent[0], parent[2]), (), (parent[3], parent[1]), (parent[3],)]
    batch = samples(list(images), parents=parents)
    seen, _, _ = directly(model, images + real, [])
    cosines = seen[:4] @ seen[4:].T
    found = score("source_similarity", batch, table, cache=tmp_path, model=model)["score"]
    assert found[[0, 2]] == pytest.approx([max(cosines[0, 0], cosines[0, 2]), cosines[2, 1]], abs=1e-6)
    assert np.isnan(found[[1, 3]]).all()
    assert list((tmp_path / "embeddings").iterdir())
    bare = score("source_similarity", batch, None, model=model)["score"]
    assert bare[[0, 2, 3]] == pytest.approx([found[0], max(cosines[2, 1], cosines[2, 3]), cosines[3, 3]], abs=1e-6)
    copy = score("source_similarity", samples([real[0]], parents=[(parent[0],)]), table, model=model)["score"]
    assert copy == pytest.approx([1], abs=1e-6)


def test_blank_sees_flat_colour_and_nothing_else() -> None:
    black, white = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 255, np.uint8)
    half = np.concatenate([black, white])
    isoluminant = np.concatenate([np.full((8, 8, 3), (200, 0, 0), np.uint8), np.full((8, 8, 3), (0, 102, 0), np.uint8)])
    noise = np.random.default_rng(0).integers(126, 131, (64, 64, 3), dtype=np.uint8)
    big = np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8)
    found = score("blank", samples([black, white, half, isoluminant, noise, big, None]))["score"]
    assert found[:3].tolist() == [0, 0, 127.5]
    assert found[3] == pytest.approx(100) and found[4] < 4
    assert found[5] == pytest.approx(big.reshape(-1, 3).std(axis=0).max(), rel=1e-6)
    assert np.isnan(found[6])


def test_defaults_of_rules_may_be_overridden_and_are_no_part_of_identity() -> None:
    assert make("undecodable").bounds() == (1, np.inf)
    assert make("blank").bounds() == (4, np.inf) and make("blank", min=9).bounds() == (9, np.inf)
    assert make("blank", between=(2, 100)).bounds() == (2, 100)
    assert make("blank").identity() == make("blank", min=9).identity()
    assert make("near_duplicate").max == 0.96
    assert make("near_duplicate", max=0.9).identity() == make("near_duplicate").identity()
    assert make("near_duplicate", floor=0.8).identity() != make("near_duplicate").identity()


@pytest.mark.parametrize(
    "key", [("max", 0.8), ("max", 1.5), ("max", None), ("floor", 0), ("min", 0.1), ("between", (0.1, 0.2)), ("keep_top", 5)]
)
def test_near_duplicate_refuses_a_rule_it_cannot_apply(key: tuple[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make("near_duplicate", **dict([key]))


def test_near_duplicate_finds_the_copy_among_images(model: str) -> None:
    images = pictures(5)
    images[3] = images[1].copy()
    columns = score("near_duplicate", samples(list(images)), model=model)
    index, similarity = earlier_neighbours(columns["embedding"], floor=0.9)
    assert index[3, 0] == 1 and similarity[3, 0] == pytest.approx(1, abs=1e-6)


def clustered(count: int, seed: int, spread: float, clusters: int = 12) -> np.ndarray:
    """Unit-free rows around a few centres, with exact copies, zeros and NaN rows among them; float16 as stored."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(clusters, 16))[rng.integers(0, clusters, count)] + spread * rng.normal(size=(count, 16))
    rows[rng.integers(0, count, count // 10)] = rows[0]
    rows[rng.integers(1, count, 4)] = np.nan
    rows[count // 2] = 0
    return rows.astype(np.float16)


def cosines_of(embeddings: np.ndarray) -> np.ndarray:
    rows = np.nan_to_num(embeddings.astype(np.float32) * np.where(np.isnan(embeddings).any(axis=1), np.nan, 1)[:, None], nan=0.0)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return np.minimum(rows @ rows.T, 1)


@pytest.mark.parametrize("block", [7, 64, 4096])
def test_earlier_neighbours_are_those_of_brute_force(block: int) -> None:
    k, floor = 5, 0.85
    embeddings = clustered(300, seed=block, spread=0.2)
    index, similarity = earlier_neighbours(embeddings, floor, k, block)
    cosines = cosines_of(embeddings)
    assert index.dtype == np.int32 and similarity.dtype == np.float32 and index.shape == similarity.shape == (300, k)
    for row in range(300):
        expected = np.sort(cosines[row, :row][cosines[row, :row] >= floor])[::-1][:k]
        found = index[row][index[row] >= 0]
        assert similarity[row, : len(expected)] == pytest.approx(expected, abs=1e-6)
        assert len(found) == len(expected) == len(set(found.tolist())) and (found < row).all()
        assert cosines[row, found] == pytest.approx(similarity[row, : len(found)], abs=1e-6)
        assert (similarity[row, len(found) :] == -1).all()
    assert (index[np.isnan(embeddings).any(axis=1)] == -1).all()


def directions(dim: int, width: int, seed: int = 0) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))[0][:, :width]


@pytest.mark.parametrize("width", [1, 4, 15])
@pytest.mark.parametrize("pair", [0, 10**9])  # never a product of a whole tile, and always one
def test_a_screen_in_any_directions_misses_nothing(width: int, pair: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "TILE", 9)
    monkeypatch.setattr(neighbours, "STACK", 3)
    monkeypatch.setattr(neighbours, "PAIR", pair)
    for seed, floor in ((0, 0.6), (1, 0.85), (2, 0.97)):
        embeddings = clustered(300, seed=seed, spread=0.2)
        expected = earlier_neighbours(embeddings, floor, k=5)
        with monkeypatch.context() as patch:
            patch.setattr(neighbours, "_screen", lambda *_: directions(16, width))
            index, similarity = earlier_neighbours(embeddings, floor, k=5, block=25)
        assert similarity == pytest.approx(expected[1], abs=1e-6) and (expected[1] > 0).sum() > 50
        assert ((index >= 0) == (expected[0] >= 0)).all() and (index < np.arange(300)[:, None]).all()
        cosines = np.take_along_axis(cosines_of(embeddings), np.maximum(index, 0), axis=1)
        assert np.where(index >= 0, cosines, -1) == pytest.approx(similarity, abs=1e-6)


def test_a_bound_is_never_below_the_cosine_and_the_screen_follows_from_what_it_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "SCREENED", 10_000)
    draw = np.random.default_rng(0)
    spectrum = np.where(np.arange(128) < 24, 1, 0.1)
    decaying, flat = draw.normal(size=(12_000, 128)) * spectrum, draw.normal(size=(12_000, 128))
    basis = neighbours._screen(decaying.astype(np.float16), 0.9)
    assert basis is not None and basis.shape in ((128, 16), (128, 32)) and np.abs(basis.T @ basis - np.eye(basis.shape[1])).max() < 1e-12
    for rows in (decaying[:500], flat[:500]):
        units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        bounds = neighbours._coordinates(units, basis)
        assert (bounds @ bounds.T - units @ units.T).min() > -1e-6
    assert neighbours._screen(flat, 0.2) is None  # there most pairs would pass
    assert neighbours._screen(decaying[:5_000], 0.9) is None  # and here there is little to save


def test_of_equal_neighbours_the_earliest_are_listed() -> None:
    embeddings = np.tile(np.eye(4, dtype=np.float32)[:1], (40, 1))
    for block in (6, 4096):
        index, _ = earlier_neighbours(embeddings, 0.9, k=3, block=block)
        assert (index[3:] == [0, 1, 2]).all() and index[:3].tolist() == [[-1, -1, -1], [0, -1, -1], [0, 1, -1]]


def test_earlier_neighbours_of_nothing_and_without_a_floor() -> None:
    index, similarity = earlier_neighbours(np.empty((0, 8), np.float16), 0.9)
    assert index.shape == similarity.shape == (0, 16) and greedy(index, similarity, np.empty(0, bool), 0.9).shape == (0,)
    with pytest.raises(ValueError, match="floor"):
        earlier_neighbours(np.ones((2, 2)), 0.0)


def test_greedy_compares_only_with_rows_that_stay() -> None:
    angle = np.radians([0, 10, 20])  # A~B and B~C, but not A~C
    embeddings = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    index, similarity = earlier_neighbours(embeddings, 0.9)
    limit = float(np.cos(np.radians(15)))
    assert greedy(index, similarity, np.array([True, True, True]), limit).tolist() == [False, True, False]
    assert greedy(index, similarity, np.array([False, True, True]), limit).tolist() == [False, False, True]
    assert greedy(index, similarity, np.array([True, False, True]), limit).tolist() == [False, True, False]
    assert greedy(index, similarity, np.array([False, False, True]), limit).tolist() == [False, False, False]


def slow_greedy(cosines: np.ndarray, kept: np.ndarray, limit: float) -> np.ndarray:
    duplicate = np.zeros(len(kept), bool)
    for row in range(len(kept)):
        duplicate[row] = (cosines[row, :row][kept[:row] & ~duplicate[:row]] > limit).any()
    return duplicate


@pytest.mark.parametrize("spread", [0.05, 0.15, 0.3])
@pytest.mark.parametrize("limit", [0.86, 0.95])
def test_greedy_in_a_crowd_is_exact_with_embeddings(spread: float, limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factory.neighbours.BLOCK", 50)
    embeddings = clustered(400, seed=3, spread=spread, clusters=5)
    kept = np.random.default_rng(1).random(400) < 0.7
    index, similarity = earlier_neighbours(embeddings, 0.85, k=3)
    expected = slow_greedy(cosines_of(embeddings), kept, limit)
    assert (greedy(index, similarity, kept, limit, lambda: embeddings) == expected).all()
    wide = earlier_neighbours(embeddings, 0.85, k=400)  # long lists need no embeddings
    assert (greedy(*wide, kept, limit) == expected).all()


def test_a_collapsed_dataset_leaves_one_image_even_without_embeddings() -> None:
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=32) + 0.02 * rng.normal(size=(500, 32))
    index, similarity = earlier_neighbours(embeddings, 0.85, k=4)
    assert (~greedy(index, similarity, np.ones(500, bool), 0.96)).sum() == 1
    assert (~greedy(index, similarity, np.ones(500, bool), 0.96, lambda: embeddings)).sum() == 1
