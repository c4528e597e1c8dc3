"""What the page knows of a run: its report, its rows with their scores and rules, and its evaluation where there is one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from factory import assemble, select
from factory import plan as planning
from factory import recipe as recipes
from factory.contracts import Filter
from factory.errors import UserError
from factory.recipe import Recipe
from factory.select import Rule, Selection
from factory.store import Shards, Store

EVALUATION = 1  # the version of evaluation.json that this page reads


@dataclass(frozen=True)
class Run:
    """A finished run.

    labels, ordinals: int32 [N] of all rows.  rules: one for each filter of the recipe, in order.  quota: class -> rows kept at most.
    selection: what the recipe's own rules decide.  stored: rows that selection.parquet keeps, which a later `factory select` may have changed.
    """

    store: Store
    recipe: Recipe
    report: dict[str, Any]
    evaluation: dict[str, Any] | None
    class_names: list[str]
    shards: Shards
    labels: np.ndarray
    ordinals: np.ndarray
    rules: list[Rule]
    quota: dict[int, int]
    selection: Selection
    stored: int

    @property
    def filters(self) -> list[tuple[str, Filter]]:
        return self.recipe.named_filters()

    def class_name(self, label: int) -> str:
        """A label in words; all rows of an unlabelled run are one class."""
        return self.class_names[label] if 0 <= label < len(self.class_names) else "(all)"


def read(folder: Path) -> Run:
    """Everything but pixels. Raises UserError for a folder without a finished run."""
    store = Store.existing(folder)
    recipe = recipes.load(folder / "recipe.json", environ={})
    report = _json(folder / "report.json")
    if report is None:
        raise UserError(f"{folder}: the run has no report.json; run `factory build` with the same --out to finish it")
    identity = store.run()["identity"]["source"]
    class_names, real = list(identity["class_names"]), np.array(identity["real"])
    classes = list(range(len(class_names))) or [planning.UNLABELLED]
    quota = dict(zip(classes, planning.wanted(recipe.amount, class_names, real).tolist(), strict=True))
    shards, rows = store.read_rows()
    rules = assemble.rules(recipe, store, shards)
    selection = select.decide(rows["label"], rules, quota, rows["ordinal"])
    stored = int(pq.read_table(folder / "selection.parquet", columns=["keep"])["keep"].to_numpy().sum())
    return Run(
        store, recipe, report, evaluation(folder), class_names, shards, rows["label"], rows["ordinal"], rules, quota, selection, stored
    )  # fmt: skip


def evaluation(folder: Path) -> dict[str, Any] | None:
    """evaluation.json, None before the run was evaluated. Raises UserError for one that another version wrote."""
    found = _json(folder / "evaluation.json")
    if found is not None and found.get("version") != EVALUATION:
        raise UserError(
            f"{folder / 'evaluation.json'} has version {found.get('version')}, this page reads {EVALUATION}; run `factory evaluate` again"
        )
    return found


def _json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not JSON ({error}); write it again with the command that made it") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(value).__name__}; write it again with the command that made it")
    return value
