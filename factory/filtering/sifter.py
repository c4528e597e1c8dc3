"""One worker of a filter run: a shard of a corpus in; what each row is, its scores and a mark out. No pixel is stored."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from factory import claims, scoring
from factory.cells import clean, fitted
from factory.contracts import CorpusReader, FilterContext
from factory.encoders import Encoder
from factory.errors import UserError
from factory.filtering import reading
from factory.filtering.reading import Batch, Read
from factory.filtering.recipe import FilterRecipe
from factory.records import Cut, Found, Samples
from factory.runtime import Worker, fix_numerics
from factory.scoring import SCORED, Columns, Scoring
from factory.store import Store

AHEAD = 2  # batches that are ready before they are scored
SETTLED = "already_scored"  # a row that is read again with its shard, but needs no score
DETAIL = 200  # characters of why a row could not be read


class Watcher(Protocol):
    """Who wants to know how the work goes."""

    def ready(self) -> None:
        """Models are loaded; scoring begins."""

    def add(self, rows: int, refused: int) -> None:
        """A batch is done: its rows, and how many of them could not be read."""

    def refresh(self) -> None:
        """A shard was handed out, or others are waited for."""


def is_done(recipe: FilterRecipe, store: Store, cut: Cut) -> bool:
    """Whether a shard is whole, and every filter has seen the rows that it should."""
    if not store.is_made(cut.name, len(cut) if cut.stop >= 0 else None):
        return False
    return scoring.is_complete(recipe, store, cut.name, lambda: _readable(store, cut))


def _readable(store: Store, cut: Cut) -> np.ndarray:
    """bool [N]: rows of a stored shard that could be read."""
    return np.array([not fault for fault in store.read_shard(cut.name, ["fault"])["fault"].to_pylist()], bool)


@dataclass
class _Work:
    """A shard in hand. known: stored columns by filter identity; asked: rows to score, None for all; ids: of the stored rows."""

    cut: Cut
    release: Callable[[], None]
    known: dict[str, Columns] = field(default_factory=dict)
    asked: np.ndarray | None = None
    ids: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)
    rows: list[Read] = field(default_factory=list)
    scores: dict[str, list[tuple[int, Columns]]] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    count: int = 0


class Sifter:
    """Scores shards: rows are read and decoded by threads beside the model, and results are written behind it."""

    def __init__(self, recipe: FilterRecipe, store: Store, context: FilterContext, watcher: Watcher):
        self.recipe, self.store, self.watcher = recipe, store, watcher
        self.reader: CorpusReader = recipe.corpus.open(store.folder / "corpus", recipe.carry)
        self.class_names = self.reader.class_names or []
        self.scoring = Scoring(recipe, replace(context, class_names=self.class_names))
        self._numbers = {name: number for number, name in enumerate(self.class_names)}
        self._pool = ThreadPoolExecutor(recipe.readers, thread_name_prefix="factory-decode")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="factory-writer")
        self._pending: list[Future[None]] = []
        self._encoders: list[Encoder] = []  # those that see every picture, once they are loaded

    def done(self, cut: Cut) -> bool:
        """Whether a shard is whole, and every filter has seen the rows that it should."""
        return is_done(self.recipe, self.store, cut)

    def run(self, cuts: Sequence[Cut], me: Worker) -> None:
        """Claim and score shards until all are done, here or elsewhere."""
        self._run(claims.take(self.store, cuts, self.done, me, self.watcher.refresh))

    def one(self, cut: Cut) -> None:
        """Score one shard that an engine has handed out."""
        self._run(iter([(cut, lambda: None)]) if not self.done(cut) else iter(()))

    def close(self) -> None:
        """Finish what is being written and stop the helper threads."""
        try:
            self._flush(0)
        finally:
            self._pool.shutdown(cancel_futures=True)
            self._writer.shutdown()

    def _run(self, handed: Iterator[tuple[Cut, Callable[[], None]]]) -> None:
        with contextlib.closing(reading.in_background(self._batches(handed), AHEAD)) as upcoming:
            for work, batch in upcoming:
                if batch is not None:
                    self._open()
                    self._score(work, batch)
                else:
                    self._flush(1)
                    self._pending.append(self._writer.submit(self._write, work))
        self._flush(0)

    def _open(self) -> None:
        """Load the models, at the first batch: a worker that finds nothing to do loads nothing."""
        if "scorers" not in self.scoring.__dict__:
            scorers = self.scoring.scorers
            if "torch" in sys.modules:
                fix_numerics(self.recipe.threads)
            early = {f.identity() for f in self.recipe.filters if f.after is None}  # the others may never see a picture
            found: list[Any] = [getattr(scorers[identity], "encoder", None) for identity in early]
            self._encoders = list({id(encoder): encoder for encoder in found if hasattr(encoder, "ahead")}.values())
        self.watcher.ready()

    def _batches(self, handed: Iterator[tuple[Cut, Callable[[], None]]]) -> Iterator[tuple[_Work, Batch | None]]:
        """The batches of every shard that is handed out, and None behind each shard's last; runs in a thread of its own."""
        for cut, release in handed:
            work = _Work(cut, release)
            if self.store.is_made(cut.name, None):
                work.known = self.store.shard_scores(cut.name, self.recipe.filters)
                work.asked = self._asked(cut, work.known)
                work.ids = self.store.read_shard(cut.name, ["id"])["id"].to_pylist()
            for batch in reading.batches(self._found(work), self._pool, self.recipe.batch):
                pictures = [row.image for row in batch.rows if row.image is not None]
                for encoder in self._encoders:
                    encoder.ahead(pictures)
                yield work, batch
            work.types = self.reader.types()
            yield work, None

    def _found(self, work: _Work) -> Iterator[Found]:
        rows = self.reader.read(work.cut)
        for number, found in enumerate(rows if work.asked is None else unchanged(rows, work.ids)):
            wanted = work.asked is None or work.asked[number]
            yield found if wanted or found.fault else replace(found, image=None, fault=SETTLED)

    def _asked(self, cut: Cut, known: dict[str, Columns]) -> np.ndarray:
        """bool [N]: rows of a stored shard that lack a score."""
        readable = _readable(self.store, cut)
        if len(known) < len({f.identity() for f in self.recipe.filters}):
            return readable
        return scoring.lacking(self.recipe, known, readable)

    # ---- score

    def _score(self, work: _Work, batch: Batch) -> None:
        """Every filter's columns for one batch; rows that were not read, or not asked for, keep what is known."""
        count, at = len(batch.rows), work.count
        good = np.array([not row.reason for row in batch.rows], bool)
        known = {name: {key: values[at : at + count] for key, values in columns.items()} for name, columns in work.known.items()}
        results = known
        if good.any():
            chosen = np.flatnonzero(good)
            own = {name: {key: values[chosen] for key, values in columns.items()} for name, columns in known.items()}
            fresh = self.scoring.score(self._samples([batch.rows[i] for i in chosen]), own)
            results = {name: _laid(known.get(name), columns, chosen, count) for name, columns in fresh.items()}
        gone = np.array([row.reason not in ("", SETTLED) for row in batch.rows], bool)
        for identity, whole in {f.identity(): f.whole for f in self.recipe.filters}.items():
            columns = results.get(identity) or ({SCORED: np.ones(count, bool)} if whole else {"score": np.full(count, np.nan, np.float32)})
            if SCORED in columns:
                columns[SCORED] = columns[SCORED] | gone  # it was there before and is not now: no filter waits for it
            work.scores.setdefault(identity, []).append((count, columns))
        work.count += count
        work.rows += [replace(row, image=None, found=replace(row.found, image=None, caption=None)) for row in batch.rows]
        self.watcher.add(count, int(count - good.sum()))

    def _samples(self, rows: Sequence[Read]) -> Samples:
        labels = [self._numbers.get(row.found.label, -1) if row.found.label is not None else -1 for row in rows]
        return Samples(
            ids=[row.found.id for row in rows],
            images=[row.image for row in rows],
            labels=np.array(labels, np.int32),
            prompts=[row.found.caption or "" for row in rows],
            parents=[() for _ in rows],
        )

    # ---- write

    def _write(self, work: _Work) -> None:
        try:
            first = work.asked is None
            if first:
                self.store.drop_scores(work.cut.name)
            for identity, whole in {f.identity(): f.whole for f in self.recipe.filters}.items():
                empty: Columns = {SCORED: np.ones(0, bool)} if whole else {"score": np.zeros(0, np.float32)}
                columns = scoring.joined(work.scores.get(identity, [])) or empty
                if SCORED in columns and columns[SCORED].all() and len(columns) > 1:
                    del columns[SCORED]
                self.store.write_scores(work.cut.name, identity, columns)
            if first:
                notes = {"seconds": round(time.perf_counter() - work.started, 3), "types": work.types}
                self.store.write_shard(work.cut.name, _table(work.rows, self.recipe.carry, work.types), notes)
        finally:
            work.release()

    def _flush(self, most: int) -> None:
        """Wait until at most that many shards are being written."""
        while len(self._pending) > most:
            self._pending.pop(0).result()


