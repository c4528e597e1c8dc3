"""Recipes: every fault at once, each with file, line, key and what to do."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from factory import recipe as recipes
from factory import schema
from factory.errors import RecipeError, UserError
from tests.conftest import ROOT

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


def faults(path: Path, sets: tuple[str, ...] = (), environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        recipes.load(path, sets, environ or {})
    return caught.value.faults


def test_all_faults_come_at_once_with_line_key_and_cure(tmp_path: Path, image_folder: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(
        f"name: birds\n"
        f"sead: 3\n"
        f"source: {{dataset: {image_folder}}}\n"
        f"generator:\n"
        f"  kind: tests.paint.Paint\n"
        f"  bach: 4\n"
        f"amount: {{per_class: many}}\n"
        f"filters:\n"
        f"  - {{kind: blank, mim: 3}}\n"
        f"  - {{kind: blnak}}\n"
        f"threads: 0\n"
    )
    found = faults(path)
    expected = [
        (2, "sead", "did you mean seed"),
        (6, "generator.bach", "did you mean batch"),
        (7, "amount.per_class", "valid integer"),
        (9, "filters[0].mim", "did you mean min"),
        (10, "filters[1].kind", "did you mean blank"),
        (11, "threads", "greater than or equal to 1"),
    ]
    for line, key, cure in expected:
        assert any(f.startswith(f"{path}:{line} {key}: ") and cure in f for f in found), (line, key, found)


def test_keys_inside_sections_are_suggested_too(write_recipe: Callable[..., Path]) -> None:
    path = write_recipe(generator="{model: nowhere, loras: [{model: a, scael: 1}]}", amount="{rounds: 0, per_clas: 3}")
    text = "\n".join(faults(path))
    for part in (
        "generator.loras[0].scael: unknown key; did you mean scale?",
        "amount.per_clas: unknown key; did you mean per_class?",
        "amount.rounds: ",
    ):
        assert part in text


def test_missing_sections_are_named(tmp_path: Path) -> None:
    path = tmp_path / "bare.yaml"
    path.write_text("seed: 1\n")
    text = "\n".join(faults(path))
    for key in ("name", "source", "generator"):
        assert f" {key}: required" in text


def test_broken_yaml_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("name: a\nsource: {dataset: x\ngenerator: y\n")
    assert faults(path)[0].startswith(f"{path}:3: not YAML")


def test_overrides_reach_nested_keys_and_are_blamed(write_recipe: Callable[..., Path]) -> None:
    path = write_recipe()
    recipe = recipes.load(path, ["amount.per_class=50", "filters[1].min=9"], {"FACTORY__SEED": "11", "FACTORY__AMOUNT__ROUNDS": "2"})
    assert (recipe.amount.per_class, recipe.filters[1].min, recipe.seed, recipe.amount.rounds) == (50, 9.0, 11, 2)
    assert faults(path, ("filters[1].mim=9",))[0].startswith("--set filters[1].mim=9 filters[1].mim: unknown key")
    assert faults(path, (), {"FACTORY__THREADS": "none"})[0].startswith("$FACTORY__THREADS threads:")


def test_missing_file_suggests_a_neighbour(write_recipe: Callable[..., Path]) -> None:
    path = write_recipe("quickstart.yaml")
    with pytest.raises(UserError, match=r"did you mean .*quickstart\.yaml"):
        recipes.load(path.with_name("quickstrat.yaml"))


def test_settings_load_again_unchanged(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    recipe = recipes.load(write_recipe())
    copy = tmp_path / "copy.json"
    copy.write_text(json.dumps(recipe.settings()))
    assert recipes.load(copy).settings() == recipe.settings()


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_schema_accepts_every_recipe(path: Path) -> None:
    jsonschema.Draft202012Validator(schema.of_recipes()).validate(YAML(typ="safe").load(path))


def test_schema_refuses_an_unknown_key(write_recipe: Callable[..., Path]) -> None:
    validator = jsonschema.Draft202012Validator(schema.of_recipes())
    data = YAML(typ="safe").load(RECIPES[0])
    data["filters"] = [{"kind": "blank", "mim": 3}]
    assert not validator.is_valid(data)


def test_checking_and_planning_load_no_torch(write_recipe: Callable[..., Path]) -> None:
    code = "import sys; from factory.cli import main; sys.argv = ['factory', 'plan', sys.argv[1]]\ntry: main()\nexcept SystemExit as e: assert not e.code, e.code\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(write_recipe())], check=True, cwd=ROOT)


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_recipe_loads_names_its_paper_and_opens_with_its_launch_line(path: Path) -> None:
    recipe = recipes.load(path, ["source.dataset=data/fashion-mnist"])
    text = path.read_text(encoding="utf-8")
    first = text.splitlines()[0]
    assert f"factory build recipes/{path.name}" in first and "needs:" in first
    assert re.search(r"[A-Z]\w+ (et al\.|and \w+) (19|20)\d\d", text) or recipe.name in ("quickstart", "augmented-conditioning")


def test_every_condition_has_a_recipe() -> None:
    from factory import kinds

    used = {recipes.load(path, ["source.dataset=data/fashion-mnist"]).condition.kind for path in (ROOT / "recipes").glob("*.yaml")}
    assert used == set(kinds.names("conditions"))
