"""The story of `factory filter`: a corpus that exists, cut into shards, scored, and decided from the stored scores."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from factory import outcome, runtime
from factory.contracts import FilterContext
from factory.errors import UserError
from factory.filter_progress import Progress
from factory.filter_recipe import FilterRecipe
from factory.records import Cut
from factory.sifter import Sifter
from factory.store import OWNER_SECONDS, Store, write_table

log = logging.getLogger("factory")
DRAFT = ".corpus-"


@dataclass(frozen=True)
class Job:
    """What a run consists of. identity: everything that decides its rows and their scores' last bits."""

    cuts: tuple[Cut, ...]
    identity: dict[str, Any]

    @property
    def id(self) -> str:
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:16]


def run(recipe: FilterRecipe, out: Path, device: str = "auto", join: bool = False) -> dict[str, Any] | None:
    """Filter a recipe's corpus in `out`, resuming what is there. Returns the report on the first worker, None on others.

    Raises UserError, also for Ctrl-C: the shard in hand is dropped and everything before it is kept.
    """
    me = runtime.worker()
    if me.is_first and not join:
        with Store(out).owned():
            store, job = begin(recipe, out)
            progress = _sift(recipe, store, job.cuts, me, device, show=True)
            return outcome.conclude(recipe, store, job.cuts, progress)
    store, job = joined(recipe, out)
    _sift(recipe, store, job.cuts, me, device, show=False)
    return None


def begin(recipe: FilterRecipe, out: Path) -> tuple[Store, Job]:
    """Cut the corpus and open its run; the owner of a launch does this. Raises UserError for a folder that another plan made."""
    for stale in out.glob(f"{DRAFT}*"):
        shutil.rmtree(stale, ignore_errors=True)
    draft = out / f"{DRAFT}{secrets.token_hex(4)}"
    draft.mkdir()
    try:
        job = _cut(recipe, draft)
        store = Store.open(out, job.id, job.identity, recipe.settings(), owner=True)
        if not (out / "corpus").exists():
            draft.rename(out / "corpus")
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return store, job


def joined(recipe: FilterRecipe, out: Path) -> tuple[Store, Job]:
    """The run that the owner of this launch has begun, once it is there. Raises UserError for another recipe."""
    end = time.monotonic() + OWNER_SECONDS
    while not (out / "corpus" / "cuts.parquet").exists() or not (out / "run.json").exists():
        if time.monotonic() > end and not list(out.glob(f"{DRAFT}*")):  # a large corpus takes a while to list
            raise UserError(f"{out}: no run has begun there; start one without --join")
        time.sleep(0.2)
    found = Store(out).run()["identity"]
    rows = pq.read_table(out / "corpus" / "cuts.parquet").to_pylist()
    job = Job(tuple(Cut(**row) for row in rows), _identity(recipe, found["corpus"]["shards"], found["corpus"]["digest"]))
    return Store.open(out, job.id, job.identity, recipe.settings(), owner=False), job


def _cut(recipe: FilterRecipe, catalogue: Path) -> Job:
    """List and cut the corpus into a catalogue folder. Raises UserError when there are no rows."""
    total = hashlib.sha256()
    cuts: list[Cut] = []
    for cut, digest in recipe.corpus.cut(recipe.shard, catalogue):
        cuts.append(cut)
        total.update(digest.encode() + b"\n")
    if not cuts:
        raise UserError("corpus.dataset: there are no rows")
    columns = {name: [getattr(cut, name) for cut in cuts] for name in ("name", "place", "start", "stop")}
    write_table(catalogue / "cuts.parquet", pa.table(columns))
    return Job(tuple(cuts), _identity(recipe, len(cuts), total.hexdigest()[:32]))


def _identity(recipe: FilterRecipe, shards: int, digest: str) -> dict[str, Any]:
    """A corpus that is moved stays the same corpus: its files' names and sizes say which it is, and not where they are."""
    corpus = {"dataset": "", **recipe.corpus.settings(), "shards": shards, "digest": digest}
    corpus.pop("dataset")
    return {"corpus": corpus, "carry": list(recipe.carry), "shard": recipe.shard, "batch": recipe.batch, "threads": recipe.threads}


def _sift(recipe: FilterRecipe, store: Store, cuts: Sequence[Cut], me: runtime.Worker, device: str, show: bool) -> Progress:
    progress = Progress(store, cuts, show)
    try:
        with runtime.interruptible(), contextlib.closing(sifter(recipe, store, device, me, progress)) as worker, progress:
            worker.run(cuts, me)
    except KeyboardInterrupt:
        raise UserError(f"interrupted; shards done and kept: {len(store.marked())}; run the same command again to go on") from None
    except OSError as error:
        raise UserError(f"{error}; finished shards are kept, run the same command again to go on") from error
    return progress


def sifter(recipe: FilterRecipe, store: Store, device: str, me: runtime.Worker, progress: Progress) -> Sifter:
    """A worker of a run, its numerics fixed. Raises UserError."""
    runtime.expect_numerics(recipe.threads)
    table = None if recipe.source is None else recipe.source.open()
    return Sifter(recipe, store, FilterContext(runtime.device(me, device), [], table, store.folder / "cache"), progress)
