"""The story of a build: rounds of shards until every class has its images, then a selection, a dataset and a report."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from factory import assemble, claims, provenance, report, runtime
from factory import plan as planning
from factory.contracts import Table
from factory.errors import UserError
from factory.plan import Plan, Requests, Shard
from factory.recipe import Recipe
from factory.store import Shards, Store
from factory.worker import Maker


@dataclass(frozen=True)
class Round:
    """One recorded round."""

    requests: Requests
    shards: list[Shard]


def run(recipe: Recipe, plan: Plan, table: Table, out: Path, device: str = "auto", join: bool = False) -> dict[str, Any] | None:
    """Build a recipe's dataset in `out`, resuming what is there. Returns the report on the first worker, None on others.

    Raises UserError, also for Ctrl-C: the shard in hand is dropped and everything before it is kept.
    """
    me = runtime.worker()
    runtime.fix_numerics(recipe.threads)
    if me.is_first and not join:
        with Store(out).owned():
            return _run(recipe, plan, table, out, me, device, owner=True)
    return _run(recipe, plan, table, out, me, device, owner=False)


def _run(recipe: Recipe, plan: Plan, table: Table, out: Path, me: runtime.Worker, device: str, owner: bool) -> dict[str, Any] | None:
    """One worker's part: make shards; the owner of the launch also selects, exports and reports."""
    store = Store.open(out, plan.id, plan.identity, recipe.settings(), owner)
    if owner:
        provenance.keep(recipe, plan, store)
    progress = report.Progress(recipe, store, table, show=owner)
    maker = Maker(recipe, plan, table, store, runtime.device(me, device), progress)
    try:
        with runtime.interruptible(), contextlib.closing(maker), progress:
            rounds = _rounds(recipe, plan, store, maker, progress, me)
    except KeyboardInterrupt:
        raise UserError(f"interrupted; shards done and kept: {len(store.marked())}; run the same command again to go on") from None
    if not owner:
        return None
    shards, rows = _stored(store, rounds)
    selection = assemble.decide(recipe, store, shards, rows, _quota(plan))
    for f in recipe.filters:
        store.join_scores(shards, f.identity())
    store.write_rows(shards, rows)
    assemble.write_down(store, rows["label"], rows["ordinal"], selection)
    assemble.export(recipe, store, shards, rows["label"], selection)
    return report.write(recipe, plan, table, store, selection, progress)


def _rounds(recipe: Recipe, plan: Plan, store: Store, maker: Maker, progress: report.Progress, me: runtime.Worker) -> list[Round]:
    """Make every recorded round, and record another while a class is short and the limit allows."""
    rounds: list[Round] = []
    asked = np.zeros(len(plan.classes), np.int64)
    count = plan.wanted
    recorded = len(store.rounds())
    while count.any():
        number = len(rounds)
        asked, count = store.record_round(number, asked, count)
        requests = plan.requests(asked, count)
        rounds.append(Round(requests, plan.shards(number, requests)))
        progress.begin(number, rounds[-1].shards)
        _make_all(store, maker, rounds[-1], progress, me)
        asked = asked + count
        if number + 1 < recorded:
            continue
        count = np.maximum(plan.wanted - asked, 0)  # the amount was raised since these rounds were recorded
        if number + 1 < recipe.amount.rounds:
            rules = [recipe.settings()[key] for key in ("amount", "filters")]
            count = store.next_round(number + 1, rules, functools.partial(_shortage, recipe, plan, store, list(rounds), asked))
    return rounds


def _shortage(recipe: Recipe, plan: Plan, store: Store, rounds: list[Round], asked: np.ndarray) -> np.ndarray:
    """What the next round asks for, int64 [classes], from the scores of all rounds so far."""
    shards, rows = _stored(store, rounds)
    keep = assemble.decide(recipe, store, shards, rows, _quota(plan)).keep
    kept = np.array([int((keep & (rows["label"] == c)).sum()) for c in plan.classes], np.int64)
    return np.maximum(plan.wanted - asked, planning.shortage(plan.wanted, kept, asked))


def _stored(store: Store, rounds: list[Round]) -> tuple[Shards, dict[str, np.ndarray]]:
    """The complete rounds' shards, and label and ordinal of every row in them."""
    requests = [item.requests for item in rounds]
    rows = {"label": np.concatenate([r.label for r in requests]), "ordinal": np.concatenate([r.ordinal for r in requests])}
    return store.shards([shard.name for item in rounds for shard in item.shards]), rows


def _quota(plan: Plan) -> dict[int, int]:
    return dict(zip(plan.classes.tolist(), plan.wanted.tolist(), strict=True))


def _make_all(store: Store, maker: Maker, this: Round, progress: report.Progress, me: runtime.Worker) -> None:
    """Claim and make shards until all are done, by this worker or another; a dead worker's claims free themselves."""

    def done(shard: Shard) -> bool:
        return store.is_made(shard.name, len(shard)) and maker.is_scored(shard)

    for shard, release in claims.take(store, this.shards, done, me, progress.refresh):
        try:
            maker.make(shard, this.requests, release)
        except BaseException:
            release()
            raise
    maker.flush()
