"""How a dataset was filtered out of a corpus, as JSON values: what its card is written from. No token and no local path reaches them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from factory import __version__, select
from factory.filtering.recipe import FilterRecipe
from factory.publish import names
from factory.publish.facts import digest, filter_models
from factory.store import Store

UNLABELLED = "(unlabelled)"


def gather(
    recipe: FilterRecipe, store: Store, labels: np.ndarray, class_names: list[str], selection: select.Selection, columns: list[str]
) -> dict[str, Any]:
    """The facts of one selection out of a corpus. labels: int [N] of every row that was read, -1 unlabelled, kept or refused."""
    run = store.run()
    kept, read = Counter(labels[selection.keep].tolist()), Counter(labels.tolist())
    settings, local = names.public(recipe.settings())
    known = run["identity"]["corpus"]
    return {
        "command": "filter",
        "name": recipe.name,
        "plan": run["plan"],
        "factory": __version__,
        "split": "train",
        "export": recipe.export.kind,
        "data_files": recipe.export.data_files("train"),
        "image": settings["export"].get("image"),
        "class_names": class_names,
        "columns": columns,
        "selection": select.digest(selection.keep),
        "rows": int(selection.keep.sum()),
        "read": len(labels),
        "classes": {
            name: {"kept": kept[c], "read": read[c]} for c, name in [*enumerate(class_names), (-1, UNLABELLED)] if c >= 0 or read[c]
        },
        "rules": list(_rules(recipe, selection)),
        "models": list(filter_models(recipe)),
        "corpus": {**settings["corpus"], "shards": known["shards"], "fingerprint": known["digest"]},
        "source": _source(settings, store),
        "local": local,
        "settings": digest(recipe.settings()),
    }


def _source(settings: dict[str, Any], store: Store) -> dict[str, Any] | None:
    """The real images that filters compared with, None without."""
    pinned = store.folder / "source.json"
    if settings.get("source") is None or not pinned.exists():
        return None
    return {**settings["source"], "fingerprint": json.loads(pinned.read_text(encoding="utf-8"))["fingerprint"]}


def _rules(recipe: FilterRecipe, selection: select.Selection) -> Iterator[dict[str, Any]]:
    """Rows that could not be read by their fault, then each filter, before it those to which it has no score; `left` ends at what is kept."""
    refused = {slug: count for slug, count in selection.refused().items() if slug != select.OVER_QUOTA}
    filters = {
        slug: f.asks() if slug == name else asked
        for name, f in recipe.named_filters()
        for slug, asked in (
            (f"unscored_{name}", "a row that the cascade had scored"),
            (f"{name}_no_score", "a row that the filter can score"),
            (name, ""),
        )
    }
    left = len(selection.keep)
    for slug, asked in {**{fault: "a row without this fault" for fault in refused if fault not in filters}, **filters}.items():
        if slug in refused:
            left -= refused[slug]
            yield {"name": slug, "asks": asked, "refused": refused[slug], "left": left}
