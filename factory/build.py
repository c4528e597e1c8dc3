"""The story of a build: rounds of shards until every class has its images, then a selection, a dataset and a report."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from factory import assemble, report, runtime, select
from factory import plan as planning
from factory.contracts import Table
from factory.errors import UserError
from factory.plan import Plan, Requests, Shard
from factory.recipe import Recipe
from factory.store import Store
from factory.worker import Maker

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Round:
    """One recorded round, with its requests and shards."""

    start: np.ndarray
    count: np.ndarray
    requests: Requests
    shards: list[Shard]


def run(recipe: Recipe, plan: Plan, table: Table, out: Path, device: str = "auto", join: bool = False) -> dict[str, Any] | None:
    """Build a recipe's dataset in `out`, resuming what is there. Returns the report on the first worker, None on others.

    Raises UserError, also for Ctrl-C: the shard in hand is dropped and everything before it is kept.
    """
    me = runtime.worker()
    runtime.fix_numerics(recipe.threads)
    store = Store(out)
    if me.is_first and not join:
        with store.owned():
            return _run(recipe, plan, table, store, me, device)
    return _run(recipe, plan, table, store, me, device)


def _run(recipe: Recipe, plan: Plan, table: Table, store: Store, me: runtime.Worker, device: str) -> dict[str, Any] | None:
    Store.open(store.folder, plan.id, plan.identity, recipe.settings())
    progress = report.Progress(recipe, store, table, show=me.is_first)
    maker = Maker(recipe, plan, table, store, runtime.device(me, device), progress)
    try:
        with runtime.interruptible(), contextlib.closing(maker), progress:
            rounds = _rounds(recipe, plan, store, maker, progress, me)
    except KeyboardInterrupt:
        raise UserError(f"interrupted; {len(store.made())} shards are done and kept: run the same command again to go on") from None
    if not me.is_first:
        return None
    selection = _decide(recipe, plan, store, rounds)
    assemble.export(recipe, store, selection)
    return report.write(recipe, plan, table, store, selection, progress)


def _rounds(recipe: Recipe, plan: Plan, store: Store, maker: Maker, progress: report.Progress, me: runtime.Worker) -> list[Round]:
    """Make every recorded round, and record another while a class is short and the limit allows."""
    rounds: list[Round] = []
    asked = np.zeros(len(plan.classes), np.int64)
    count = plan.wanted
    recorded = store.rounds()
    while count.any():
        number = len(rounds)
        if number < len(recorded):
            asked, count = np.array(recorded[number]["start"]), np.array(recorded[number]["count"])
        else:
            store.record_round(number, asked, count)
        requests = plan.requests(asked, count)
        rounds.append(Round(asked, count, requests, plan.shards(number, len(requests))))
        progress.begin(number, rounds[-1].shards)
        _make_all(recipe, store, maker, rounds[-1], progress, me)
        asked = asked + count
        if number + 1 < len(recorded):
            continue
        count = np.maximum(plan.wanted - asked, 0)  # the amount was raised since these rounds were recorded
        if number + 1 < recipe.amount.rounds:
            kept = _kept_per_class(plan, rounds, _decide(recipe, plan, store, rounds))
            count = np.maximum(count, planning.shortage(plan.wanted, kept, asked))
    return rounds


def _make_all(recipe: Recipe, store: Store, maker: Maker, this: Round, progress: report.Progress, me: runtime.Worker) -> None:
    """Claim and make shards until all are done, by this worker or another; a dead worker's claims free themselves."""

    def done(shard: Shard) -> bool:
        return store.is_made(shard.name) and all(store.has_scores(shard.name, f.identity()) for f in recipe.filters)

    todo = [shard for shard in this.shards if not done(shard)]
    while todo:
        # Workers start apart, so that they rarely ask for the same lock.
        first = me.rank * len(todo) // me.world
        busy = False
        for shard in todo[first:] + todo[:first]:
            claim = store.claim(shard.name)
            if claim is None:
                continue
            if done(shard):
                claim.release()
                continue
            busy = True
            try:
                maker.make(shard, this.requests, claim.release)
            except BaseException:
                claim.release()
                raise
            progress.refresh()
        maker.flush()
        todo = [shard for shard in todo if not done(shard)]
        if todo and not busy:
            progress.refresh()
            time.sleep(POLL_SECONDS)


def _decide(recipe: Recipe, plan: Plan, store: Store, rounds: list[Round]) -> select.Selection:
    """Write down which rows the complete rounds hold, and decide them."""
    requests = [item.requests for item in rounds]
    store.write_rows(
        [shard.name for item in rounds for shard in item.shards],
        {
            "label": np.concatenate([r.label for r in requests] or [np.zeros(0, np.int32)]),
            "ordinal": np.concatenate([r.ordinal for r in requests] or [np.zeros(0, np.int32)]),
        },
    )
    return assemble.decide(recipe, store, dict(zip(plan.classes.tolist(), plan.wanted.tolist(), strict=True)))


def _kept_per_class(plan: Plan, rounds: list[Round], selection: select.Selection) -> np.ndarray:
    """int64 [classes], in the order of plan.classes."""
    labels = np.concatenate([item.requests.label for item in rounds])
    return np.array([int(((labels == c) & selection.keep).sum()) for c in plan.classes], np.int64)