def unchanged(rows: Iterator[Found], ids: Sequence[str]) -> Iterator[Found]:
    """The first rows of a shard that was scored, while they are those that it had then. Raises UserError: scores belong to rows by their place."""
    count = 0
    for found, known in zip(rows, ids, strict=False):
        if found.id != known:
            raise UserError(f"{found.id} stands where {known} was when it was scored; the corpus changed, so filter it into a new --out")
        count += 1
        yield found
    if count < len(ids):
        raise UserError(f"{ids[count]} was scored, and now is not there; the corpus changed, so filter it into a new --out")


def _laid(old: Columns | None, fresh: Columns, chosen: np.ndarray, count: int) -> Columns:
    """Columns of the chosen rows within a batch; others keep what they had, and are NaN (or 0) where they had nothing."""
    laid: Columns = {}
    for name, values in fresh.items():
        if name != SCORED:
            before = None if old is None else old.get(name)
            laid[name] = scoring.blank((count, *values.shape[1:]), values.dtype) if before is None else before.astype(values.dtype)
            laid[name][chosen] = values
    scored = np.ones(count, bool) if old is None else scoring.seen(old, count).copy()
    scored[chosen] = scoring.seen(fresh, len(chosen))
    return laid if scored.all() and laid else {**laid, SCORED: scored}


