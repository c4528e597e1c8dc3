"""The story of `factory select`: new rules over a finished run's stored scores; no source, no model."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

from factory import assemble, filtering, finished, report
from factory.filtering import outcome, story
from factory.filtering.report import unscored_lines
from factory.store import Store


def run(folder: Path, recipe_file: Path | None, sets: list[str], export: bool) -> dict[str, Any]:
    """Decide every stored row again; writes selection.parquet, and the dataset when `export`. Raises UserError."""
    store = Store.existing(folder)
    if store.is_filtered():
        return _of_corpus(store, recipe_file, sets, export)
    found = finished.read(folder, recipe_file, sets)
    selection, quota = found.selection, found.quota or {}
    kept = Counter(found.labels[selection.keep].tolist())
    result = {
        "rows": len(found.labels),
        "kept": int(selection.keep.sum()),
        "refused": selection.refused(),
        "per_class": {name: kept[c] for c, name in zip(quota, found.class_names or ["(all)"], strict=True)},
    }
    with store.owned() if export else contextlib.nullcontext():
        assemble.write_down(store, found.labels, found.ordinals, selection)
        if export:
            assemble.export(found.built, store, found.shards, found.labels, selection)
            report.update(store, result, quota)
    return result


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
