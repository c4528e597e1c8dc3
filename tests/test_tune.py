"""The search of `factory tune`: which knobs a recipe has, that bounds cost no generation, that it resumes, and that its winner is a recipe."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from factory import plan as planning
from factory import recipe as recipes
from factory import reselect
from factory.errors import UserError
from factory.evaluate import guards
from factory.evaluate.backbones import Backbone
from factory.select import Rule
from factory.store import Store
from factory.tune import search, space, worth
from tests.conftest import ROOT

RECIPE = """# a comment that the winner keeps
name: birds
seed: 3
source: {{dataset: {source}, shots: 4}}
generator: {{kind: tests.paint.Paint, batch: 8}}
condition: {{kind: image, strength: 0.5}}
amount: {{per_class: 24, rounds: 2}}
filters:
  - undecodable
  - {{kind: tests.measured.Brightness, min: 0.2}}
  - {{kind: tests.measured.Contrast, between: [0.05, 0.9]}}
shard: 16
threads: 1
"""


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """A recipe over a dark and a bright class of sixteen images, four of which it uses."""
    noise = np.random.default_rng(0)
    for name, tint in (("finch", 60), ("heron", 190)):
        (tmp_path / "birds" / name).mkdir(parents=True)
        for i in range(16):
            pixels = np.clip(noise.normal(tint, 20 + i, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "birds" / name / f"{i}.png")
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(source=tmp_path / "birds"), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features that need no weights: the mean and the spread of each channel."""

    def embed(batch: np.ndarray) -> np.ndarray:
        x = batch.reshape(len(batch), -1, 3).astype(np.float32) / 255
        return np.concatenate([x.mean(1), x.std(1)], 1)

    monkeypatch.setattr("factory.evaluate.backbones.open", lambda name, device="cpu": Backbone(name, 6, embed))


def tune(path: Path, out: Path, **changed: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "overrides": [], "real": str(path.parent / "birds"), "split": "train", "objective": "frechet", "trials": 5, "minutes": None,
        "seed": 1, "per_class": 100, "backbone": "colours", "networks": 1, "steps": 2, "device": "cpu",
    }  # fmt: skip
    return search.run(path, out=out, **{**settings, **changed})


def test_knobs_follow_the_recipe() -> None:
    recipe = recipes.load(ROOT / "recipes" / "quickstart.yaml", environ={})
    knobs = {knob.name: knob for knob in space.knobs(recipe, [1.0, 2.0])}
    made = ["generator.guidance", "condition.dropout", "condition.mix"]
    bounds = ["filters[1].min", "filters[2].min", "filters[3].between.low", "filters[3].between.high", "filters[4].max"]
    assert list(knobs) == [*made, *bounds, "ratio"]
    assert [name for name, knob in knobs.items() if knob.makes] == made
    assert "embed_mixup" in knobs["condition.mix"].values and all(knob.start in knob.values for knob in knobs.values())
    swept = recipes.load(ROOT / "recipes" / "quickstart.yaml", ["sweep={guidance: [1, 2]}"], environ={})
    assert "generator.guidance" not in {knob.name for knob in space.knobs(swept)}, "what is swept is not searched"


def test_class_names_of_any_letters_are_written_as_keys(birds: Path, tmp_path: Path) -> None:
    odd = {'it\'s "odd"': 3, "back\\slash": 2, "ヒト: #1": 1}
    assert space.write(birds, [], {"amount.per_class": odd}, tmp_path / "out.yaml", ["x"]).amount.per_class == odd


def test_a_share_becomes_the_bound_that_refuses_it() -> None:
    recipe = recipes.load(ROOT / "recipes" / "quickstart.yaml", environ={})
    scores = np.random.default_rng(0).uniform(0.013, 0.4, 1000).astype(np.float32)
    rules = [Rule(name, scores) for name, _ in recipe.named_filters()]
    keys = space.bounds(recipe, rules, {"filters[1].min": 0.25, "filters[2].min": space.AS_WRITTEN, "filters[3].between.high": 0.1})
    assert abs((scores < keys["filters[1].min"]).mean() - 0.25) < 0.002
    assert keys["filters[2].min"] == 0.5
    low, high = keys["filters[3].between"]
    assert low == 0.3 and abs((scores > high).mean() - 0.1) < 0.002
    nothing = space.bounds(recipe, rules, {"filters[1].min": 0.0})
    assert (scores >= np.float32(nothing["filters[1].min"])).all(), "a share of nothing refuses nothing, rounding included"


