"""What travels with a dataset: a card that the Hub's own classes accept, the recipe and the plan, and no word of this machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import DatasetCard

from factory import publish
from factory import recipe as recipes
from factory.publish import names
from factory.publish.facts import licence_in
from factory.store import Store
from tests.test_build import run

EVALUATION: dict[str, Any] = {
    "verdict": {"use": True, "ratio": 2.0, "gain": 0.031, "ci95": 0.008, "text": "Use them, two for each real image."},
    "utility": {"rows": [{"arm": "real + synthetic", "ratio": 2.0, "labels": 5, "accuracy_mean": 0.731, "ci95": 0.01}]},
    "fidelity": {
        "backbone": "dino",
        "rows": [{"class": None, "frechet": 12.5, "frechet_real": 3.1, "precision": 0.9, "recall": 0.5, "density": 1.0, "coverage": 0.8}],
    },
    "memorisation": {"gate": {"passed": True, "text": "Nearest pair 0.4, real to real 0.3."}, "pairs": []},
    "guards": {"passed": True, "checks": []},
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A finished run with a filter that refuses, in a folder of its own."""
    from PIL import Image

    base = tmp_path_factory.mktemp("publish")
    noise = np.random.default_rng(0)
    for name in ("finch", "heron"):
        (base / "birds" / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(noise.integers(0, 256, (24, 20, 3), np.uint8)).save(base / "birds" / name / f"{i}.png")
    recipe = base / "recipe.yaml"
    recipe.write_text(
        f"name: birds\nsource: {{dataset: {base / 'birds'}}}\ngenerator: {{kind: tests.paint.Paint, batch: 4}}\n"
        "condition: {kind: augmented_image, mix: none}\namount: {per_class: 6, rounds: 2}\nshard: 6\nthreads: 1\n"
        "filters: [undecodable, {kind: blank, keep_top: 80%}]\n"
    )
    run(recipe, base / "run")
    return base / "run"


def facts_of(built: Path) -> dict[str, Any]:
    return json.loads(next(built.glob("dataset/provenance/*/facts.json")).read_text())


def test_the_card_answers_what_a_careful_reader_asks(built: Path) -> None:
    facts = facts_of(built)
    text = publish.card([{**facts, "evaluation": EVALUATION, "licence": "cc0-1.0", "pictures": True}], 1234, "user/birds")
    card = DatasetCard(text)
    assert card.data.license == "cc0-1.0" and card.data.size_categories == ["n<1K"] and "synthetic" in card.data.tags
    assert card.data.configs[0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    assert card.data.dataset_info[0]["splits"] == [{"name": "train", "num_bytes": 1234, "num_examples": facts["rows"]}]
    for heading in ("Does it help?", "What is in it", "How it was made", "What was refused", "Licences", "Known limits", "Make it again"):
        assert f"## {heading}" in text
    assert "Use them, two for each real image." in text and "+3.1 ± 0.8" in text and "| real + synthetic | 2 | 5 | 73.1 | 1.0 |" in text
    assert "| all | 12.5 | 3.1 |" in text and "load_dataset('user/birds', split='train')" in text
    assert f"provenance/{facts['plan']}/contact_sheet.png" in text and "recipe.yaml --set 'source.dataset=…'\n" in text
    assert "factory replay user/birds ID --set 'source.dataset=…'\n" in text


def test_counts_add_up(built: Path) -> None:
    facts = facts_of(built)
    assert facts["generated"] == facts["rows"] + sum(rule["refused"] for rule in facts["rules"])
    assert facts["rules"][-1]["left"] == facts["rows"] == sum(own["kept"] for own in facts["classes"].values())
    assert next(rule for rule in facts["rules"] if rule["name"] == "blank")["refused"] > 0
    report = json.loads((built / "report.json").read_text())
    assert (report["kept"], report["refused"]) == (facts["rows"], {rule["name"]: rule["refused"] for rule in facts["rules"]})


def test_a_card_without_measurements_says_so(built: Path) -> None:
    text = publish.card([facts_of(built)], 1)
    assert "Not measured" in text and "Nobody has measured whether images repeat" in text and "not stated by its owner" in text


def test_a_card_does_not_say_that_all_training_images_were_looked_at(built: Path) -> None:
    text = publish.card([{**facts_of(built), "evaluation": EVALUATION}], 1)
    assert "not among all that the generator may have seen" in text and "Nobody has measured" not in text


def test_any_section_of_the_evaluation_may_be_absent(built: Path) -> None:
    facts = facts_of(built)
    for section in EVALUATION:
        text = publish.card([{**facts, "evaluation": {key: value for key, value in EVALUATION.items() if key != section}}], 1)
        assert DatasetCard(text).data.pretty_name == "birds"
    assert "**Published although" in publish.card([{**facts, "accepted": "the gate did not pass (7 pairs)"}], 1)


def test_the_card_says_what_an_interval_is_over(built: Path) -> None:
    for vary, said in (("training", "for this one draw of real images)"), ("drawn images and training", "over draws of real images, ")):
        utility = {**EVALUATION["utility"], "protocol": {"seeds_vary": vary}}
        text = publish.card([{**facts_of(built), "evaluation": {**EVALUATION, "utility": utility}}], 1)
        assert "+3.1 ± 0.8 points (95% interval over " in text and said in text


def test_an_image_is_made_again_without_its_filters(built: Path) -> None:
    local = ["source.dataset", "generator[0].model", "filters[1].model"]
    text = publish.card([{**facts_of(built), "local": local}], 1, "ada/birds")
    assert "factory replay ada/birds ID --set 'source.dataset=…' --set 'generator[0].model=…'\n" in text
    assert "recipe.yaml --set 'source.dataset=…' --set 'generator[0].model=…' --set 'filters[1].model=…'\n" in text


def test_two_plans_share_one_card(built: Path) -> None:
    facts = facts_of(built)
    other = {**facts, "plan": "f" * 16, "rows": 5, "classes": {"finch": {"kept": 5, "generated": 9}}}
    text = publish.card([facts, other], 1)
    assert DatasetCard(text).data.dataset_info[0]["splits"][0]["num_examples"] == facts["rows"] + 5
    assert f"factory replay DATASET ID --plan {facts['plan']} --set" in text and f"ID --plan {'f' * 16} --set" in text
    assert f"### birds, plan `{'f' * 16}`" in text and f"| finch | {facts['classes']['finch']['kept'] + 5} |" in text


def test_the_recipe_travels_and_names_no_place(built: Path) -> None:
    own = next(built.glob("dataset/provenance/*"))
    recipe = recipes.load(own / "recipe.yaml", [f"source.dataset={built.parent / 'birds'}"])
    assert recipe.settings() == json.loads((built / "recipe.json").read_text())
    assert json.loads((own / "plan.json").read_text())["plan"] == own.name == Store(built).run()["plan"]
    for file in built.glob("dataset/**/*"):
        if file.is_file():
            assert str(built.parent).encode() not in file.read_bytes(), file


def test_names_for_strangers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    (tmp_path / "photos").mkdir()
    settings = {
        "source": {"dataset": "photos", "url": "s3://key:secret@bucket/a?token=1 and file:///home/me/x.png"},
        "generator": [
            {"model": str(tmp_path / "models" / "mine"), "text": f"see {Path.home()}/x"},
            {"model": "models/mine"},
            {"model": "a/b"},
        ],
        "number": 3,
    }
    found, local = names.public(settings)
    assert found == {
        "source": {"dataset": "photos", "url": "s3://bucket/a and x.png"},
        "generator": [{"model": "mine", "text": "see ~/x"}, {"model": "mine"}, {"model": "a/b"}],
        "number": 3,
    }
    assert local == ["source.dataset", "generator[0].model", "generator[1].model"]


def test_rules_in_words(write_recipe: Callable[..., Path]) -> None:
    filters = "[{kind: blank, min: 3}, {kind: blank, between: [1, 2]}, {kind: blank, min: 0, keep_top: 5, per: all}, {kind: tests.corpora.Brightness}]"
    said = [f.asks() for f in recipes.load(write_recipe(filters=filters)).filters]
    assert said == ["score at least 3", "score between 1 and 2", "score at least 0, then the best 5 of all", "any score"]


def test_a_licence_is_read_from_a_card() -> None:
    assert licence_in("---\nlicense: mit\n---\n# x") == "mit"
    assert licence_in("---\nlicense: [mit, other]\n---\n") == "mit, other"
    assert licence_in("# no header") is None and licence_in("---\na: [\n---\n") is None