def _table(rows: Sequence[Read], carry: Sequence[str], types: dict[str, str]) -> pa.Table:
    """What is known of each row of a shard."""
    shapes = [row.shape or (None, None) for row in rows]
    columns = {
        "id": pa.array([row.found.id for row in rows], pa.string()),
        "label": pa.array([row.found.label for row in rows], pa.string()),
        "fault": pa.array([row.reason for row in rows], pa.string()),
        "detail": pa.array([clean(row.detail)[:DETAIL] for row in rows], pa.string()),
        "height": pa.array([shape[0] for shape in shapes], pa.int32()),
        "width": pa.array([shape[1] for shape in shapes], pa.int32()),
    }
    for name in carry:
        kind = types.get(name, "string")
        columns[f"column.{name}"] = pa.array([fitted(row.found.columns.get(name), kind) for row in rows], arrow_type(kind))
    return pa.table(columns)


def arrow_type(kind: str) -> pa.DataType:
    """The Arrow type of a carried column; an image is its bytes."""
    if kind.startswith("list<"):
        return pa.list_(arrow_type(kind[5:-1]))
    plain = {"string": pa.string(), "int64": pa.int64(), "float32": pa.float32(), "float64": pa.float64(), "bool": pa.bool_()}
    return plain.get(kind, pa.binary())