def test_the_winner_is_a_recipe_and_bounds_generate_nothing(birds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "STRENGTH", (0.5, 0.8))
    out = tmp_path / "tuned"
    result = tune(birds, out, trials=5)
    assert len(result["rows"]) == 5 and result["validation_images"] == 24, "the recipe's own eight images are left out"
    assert result["rows"][0]["setting"]["condition.strength"] == 0.5 and result["rows"][0]["frechet"] == result["as_written"]
    values = [row["frechet"] for row in result["rows"] if row["frechet"] is not None]
    assert result["best"]["value"] == min(values) and len(set(values)) > 1
    strengths = {row["setting"]["condition.strength"] for row in result["rows"]}
    assert len(list((out / "runs").iterdir())) == len(strengths) <= 2, "one run for each setting of the generation"
    text = (out / "best.yaml").read_text(encoding="utf-8")
    assert "a comment that the winner keeps" in text and "factory evaluate" in text
    best = result["rows"][result["best"]["trial"]]
    winner = recipes.load(out / "best.yaml", environ={})
    assert winner.condition.settings()["strength"] == best["setting"]["condition.strength"] and winner.amount.rounds == 2
    again = [reselect.run(run, out / "best.yaml", [], export=False)["kept"] for run in (out / "runs").iterdir()]
    assert best["kept"] in again, "the written bounds decide as the search did"
    assert json.loads((out / "search.json").read_text(encoding="utf-8"))["best"] == result["best"]


def test_an_interrupted_search_ends_like_one_that_was_not(birds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    same_search: dict[str, Any] = {"objective": "coverage", "overrides": ["condition=text"]}
    whole = tune(birds, tmp_path / "whole", trials=6, **same_search)
    shutil.copytree(tmp_path / "whole" / "runs", tmp_path / "parts" / "runs")  # the search is what is interrupted, not a build
    assert len(tune(birds, tmp_path / "parts", trials=2, **same_search)["rows"]) == 2
    real, calls = worth.Judge.worth, []

    def killed(self: worth.Judge, setting: space.Setting) -> worth.Worth:
        calls.append(setting)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, setting)

    monkeypatch.setattr(worth.Judge, "worth", killed)
    with pytest.raises(KeyboardInterrupt):
        tune(birds, tmp_path / "parts", trials=6, **same_search)
    monkeypatch.setattr(worth.Judge, "worth", real)
    parts = tune(birds, tmp_path / "parts", trials=6, **same_search)
    same = [[(row["setting"], row["coverage"], row["kept"]) for row in result["rows"]] for result in (whole, parts)]
    assert same[0] == same[1]
    assert len(tune(birds, tmp_path / "parts", trials=9, minutes=0, **same_search)["rows"]) == 6, "no time, no further setting"
    with pytest.raises(UserError, match="choose another --out"):
        tune(birds, tmp_path / "parts", objective="frechet")


