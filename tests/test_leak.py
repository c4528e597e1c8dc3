"""The leak filter against every real image of several sets, one by one."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from factory import filtering
from factory.contracts import FilterContext
from factory.errors import UserError
from factory.reselect import run as reselect
from tests import corpora
from tests.test_encoders import Table, directly, make_model, pictures
from tests.test_filters import make, samples, score


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_model(tmp_path_factory.mktemp("leak") / "clip"))


def write(folder: Path, images: list[np.ndarray]) -> list[Path]:
    """An image folder of one class, rows in the order given."""
    (folder / "bird").mkdir(parents=True)
    paths = [folder / "bird" / f"{number}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths


@pytest.mark.parametrize("block", [2, 16384])
def test_the_nearest_of_all_sets_is_written_down(model: str, tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factory.filters.leak.BLOCK", block)
    train, test, made = pictures(4, seed=1), pictures(3, seed=2), pictures(3, seed=3)
    files = [write(tmp_path / "train", train), write(tmp_path / "test", test)]
    files[0][2].write_bytes(b"torn")
    sets = [{"dataset": str(tmp_path / name), "split": "train"} for name in ("train", "test")]
    batch = samples([test[1], made[0], None, made[1], train[3]], labels=np.full(5, -1, np.int32), prompts=[""] * 5)
    found = score("leak", batch, None, names=[], cache=tmp_path / "cache", model=model, real=sets)
    seen, _, _ = directly(model, [test[1], made[0], made[1], train[3], *train, *test], [])
    cosines = seen[:4] @ seen[4:].T
    cosines[:, 2] = -1  # torn
    place = cosines.argmax(axis=1)
    known = [0, 1, 3, 4]
    assert found["score"][known] == pytest.approx(cosines.max(axis=1), abs=1e-6) and np.isnan(found["score"][2])
    assert found["nearest_set"].tolist() == [*(place[:2] >= 4), -1, *(place[2:] >= 4)]
    rows = np.where(place >= 4, place - 4, place)
    assert found["nearest_row"].tolist() == [*rows[:2], -1, *rows[2:]]
    keys = [hashlib.sha256(files[int(s)][int(r)].read_bytes()).hexdigest() for s, r in zip(place >= 4, rows, strict=True)]
    assert found["nearest"].tolist() == [*keys[:2], "", *keys[2:]]
    refused = found["score"] > make("leak").bounds()[1]
    assert refused[0] and refused[4] and found["nearest_set"][[0, 4]].tolist() == [1, 0]


def test_without_sets_the_runs_own_source_is_what_may_leak(model: str) -> None:
    real = pictures(6, seed=4)
    found = score("leak", samples([real[4], real[3]]), Table(real), model=model)
    assert found["score"][0] == pytest.approx(1, abs=1e-6) and found["nearest_row"][0] == 4 and found["nearest"][0] == "4"
    assert found["score"][1] < 1 - 1e-4  # row 3 of the source cannot be decoded
    nothing = score("leak", samples([]), Table(real), model=model)
    assert all(len(column) == 0 for column in nothing.values())


def test_leak_says_what_it_lacks(model: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there are none"):
        score("leak", samples([]), None, model=model)
    files = write(tmp_path / "torn", pictures(2))
    for path in files:
        path.write_bytes(b"torn")
    with pytest.raises(UserError, match="can be decoded"):
        score("leak", samples([]), None, model=model, real=[{"dataset": str(tmp_path / "torn")}])
    with pytest.raises(ValidationError, match="splt"):
        make("leak", real=[{"dataset": str(tmp_path / "torn"), "splt": "test"}])


def test_the_content_of_the_sets_is_part_of_what_was_measured_and_their_place_is_not(tmp_path: Path) -> None:
    write(tmp_path / "train", pictures(3, seed=1))
    files = write(tmp_path / "test", pictures(3, seed=2))
    one, two = ([{"dataset": str(tmp_path / name)}] for name in ("train", "test"))
    assert make("leak", real=one).identity() != make("leak", real=two).identity() != make("leak").identity()
    assert make("leak", real=one, max=0.9).identity() == make("leak", real=one).identity()
    stored = make("leak", real=two).settings()
    (tmp_path / "test").rename(tmp_path / "moved")
    moved = [{"dataset": str(tmp_path / "moved")}]
    again = make("leak", **{key: value for key, value in stored.items() if key != "kind"})  # the set is not where it was
    assert again.identity() == make("leak", real=moved).identity()
    Image.fromarray(pictures(1, seed=3)[0]).save(tmp_path / "moved" / files[1].relative_to(tmp_path / "test"))
    assert make("leak", real=moved).identity() != again.identity()
    with pytest.raises(UserError, match="not those that `contents` stands for"):
        make("leak", real=moved, contents=stored["contents"]).open(FilterContext("cpu", [], None))


def test_a_run_compares_anew_with_sets_that_changed_and_select_needs_none(model: str, tmp_path: Path) -> None:
    corpus, real = pictures(4, seed=5), pictures(2, seed=6)
    write(tmp_path / "corpus", corpus)
    write(tmp_path / "real", [*real, corpus[1]])
    line = f"[{{kind: leak, model: {model}, real: [{{dataset: {tmp_path / 'real'}}}], max: 0.9999}}]"
    recipe = corpora.recipe(tmp_path / "r.yaml", corpus=f"{{dataset: {tmp_path / 'corpus'}}}", filters=line)

    def refused() -> int:
        report = filtering.run(filtering.load(recipe), tmp_path / "run", "cpu")
        assert report is not None
        return report["refused"]["leak"]

    assert refused() == 1
    write(tmp_path / "other", [corpus[0], corpus[2]])
    shutil.rmtree(tmp_path / "real")
    assert reselect(tmp_path / "run", None, ["filters[0].max=0.99999"], False)["refused"]["leak"] == 1
    with pytest.raises(UserError, match="no scores for a filter of this recipe"):  # those that are there are of other sets
        reselect(tmp_path / "run", None, [f"filters[0].real=[{{dataset: {tmp_path / 'other'}}}]"], False)
    (tmp_path / "other").rename(tmp_path / "real")
    assert refused() == 2


def test_a_filter_run_whose_source_changed_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "corpus", pictures(2, seed=5))
    files = write(tmp_path / "real", pictures(2, seed=6))
    sections = {"corpus": f"{{dataset: {tmp_path / 'corpus'}}}", "source": f"{{dataset: {tmp_path / 'real'}}}"}
    recipe = filtering.load(corpora.recipe(tmp_path / "r.yaml", **sections))
    filtering.run(recipe, tmp_path / "run", "cpu")
    filtering.run(recipe, tmp_path / "run", "cpu")
    Image.fromarray(pictures(1, seed=7)[0]).save(files[0])
    with pytest.raises(UserError, match="`source` changed"):
        filtering.run(recipe, tmp_path / "run", "cpu")
