"""`factory check`: every fault of a recipe at once."""

from __future__ import annotations

import json

from factory.commands._options import AsJson, RecipeFile, Sets, opened


def command(recipe_file: RecipeFile, sets: Sets = None, as_json: AsJson = False) -> None:
    """Check a recipe and its source, and name every fault at once.

    Example: factory check recipes/quickstart.yaml
    """
    recipe, table, plan = opened(recipe_file, sets)
    from factory import honour

    honour.present(recipe)
    if as_json:
        print(json.dumps({"ok": True, "name": recipe.name, "plan": plan.id, "recipe": recipe.settings()}))
    else:
        print(
            f"{recipe_file}: ok. {int(plan.wanted.sum())} images of {len(plan.classes)} classes from {len(table)} real ones; plan {plan.id}"
        )
