"""The story of `factory select`: new rules over a finished run's stored scores; no source, no model."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from factory import assemble, filtering, report
from factory import plan as planning
from factory import recipe as recipes
from factory.filtering import outcome, story
from factory.filtering.report import unscored_lines
from factory.recipe import Recipe
from factory.store import Store


def run(folder: Path, recipe_file: Path | None, sets: list[str], export: bool) -> dict[str, Any]:
    """Decide every stored row again; writes selection.parquet, and the dataset when `export`. Raises UserError."""
    store = Store.existing(folder)
    if "corpus" in store.run()["identity"]:
        return _of_corpus(store, recipe_file, sets, export)
    recipe = recipes.load(recipe_file or folder / "recipe.json", sets, environ=None if recipe_file else {})
    class_names = store.run()["identity"]["source"]["class_names"]
    quota = quotas(recipe, store)
    shards, rows = store.read_rows()
    labels = rows["label"]
    selection = assemble.decide(recipe, store, shards, rows, quota)
    kept = Counter(labels[selection.keep].tolist())
    result = {
        "rows": len(labels),
        "kept": int(selection.keep.sum()),
        "refused": selection.refused(),
        "per_class": {name: kept[c] for c, name in zip(quota, class_names or ["(all)"], strict=True)},
    }
    with store.owned() if export else contextlib.nullcontext():
        assemble.write_down(store, rows, selection)
        if export:
            assemble.export(recipe, store, shards, labels, selection)
            report.update(store, result, quota)
    return result


def quotas(recipe: Recipe, store: Store) -> dict[int, int]:
    """Class index -> images to keep, by the recipe's amount and the real images that the run knows of."""
    source = store.run()["identity"]["source"]
    classes = list(range(len(source["class_names"]))) or [planning.UNLABELLED]
    wanted = planning.wanted(recipe.amount, source["class_names"], np.array(source["real"]))
    return dict(zip(classes, wanted.tolist(), strict=True))


def _of_corpus(store: Store, recipe_file: Path | None, sets: list[str], export: bool) -> dict[str, Any]:
    """The same for a filter run: the index always, new shards when `export`."""
    recipe = filtering.load(recipe_file or store.folder / "recipe.json", sets, environ=None if recipe_file else {})
    with store.owned() if export else contextlib.nullcontext():
        if export:
            story.require_unchanged(recipe, store)
        return outcome.reselect(recipe, store, export)


def summary(result: dict[str, Any], folder: Path) -> str:
    """A selection in a few lines for a terminal."""
    refused = ", ".join(f"{slug} {n}" for slug, n in result["refused"].items() if n) or "none"
    lines = [f"rows     {result['rows']}", f"kept     {result['kept']}", f"refused  {result['rows'] - result['kept']}  ({refused})"]
    lines += [f"         {name}: {n}" for name, n in result["per_class"].items()]
    lines += unscored_lines(result["refused"])
    return "\n".join([*lines, f"written  {folder / 'selection.parquet'}"])
