"""A finished run as its folder holds it, of `factory build` and of `factory filter` alike: all of its rows and what decides them; no pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from factory import assemble, evaluation_file, files, filtering, select
from factory import plan as planning
from factory import recipe as recipes
from factory.contracts import Filter
from factory.errors import UserError
from factory.filtering import outcome
from factory.filtering.recipe import FilterRecipe
from factory.filtering.rows import collected
from factory.recipe import Recipe
from factory.records import class_name
from factory.select import Rule, Selection
from factory.store import Shards, Store


@dataclass(frozen=True)
class Run:
    """The rows of a finished run, and the recipe by whose rules they are decided.

    labels: int32 [N] of all rows, -1 unlabelled.  ordinals: int32 [N], the order in which a quota fills.
    quota: class -> rows kept at most, None without one.  faults: rows that could not be read, see `select.decide`.
    source: what is known of the real images of a build: class_names, fingerprint and real, their number in each class; {} of a filter run.
    """

    store: Store
    recipe: Recipe | FilterRecipe
    source: dict[str, Any]
    class_names: list[str]
    shards: Shards
    labels: np.ndarray
    ordinals: np.ndarray
    quota: dict[int, int] | None
    faults: tuple[np.ndarray, list[str]] | None

    @property
    def built(self) -> Recipe:
        """The recipe of what is known to be a build."""
        assert isinstance(self.recipe, Recipe)
        return self.recipe

    @property
    def verb(self) -> str:
        """What happened to its rows before the rules: generated or read."""
        return "generated" if isinstance(self.recipe, Recipe) else "read"

    @property
    def filters(self) -> list[tuple[str, Filter]]:
        return self.recipe.named_filters()

    @cached_property
    def rules(self) -> list[Rule]:
        """One for each filter of the recipe, in order. Raises UserError where a filter has not scored a shard."""
        if isinstance(self.recipe, Recipe):
            return assemble.rules(self.recipe, self.store, self.shards)
        return outcome.rules(self.recipe, self.store, self.shards)

    @cached_property
    def selection(self) -> Selection:
        """What the recipe's rules decide."""
        return select.decide(self.labels, self.rules, self.quota, self.ordinals, faults=self.faults)

    @cached_property
    def keep(self) -> np.ndarray:
        """bool [N]: what selection.parquet keeps, which a later `factory select` may have changed. Raises UserError where there is none."""
        path = self.store.folder / "selection.parquet"
        if not path.exists():
            raise UserError(f"{self.store.folder}: nothing has been selected; run {self.store.command()} with the same --out to finish it")
        keep: np.ndarray = pq.read_table(path, columns=["keep"])["keep"].to_numpy(zero_copy_only=False)
        if len(keep) != len(self.labels):
            raise UserError(f"{path} has {len(keep)} rows for {len(self.labels)} images; run `factory select {self.store.folder}`")
        return keep

    @cached_property
    def report(self) -> dict[str, Any]:
        """report.json. Raises UserError where there is none."""
        found = files.read_object(self.store.folder / "report.json", "write it again with the command that made it")
        if found is None:
            raise UserError(f"{self.store.folder}: the run is not finished; run {self.store.command()} with the same --out to finish it")
        return found

    @cached_property
    def evaluation(self) -> dict[str, Any] | None:
        """evaluation.json, None where there is none. Raises UserError."""
        return evaluation_file.read(self.store.folder)

    @property
    def outdated(self) -> bool:
        """Whether the evaluation measured another selection than the one that is stored now."""
        return self.evaluation is not None and not evaluation_file.measured(self.evaluation, select.digest(self.keep))

    @cached_property
    def classes(self) -> list[int]:
        """The labels that count: of the quota, or all that there are."""
        if self.quota is not None:
            return sorted(self.quota)
        unlabelled = [-1] if not self.class_names or (self.labels < 0).any() else []
        return [*unlabelled, *range(len(self.class_names))]

    def class_name(self, label: int) -> str:
        """A label of this run in words."""
        return class_name(self.class_names, label)


def read(folder: Path, recipe_file: Path | None = None, sets: Sequence[str] = ()) -> Run:
    """The run in a folder, with its own recipe or another one, changed by --set. Raises UserError for a folder without a finished run."""
    store = Store.existing(folder)
    path = recipe_file or folder / "recipe.json"
    environ: dict[str, str] | None = None if recipe_file else {}
    if store.is_filtered():
        recipe = filtering.load(path, sets, environ=environ)
        rows = collected(store)
        order = np.zeros(len(rows.label), np.int32)
        return Run(store, recipe, {}, rows.class_names, rows.shards, rows.label, order, None, (rows.fault, rows.faults))
    built, source = recipes.load(path, sets, environ=environ), store.run()["identity"]["source"]
    shards, columns = store.read_rows()
    names, quota = list(source["class_names"]), quotas(built, store)
    return Run(store, built, source, names, shards, columns["label"], columns["ordinal"], quota, None)


def quotas(recipe: Recipe, store: Store) -> dict[int, int]:
    """Class index -> images to keep, by the recipe's amount and the real images that the run knows of."""
    source = store.run()["identity"]["source"]
    classes = list(range(len(source["class_names"]))) or [planning.UNLABELLED]
    wanted = planning.wanted(recipe.amount, source["class_names"], np.array(source["real"]))
    return dict(zip(classes, wanted.tolist(), strict=True))
