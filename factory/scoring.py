"""Filters over batches: every row gets every score, or in a cascade only what earlier filters have not settled."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from factory.contracts import Filter, FilterContext, Scorer
from factory.errors import UserError
from factory.recipe import Scored
from factory.records import Samples
from factory.store import PARTIAL as SCORED
from factory.store import Store

log = logging.getLogger("factory")

Columns = dict[str, np.ndarray]


@dataclass
class Scoring:
    """A recipe's filters with what they loaded; opened on first use, so that a worker that finds nothing to do loads nothing."""

    recipe: Scored
    context: FilterContext
    failed: int = 0  # rows on which a scorer raised
    _sound: dict[str, Columns] = field(default_factory=dict)  # columns without rows of the filters that have answered

    @cached_property
    def scorers(self) -> dict[str, Scorer]:
        """The loaded filters, by identity."""
        return {f.identity(): f.open(self.context) for f in self.recipe.filters}

    def score(self, samples: Samples, known: Mapping[str, Columns] | None = None) -> dict[str, Columns]:
        """Columns of a batch by filter identity: what `known` has already, and what is still needed.

        Without scores for some rows a filter has the column `scored`; those rows have what `blank` gives.
        """
        results = {identity: dict(columns) for identity, columns in (known or {}).items()}
        alive: list[np.ndarray] = []
        for f, after in zip(self.recipe.filters, self.recipe.cascade(), strict=True):
            alive.append(reached(after, alive, self.recipe.filters, results, len(samples)))
            identity = f.identity()
            have = seen(results.get(identity, {}), len(samples)) if identity in results else np.zeros(len(samples), bool)
            rows = np.flatnonzero(alive[-1] & ~have)
            if len(rows):
                fresh = self._ask(f, samples if len(rows) == len(samples) else samples.take(rows))
                results[identity] = _merged(results.get(identity, {}), fresh, rows, have)
            elif identity not in results:
                results[identity] = {SCORED: have, **({} if f.whole else {"score": np.full(len(samples), np.nan, np.float32)})}
        return results

    def _ask(self, f: Filter, samples: Samples) -> Columns:
        """One filter's columns; where it fails on a batch, row by row, so that a bad row costs no other. A filter that always fails is raised."""
        identity = f.identity()
        try:
            columns = self.scorers[identity].score(samples)
            self._sound[identity] = {name: values[:0] for name, values in columns.items()}
            return columns
        except (UserError, MemoryError):
            raise
        except Exception as error:
            if "OutOfMemory" in type(error).__name__ or (identity not in self._sound and len(samples) == 1):
                raise
            return self._one_by_one(f, samples, error)

    def _one_by_one(self, f: Filter, samples: Samples, first: Exception) -> Columns:
        parts: list[Columns | None] = []
        for i in range(len(samples)):
            try:
                parts.append(self.scorers[f.identity()].score(samples.take([i])))
            except Exception as error:  # whatever a scorer raises on one image is a fact about that row
                log.warning("%s could not score %s: %s: %s", f.kind, samples.ids[i], type(error).__name__, error)
                parts.append(None)
        good = [part for part in parts if part is not None]
        self.failed += len(parts) - len(good)
        if not good:
            if f.identity() not in self._sound:
                raise first
            return {name: blank((len(parts), *values.shape[1:]), values.dtype) for name, values in self._sound[f.identity()].items()}
        self._sound[f.identity()] = {name: values[:0] for name, values in good[0].items()}
        rows = np.flatnonzero([part is not None for part in parts])
        merged = _merged({}, {name: np.concatenate([part[name] for part in good]) for name in good[0]}, rows, np.zeros(len(parts), bool))
        merged.pop(SCORED, None)  # these rows were seen, and have no answer
        return merged


def reached(
    after: int | None, alive: Sequence[np.ndarray], filters: Sequence[Filter], scores: Mapping[str, Columns], count: int
) -> np.ndarray:
    """bool [N]: the rows that a filter must see: all, or those that the filter it comes after saw and lets through."""
    if after is None:
        return np.ones(count, bool)
    low, high = filters[after].bounds()
    score = scores[filters[after].identity()]["score"]
    with np.errstate(invalid="ignore"):
        passes: np.ndarray = alive[after] & (score >= low) & (score <= high)
    return passes


def blank(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A column of rows that have no answer: NaN, 0, False or an empty text, by its type."""
    if dtype.kind == "O":  # texts that were read from disk
        return np.full(shape, "", dtype)
    return np.full(shape, np.nan, dtype) if dtype.kind == "f" else np.zeros(shape, dtype)


def seen(columns: Columns, count: int) -> np.ndarray:
    """bool [N]: the rows that a filter has scored."""
    return np.asarray(columns[SCORED], bool) if SCORED in columns else np.ones(count, bool)


def lacking(recipe: Scored, scores: Mapping[str, Columns], readable: np.ndarray) -> np.ndarray:
    """bool [N]: rows that some filter should have scored by the recipe's rules and has not. readable: bool [N], those that filters see."""
    count = len(readable)
    missing = np.zeros(count, bool)
    alive: list[np.ndarray] = []
    for f, after in zip(recipe.filters, recipe.cascade(), strict=True):
        alive.append(reached(after, alive, recipe.filters, scores, count) & readable)
        missing |= alive[-1] & ~seen(scores[f.identity()], count)
    return missing


def is_complete(recipe: Scored, store: Store, shard: str, readable: Callable[[], np.ndarray]) -> bool:
    """Whether every filter has seen every row of a stored shard that it should; nothing but names is read where no filter is partial.

    readable: finds the rows of the shard that filters see, bool [N].
    """
    identities = {f.identity() for f in recipe.filters}
    if not all(store.has_scores(shard, identity) for identity in identities):
        return False
    if not any(store.is_partial(shard, identity) for identity in identities):
        return True
    return not lacking(recipe, store.shard_scores(shard, recipe.filters), readable()).any()


def _merged(old: Columns, fresh: Columns, rows: np.ndarray, have: np.ndarray) -> Columns:
    """Fresh columns of some rows laid over what is there."""
    have = have.copy()
    have[rows] = True
    merged: Columns = {}
    for name, values in fresh.items():
        whole = old.get(name)
        if whole is None or whole.shape[1:] != values.shape[1:]:
            whole = blank((len(have), *values.shape[1:]), values.dtype)
        else:
            whole = whole.astype(values.dtype)  # a copy: what is read from disk is read-only
        whole[rows] = values
        merged[name] = whole
    return merged if have.all() else {**merged, SCORED: have}


def joined(parts: Sequence[tuple[int, Columns]]) -> Columns:
    """Columns of consecutive batches as one; a batch (its rows, its columns) that lacks a column has NaN or 0 there."""
    total = sum(count for count, _ in parts)
    whole: Columns = {}
    at = 0
    for count, columns in parts:
        for name, values in columns.items():
            if name not in whole:
                shape = (total, *values.shape[1:])
                whole[name] = np.ones(shape, bool) if name == SCORED else blank(shape, values.dtype)
            whole[name][at : at + count] = values
        at += count
    return whole
