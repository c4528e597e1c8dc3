"""From a filtered corpus's stored scores to a selection and what it leaves behind; no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from factory import assemble, select
from factory.filtering import dataset, index, report, sheets
from factory.filtering.progress import Progress
from factory.filtering.recipe import FilterRecipe
from factory.filtering.rows import Rows, collect, collected
from factory.records import Cut
from factory.select import Selection
from factory.store import Shards, Store


def conclude(recipe: FilterRecipe, store: Store, cuts: Sequence[Cut], progress: Progress) -> dict[str, Any]:
    """Everything that follows when all shards are scored. Returns the report."""
    rows = collect(recipe, store, store.shards([cut.name for cut in cuts]))
    for f in recipe.filters:
        store.join_scores(rows.shards, f.identity())
    selection = decide(recipe, store, rows)
    leave(recipe, store, rows, selection)
    return report.write(recipe, store, rows, selection, progress)


def rules(recipe: FilterRecipe, store: Store, shards: Shards) -> list[select.Rule]:
    """The recipe's rules over stored scores; a row without an answer has a reason of its own, `<filter>_no_score`."""
    return [assemble.rule(f, name, store, shards, f"{name}_no_score") for name, f in recipe.named_filters()]


def decide(recipe: FilterRecipe, store: Store, rows: Rows) -> Selection:
    """Every row kept, or refused for one reason. Raises UserError where a filter has not scored a shard."""
    return select.decide(rows.label, rules(recipe, store, rows.shards), faults=(rows.fault, rows.faults))


def reselect(recipe: FilterRecipe, store: Store, export: bool) -> dict[str, Any]:
    """Decide again with other rules: selection.parquet and the index always, the new shards when `export`. Returns what `select` tells."""
    rows = collected(store)
    selection = decide(recipe, store, rows)
    leave(recipe, store, rows, selection, export)
    return report.counts(rows, selection)


def leave(recipe: FilterRecipe, store: Store, rows: Rows, selection: Selection, export: bool | None = None) -> None:
    """Write what the recipe keeps: selection.parquet, and kept.parquet, dataset/ or both, with pictures of them.

    export: whether to read the corpus again for new shards; None, as the recipe says. Beside new shards of an earlier selection the pictures
    stay those of that one: they are published together.
    """
    index.write_selection(store, rows, selection)
    if recipe.keep in ("index", "both"):
        index.write_kept(recipe, store, rows, selection)
    renewed = recipe.keep in ("dataset", "both") if export is None else export
    if renewed:
        dataset.export(recipe, store, rows, selection)
    if renewed or (export is None and not (store.folder / "dataset").exists()):
        sheets.write(recipe, store, rows, selection)
