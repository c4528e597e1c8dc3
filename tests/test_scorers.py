"""Scorers of made and of found images, each against a direct computation; rows without parents, labels or captions among them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from factory.errors import UserError
from factory.records import Example, Samples
from tests.test_encoders import Table, directly, make_model, pictures
from tests.test_filters import NAMES, make, samples, score

PLAIN = ["aspect", "sharpness", "size"]
ENCODED = ["confidence", "inter_similarity", "logit_cosine"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_model(tmp_path_factory.mktemp("scorers") / "clip"))


class Birds(Table):
    """Six labelled real images, of which row 3 cannot be decoded."""

    def __init__(self, images: list[np.ndarray], labels: list[int], names: list[str] = NAMES) -> None:
        super().__init__(images)
        self.class_names = names  # type: ignore[assignment]
        self.labels = np.array(labels, np.int32)


def found(images: list[np.ndarray | None], **other: Any) -> Samples:
    """Rows of a corpus that knows nothing but pixels."""
    return samples(images, **{"labels": np.full(len(images), -1, np.int32), "prompts": [""] * len(images), **other})


@pytest.mark.parametrize("kind", PLAIN + ENCODED)
def test_a_row_that_lacks_what_is_needed_has_no_score_and_disturbs_no_other(kind: str, model: str) -> None:
    real = pictures(6, seed=4)
    table, keys = Birds(real, [0, 0, 1, 1, 2, 2]), {"model": model} if kind in ENCODED else {}
    images: list[np.ndarray | None] = list(pictures(4))
    parent = Example(0, "p", real[0])
    whole = samples(images, parents=[(parent,)] * 4)
    holed = samples([images[0], None, images[2], images[3]], parents=[(parent,), (parent,), (), (parent,)], labels=np.array([0, 1, 2, -1]))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        full, part = (score(kind, batch, table, **keys)["score"] for batch in (whole, holed))
        nothing = score(kind, found([None, None]), table, **keys)["score"]
        none = score(kind, found([]), table, **keys)["score"]
    lacking = {"inter_similarity": [1, 3], "logit_cosine": [1, 2]}.get(kind, [1])
    assert np.flatnonzero(np.isnan(part)).tolist() == lacking and not np.isnan(full).any()
    rest = [row for row in range(4) if row not in lacking]
    assert part[rest] == pytest.approx(full[rest], abs=1e-6)
    assert np.isnan(nothing).all() and none.shape == (0,)
    assert full.dtype == part.dtype == np.float32


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    blurred = cv2.GaussianBlur(noise, (9, 9), 3)
    grey = cv2.cvtColor(noise, cv2.COLOR_RGB2GRAY).astype(np.float64)
    padded = np.pad(grey, 1, mode="reflect")
    laplacian = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] - 4 * grey
    sharp, soft, flat, line = score("sharpness", samples([noise, blurred, np.full((8, 8, 3), 7, np.uint8), noise[:1, :1]]))["score"]
    assert sharp == pytest.approx(laplacian.var(), rel=1e-6)
    assert soft < 100 < sharp and flat == line == 0


def test_sharpness_at_one_size_compares_pictures_of_any_size() -> None:
    small = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    large = small.repeat(4, axis=0).repeat(4, axis=1)
    own = score("sharpness", samples([small, large]))["score"]
    same = score("sharpness", samples([small, large]), side=32)["score"]
    assert own[1] < own[0] / 3 and same[1] == pytest.approx(same[0], rel=0.02) and same[0] == own[0]


def test_size_and_aspect() -> None:
    images = [np.zeros(shape, np.uint8) for shape in [(200, 600, 3), (30, 30, 3), (601, 200, 3), (1, 7, 3)]]
    batch = samples(list(images))
    assert score("size", batch)["score"].tolist() == [200, 30, 200, 1]
    assert score("size", batch, of="longer")["score"].tolist() == [600, 30, 601, 7]
    assert score("size", batch, of="pixels")["score"].tolist() == [120000, 900, 120200, 7]
    assert score("aspect", batch)["score"] == pytest.approx([3, 1, 3.005, 7])
    assert make("size").bounds() == (200, np.inf) and make("aspect").bounds() == (-np.inf, 3)


def test_caption_length_and_words() -> None:
    texts = ["a small brown wren", "", "wren", "  \n", "Stock Photo of a wren", None, "x " * 500_000]
    batch = found([None] * 7, prompts=texts)
    assert score("caption", batch)["score"].tolist() == [4, 0, 1, 0, 5, 0, 500_000]
    assert score("caption", batch, unit="characters")["score"].tolist() == [18, 0, 4, 0, 21, 0, 999_999]
    denied = score("caption", batch, deny="(?i)stock photo")["score"]
    assert np.flatnonzero(np.isnan(denied)).tolist() == [4]
    allowed = score("caption", batch, allow=r"\bwren\b")["score"]
    assert np.flatnonzero(np.isnan(allowed)).tolist() == [1, 3, 5, 6]
    assert make("caption").bounds() == (3, np.inf)
    with pytest.raises(ValidationError, match="regular expression"):
        make("caption", deny="(")


def test_confidence_is_one_less_the_entropy(model: str) -> None:
    images = pictures(5)
    seen, read, scale = directly(model, images, [f"a photo of a {name}" for name in NAMES])
    weights = np.exp(scale * seen @ read.T)
    chances = weights / weights.sum(axis=1, keepdims=True)
    answer = score("confidence", found(list(images)), model=model)
    assert answer["score"] == pytest.approx(1 + (chances * np.log(chances)).sum(axis=1) / np.log(3), abs=1e-5)
    assert (answer["predicted"] == chances.argmax(axis=1)).all()
    with pytest.raises(UserError, match="two classes"):
        score("confidence", found(list(images)), names=["wren"], model=model)
    with pytest.raises(UserError, match="class names"):
        score("confidence", found(list(images)), names=[], model=model)


def test_logit_cosine_takes_the_closest_parent_with_or_without_a_table(model: str, tmp_path: Path) -> None:
    images, real = pictures(3), pictures(6, seed=4)
    parent = [Example(index, f"{index:x}", image) for index, image in enumerate(real)]
    batch = samples(list(images), parents=[(parent[0], parent[2]), (parent[1],), ()])
    seen, read, _ = directly(model, images + real, [f"a photo of a {name}" for name in NAMES])
    logits = seen @ read.T
    logits /= np.linalg.norm(logits, axis=1, keepdims=True)
    cosines = logits[:3] @ logits[3:].T
    expected = [max(cosines[0, 0], cosines[0, 2]), cosines[1, 1]]
    for table in (None, Birds(real, [0] * 6)):
        answer = score("logit_cosine", batch, table, cache=tmp_path, model=model)["score"]
        assert answer[:2] == pytest.approx(expected, abs=1e-6) and np.isnan(answer[2])


def test_inter_similarity_is_the_mean_over_the_class_found_by_name(model: str, tmp_path: Path) -> None:
    images, real = pictures(4), pictures(6, seed=4)
    table = Birds(real, [0, 0, -1, 1, 1, 0])  # row 3 cannot be decoded, and of the last class there is none
    seen, _, _ = directly(model, images + real, [])
    cosines = seen[:4] @ seen[4:].T
    batch = samples(list(images), labels=np.array([0, 1, 2, -1], np.int32))
    answer = score("inter_similarity", batch, table, cache=tmp_path, model=model)["score"]
    assert answer[:2] == pytest.approx([cosines[0, [0, 1, 5]].mean(), cosines[1, 4]], abs=1e-6)
    assert np.isnan(answer[2:]).all()
    again = score("inter_similarity", batch, table, names=["robin", "wren"], cache=tmp_path, model=model)["score"]
    assert again[:2] == pytest.approx([cosines[0, 4], cosines[1, [0, 1, 5]].mean()], abs=1e-6)


def test_inter_similarity_says_what_it_lacks(model: str) -> None:
    batch, real = samples(list(pictures(1))), pictures(1)
    with pytest.raises(UserError, match="there are none"):
        score("inter_similarity", batch, None, model=model)
    with pytest.raises(UserError, match="no labels"):
        score("inter_similarity", batch, Birds(real, [-1], []), model=model)
    with pytest.raises(UserError, match="same class names"):
        score("inter_similarity", batch, Birds(real, [0]), names=["car"], model=model)


def test_presets_fill_in_model_and_rule_and_what_is_written_wins() -> None:
    def rule(**keys: Any) -> tuple[Any, ...]:
        f = make("clip_similarity", **keys)
        return f.model, f.bounds(), f.keep_top, f.per  # type: ignore[attr-defined]

    low, free = (lambda bound: (bound, np.inf)), (-np.inf, np.inf)
    assert rule(preset="datacomp_b32") == ("ViT-B-32/openai", low(0.25), None, "class")
    assert rule(preset="laion_b32") == ("ViT-B-32/openai", low(0.28), None, "class")
    assert rule(preset="l14_top30") == ("ViT-L-14/openai", free, "30%", "all")
    assert rule(preset="laion_b32", between=(0.2, 0.4), model="other") == ("other", (0.2, 0.4), None, "class")
    assert rule(preset="l14_top30", min=0.3) == ("ViT-L-14/openai", low(0.3), None, "class")
    assert make("clip_similarity", preset="laion_b32").identity() == make("clip_similarity", model="ViT-B-32/openai").identity()
    stored = make("clip_similarity", preset="l14_top30", min=0.3).settings()
    assert rule(**{key: value for key, value in stored.items() if key != "kind"}) == ("ViT-L-14/openai", low(0.3), None, "class")
    with pytest.raises(ValidationError, match="laion_b32"):
        make("clip_similarity", preset="laion")


def test_a_default_share_gives_way_to_bounds() -> None:
    assert make("confidence").keep_top == "30%" and make("logit_cosine").keep_top == "80%"
    assert make("confidence", min=0.5).keep_top is None and make("confidence", between=(0.5, 1)).keep_top is None
    assert make("confidence", min=0.5, keep_top=10).keep_top == 10
    assert make("blank", keep_top="50%").bounds() == (4, np.inf)
