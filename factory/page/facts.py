"""What the page knows of a run: its report, its rows with their scores and rules, and its evaluation where there is one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from factory import assemble, evaluation_file, files, filtering, select
from factory import recipe as recipes
from factory.contracts import Filter
from factory.errors import UserError
from factory.filtering import outcome
from factory.filtering.recipe import FilterRecipe
from factory.filtering.rows import collected
from factory.recipe import Recipe
from factory.reselect import quotas
from factory.select import Rule, Selection
from factory.store import Shards, Store


@dataclass(frozen=True)
class Run:
    """A finished run, of `factory build` or of `factory filter`.

    labels: int32 [N] of all rows, -1 unlabelled.  ordinals: int32 [N], the order in which a quota fills.  rules: one for each filter of the
    recipe, in order.  quota: class -> rows kept at most, None without one.  faults: rows that could not be read, see `select.decide`.
    selection: what the recipe's own rules decide.  stored: rows that selection.parquet keeps, which a later `factory select` may have changed.
    outdated: whether the evaluation measured another selection than the one that is stored now.
    """

    store: Store
    recipe: Recipe | FilterRecipe
    report: dict[str, Any]
    evaluation: dict[str, Any] | None
    class_names: list[str]
    shards: Shards
    labels: np.ndarray
    ordinals: np.ndarray
    rules: list[Rule]
    quota: dict[int, int] | None
    faults: tuple[np.ndarray, list[str]] | None
    selection: Selection
    stored: int
    outdated: bool = False

    @property
    def filters(self) -> list[tuple[str, Filter]]:
        return self.recipe.named_filters()

    @cached_property
    def classes(self) -> list[int]:
        """The labels that count: of the quota, or all that there are."""
        if self.quota is not None:
            return sorted(self.quota)
        unlabelled = [-1] if not self.class_names or (self.labels < 0).any() else []
        return [*unlabelled, *range(len(self.class_names))]

    @property
    def verb(self) -> str:
        """What happened to its rows before the rules: generated or read."""
        return "generated" if isinstance(self.recipe, Recipe) else "read"

    def class_name(self, label: int) -> str:
        """A label in words; all rows of an unlabelled run are one class."""
        return self.class_names[label] if 0 <= label < len(self.class_names) else "(unlabelled)" if self.class_names else "(all)"


def read(folder: Path) -> Run:
    """Everything but pixels. Raises UserError for a folder without a finished run."""
    store = Store.existing(folder)
    report = files.read_object(folder / "report.json", "write it again with the command that made it")
    corpus = "corpus" in store.run()["identity"]
    if report is None or not (folder / "selection.parquet").exists():
        command = "filter" if corpus else "build"
        raise UserError(f"{folder}: the run is not finished; run `factory {command}` with the same --out to finish it")
    stored = int(pq.read_table(folder / "selection.parquet", columns=["keep"])["keep"].to_numpy().sum())
    return (_filtered if corpus else _built)(store, report, stored)


def _built(store: Store, report: dict[str, Any], stored: int) -> Run:
    recipe = recipes.load(store.folder / "recipe.json", environ={})
    quota = quotas(recipe, store)
    shards, rows = store.read_rows()
    rules = assemble.rules(recipe, store, shards)
    labels, ordinals = rows["label"], rows["ordinal"]
    selection = select.decide(labels, rules, quota, ordinals)
    names = list(store.run()["identity"]["source"]["class_names"])
    found = evaluation_file.read(store.folder)
    kept = select.digest(pq.read_table(store.folder / "selection.parquet", columns=["keep"])["keep"].to_numpy())
    outdated = found is not None and not evaluation_file.measured(found, kept)
    return Run(store, recipe, report, found, names, shards, labels, ordinals, rules, quota, None, selection, stored, outdated)


def _filtered(store: Store, report: dict[str, Any], stored: int) -> Run:
    recipe = filtering.load(store.folder / "recipe.json", environ={})
    rows = collected(store)
    rules = outcome.rules(recipe, store, rows.shards)
    faults = rows.fault, rows.faults
    selection = select.decide(rows.label, rules, faults=faults)
    order = np.zeros(len(rows.label), np.int32)
    return Run(store, recipe, report, None, rows.class_names, rows.shards, rows.label, order, rules, None, faults, selection, stored)
