"""What a run writes down so that any of its images can be made again alone: the recipe as its author wrote it, and the prompts."""

from __future__ import annotations

import json
from typing import Any

from factory.files import write_json
from factory.plan import Plan
from factory.recipe import Recipe
from factory.store import Store

_MAKING = ("name", "seed", "source", "generator", "condition", "prompts", "sweep", "shard", "threads")


def keep(recipe: Recipe, plan: Plan, store: Store) -> None:
    """Write making.json: what makes pixels, as it was written, since a key that is set may mean another thing than its default."""
    written = recipe.written()
    wording = {"prompts": plan.prompts, "class_prompts": [group.tolist() for group in plan.class_prompts]}
    write_json(store.folder / "making.json", {"recipe": {key: written[key] for key in _MAKING}, **wording})


def recipe_of(store: Store, recipe: Recipe | None = None) -> dict[str, Any]:
    """The recipe as it was written: of the run where that decides pixels, else of `recipe`, the one of a selection."""
    making = _making(store).get("recipe", {})
    if recipe is None:
        return making or dict(json.loads((store.folder / "recipe.json").read_text(encoding="utf-8")))
    return {key: making.get(key, value) for key, value in recipe.written().items()}


def plan_of(store: Store) -> dict[str, Any]:
    """A run's plan as JSON values: its identity, the recorded rounds, what made the images, and the prompts where they were written down."""
    wording = {key: value for key, value in _making(store).items() if key != "recipe"}
    return {**store.run(), "rounds": store.rounds(), "generators": store.generators(), **wording}


def _making(store: Store) -> dict[str, Any]:
    path = store.folder / "making.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