def test_accuracy_searches_the_ratio_too(birds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured, alone = worth.Judge.accuracy, {"real_strong": 0.6, "real": 0.7}
    monkeypatch.setattr(worth.Judge, "accuracy", lambda self, arm, made: alone[arm] if made is None else measured(self, arm, made))
    result = tune(birds, tmp_path / "out", objective="accuracy", trials=3, overrides=["amount.rounds=1"])
    assert result["knobs"]["ratio"] == [0.5, 1.0, 2.0, 5.0, 6.0], "as far as 24 images for 4 real ones go"
    best = result["rows"][result["best"]["trial"]]
    assert 0 <= best["accuracy"] <= 1 and result["real_alone"] == 0.7, "few steps make strong augmentation a weak rival"
    winner = recipes.load(tmp_path / "out" / "best.yaml", environ={})
    assert winner.amount.per_class == 4 * best["setting"]["ratio"] and best["kept"] <= 8 * best["setting"]["ratio"]
    assert "real only" in search.summary(result, tmp_path / "out")


def test_kinds_named_alone_are_searched_and_an_amount_to_fill_gives_way(birds: Path, tmp_path: Path) -> None:
    text = birds.read_text(encoding="utf-8")
    for long, short in (
        ("{kind: tests.paint.Paint, batch: 8}", "[{kind: tests.paint.Paint, batch: 8}]"),
        ("{kind: image, strength: 0.5}", "augmented_image"),
        ("- {kind: tests.measured.Brightness, min: 0.2}", "- blank"),
        ("per_class: 24", "fill_to: 16"),
    ):
        assert long in text
        text = text.replace(long, short)
    birds.write_text(text, encoding="utf-8")
    result = tune(birds, tmp_path / "out", objective="accuracy", trials=2)
    winner = recipes.load(tmp_path / "out" / "best.yaml", environ={})
    assert {"condition.mix", "filters[1].min", "ratio"} <= result["knobs"].keys() and winner.filters[1].kind == "blank"
    wanted = planning.wanted(winner.amount, ["finch", "heron"], np.array([4, 4])).tolist()
    assert wanted == [np.ceil(4 * result["rows"][result["best"]["trial"]]["setting"]["ratio"])] * 2


def test_it_never_looks_at_test_images(birds: Path, tmp_path: Path) -> None:
    for real, split in ((str(tmp_path / "birds"), "test"), (str(tmp_path / "birds"), "test[:50%]"), ("data/birds-test.parquet", "train")):
        with pytest.raises(UserError, match="never looks at test images"):
            tune(birds, tmp_path / "out", real=real, split=split)
    with pytest.raises(UserError, match="the recipe uses all of its images"):
        tune(birds, tmp_path / "out", overrides=["source.shots=16"])
    assert not (tmp_path / "out" / "runs").exists()


def test_it_never_looks_at_test_images_under_another_name(birds: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = recipes.load(birds, environ={})
    table = recipe.source.open()
    whole = worth.validation(recipe, table, str(tmp_path / "birds"), "train", 100)
    held_out = tmp_path / "held-out"
    for label, name in enumerate(("finch", "heron")):
        (held_out / name).mkdir(parents=True)
        image = whole.images[whole.labels == label][0]
        Image.fromarray(image).save(held_out / name / "again.png", compress_level=0)  # other bytes, the same pixels
    rest = worth.validation(recipe, table, str(tmp_path / "birds"), "train", 100, str(held_out))
    assert len(rest.labels) == len(whole.labels) - 2 and "2 images of --real are test images" in caplog.text
    assert not set(rest.pixels) & {guards.digest(whole.images[whole.labels == label][0]) for label in (0, 1)}
    with pytest.raises(UserError, match="never looks at test images"):
        tune(birds, tmp_path / "out", real=str(held_out), test=str(held_out))
    own = table.read(3).image
    Image.fromarray(own).save(held_out / "finch" / "own.png")
    with pytest.raises(UserError, match=r"training_in_test: 1 images of the recipe's source are test images.*: 3 = test"):
        tune(birds, tmp_path / "out", test=str(held_out))
    assert not (tmp_path / "out" / "runs").exists()


def test_validation_images_in_tars_are_read_as_the_recipe_reads_its_own(birds: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        for i, path in enumerate(sorted((tmp_path / "birds").rglob("*.png"))):
            for suffix, data in (("png", path.read_bytes()), ("cls", str(i % 2).encode())):
                member = tarfile.TarInfo(f"{i:04d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    source = f"{{dataset: {tmp_path}/train.tar, class_names: [even, odd], shots: 2}}"
    recipe = recipes.load(birds, [f"source={source}"], environ={})
    found = worth.validation(recipe, recipe.source.open(), str(tmp_path / "train.tar"), "train", 100)
    assert len(found.labels) == 32 - 4


def unused(table: Any, folder: Path) -> list[Path]:
    """The images in a folder that a recipe does not use."""
    keys = {table.read(row).key for row in range(len(table))}
    return [path for path in sorted(folder.rglob("*.png")) if hashlib.sha256(path.read_bytes()).hexdigest() not in keys]


def test_the_test_split_of_a_folder_is_known_without_being_named(birds: Path, tmp_path: Path) -> None:
    split = tmp_path / "split"
    shutil.copytree(tmp_path / "birds", split / "train")
    recipe = recipes.load(birds, [f"source.dataset={split}"], environ={})
    table = recipe.source.open()
    for path in unused(table, split)[:3]:
        (split / "test" / "any").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, split / "test" / "any" / path.name)
    found = worth.validation(recipe, table, str(split), "train", 100)
    assert len(found.labels) == 32 - 8 - 3


def test_images_that_cannot_be_decoded_are_left_out(birds: Path, tmp_path: Path) -> None:
    """One that the recipe would use, and one that would validate."""
    table = recipes.load(birds, environ={}).source.open()
    free = unused(table, tmp_path / "birds")
    own = next(path for path in (tmp_path / "birds").rglob("*.png") if path not in free)
    for path in (own, free[0]):
        path.write_bytes(path.read_bytes()[:60])
    result = tune(birds, tmp_path / "out", objective="accuracy", trials=1, overrides=["amount.rounds=1"])
    assert result["rows"][0]["accuracy"] is not None and result["validation_images"] == 32 - 8 - 1


def test_a_search_belongs_to_its_source(birds: Path, tmp_path: Path) -> None:
    tune(birds, tmp_path / "out", trials=1)
    table = recipes.load(birds, environ={}).source.open()
    found = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in (tmp_path / "birds").rglob("*.png")}
    Image.new("RGB", (16, 16), "red").save(found[table.read(0).key])
    with pytest.raises(UserError, match="another recipe, source, validation set or objective"):
        tune(birds, tmp_path / "out", trials=1)


def test_agreement_prefers_what_a_probe_recognises(birds: Path, tmp_path: Path) -> None:
    judge_of = {}
    real = worth.Judge._agreement

    def seen(self: worth.Judge, made: Any) -> float:
        judge_of["images"], judge_of["labels"] = made.images, made.labels
        return real(self, made)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worth.Judge, "_agreement", seen)
        value = tune(birds, tmp_path / "out", objective="agreement", trials=1)["as_written"]
    bright = judge_of["images"].reshape(len(judge_of["images"]), -1).mean(1)
    order = bright.argsort()
    apart = (judge_of["labels"][order] == np.sort(judge_of["labels"])).mean()
    assert value > 0.8 and apart > 0.8, "a dark and a bright class are told apart by their colours"


def test_a_source_without_labels_is_searched_by_distances(birds: Path, tmp_path: Path) -> None:
    rows = [{"image": {"bytes": path.read_bytes(), "path": None}} for path in sorted((tmp_path / "birds").rglob("*.png"))]
    for name, own in (("own", rows[::8]), ("more", rows)):
        pq.write_table(pa.Table.from_pylist(own), tmp_path / f"{name}.parquet")
    text = birds.read_text(encoding="utf-8").replace(f"{tmp_path / 'birds'}, shots: 4", f"{tmp_path / 'own.parquet'}, label: null")
    birds.write_text(text.replace("per_class: 24", "per_class: 60") + "prompts: {text: a bird}\n", encoding="utf-8")
    real = str(tmp_path / "more.parquet")
    result = tune(birds, tmp_path / "out", real=real, trials=1, objective="coverage")
    assert result["validation_images"] == 28 and result["best"]["value"] is not None
    with pytest.raises(UserError, match=r"accuracy: the recipe's source has no labels, .*; choose frechet or coverage"):
        tune(birds, tmp_path / "accuracy", real=real, objective="accuracy")


def test_what_was_made_from_validation_images_is_not_judged_by(birds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = f"{{kind: tests.test_evaluate_run.Spread, library: {{dataset: {tmp_path / 'birds'}}}, told_by: parents}}"
    birds.write_text(birds.read_text(encoding="utf-8").replace("{kind: image, strength: 0.5}", library), encoding="utf-8")
    judged: list[int] = []
    monkeypatch.setattr(worth.Judge, "_agreement", lambda self, made: judged.append(len(made.images)) or 0.5)
    result = tune(birds, tmp_path / "out", trials=1, objective="agreement")
    recipe = recipes.load(birds, environ={})
    table = recipe.source.open()
    own = {table.read(row).key for row in range(len(table))}
    store = Store.existing(next((tmp_path / "out" / "runs").glob("*/run.json")).parent)
    keep = pq.read_table(store.folder / "selection.parquet")["keep"].to_pylist()
    found = [
        json.loads(text)["found"] for shard in store.read_rows()[0].names for text in store.read_shard(shard)["conditioning"].to_pylist()
    ]
    assert judged == [sum(key in own for key, kept in zip(found, keep, strict=True) if kept)]
    assert 0 < judged[0] < result["rows"][0]["kept"]
