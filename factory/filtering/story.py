"""The story of `factory filter`: a corpus that exists, cut into shards, scored, and decided from the stored scores."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import secrets
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory import runtime
from factory.contracts import FilterContext
from factory.errors import UserError
from factory.filtering import catalogue, outcome
from factory.filtering.progress import Progress
from factory.filtering.recipe import FilterRecipe
from factory.filtering.sifter import Sifter
from factory.records import Cut
from factory.store import OWNER_SECONDS, Store

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
        _require_unchanged(out, job, draft)
        store = Store.open(out, job.id, job.identity, recipe.settings(), owner=True)
        if not (out / "corpus").exists():
            draft.rename(out / "corpus")
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return store, job


def joined(recipe: FilterRecipe, out: Path) -> tuple[Store, Job]:
    """The run that the owner of this launch has begun, once it is there. Raises UserError for another recipe."""
    end = time.monotonic() + OWNER_SECONDS
    while not (out / "corpus" / catalogue.FILE).exists() or not (out / "run.json").exists():
        if time.monotonic() > end and not list(out.glob(f"{DRAFT}*")):  # a large corpus takes a while to list
            raise UserError(f"{out}: no run has begun there; start one without --join")
        time.sleep(0.2)
    found = Store(out).run()["identity"]
    job = Job(catalogue.read(out / "corpus"), _identity(recipe, found["corpus"]["shards"], found["corpus"]["digest"]))
    return Store.open(out, job.id, job.identity, recipe.settings(), owner=False), job


def require_unchanged(recipe: FilterRecipe, store: Store) -> None:
    """Raise UserError where the corpus is no longer the one that a run has scored. Lists its files; nothing is decoded."""
    shard = store.run()["identity"]["shard"]
    with tempfile.TemporaryDirectory() as scratch:
        _require_unchanged(store.folder, _cut(recipe.model_copy(update={"shard": shard}), Path(scratch)), Path(scratch))


def _require_unchanged(out: Path, job: Job, draft: Path) -> None:
    """Raise UserError where a run is of the same corpus by its settings, and its files were other ones. draft: the catalogue of now."""
    if not (out / "corpus" / catalogue.FILE).exists() or not (out / "run.json").exists():
        return
    before, after = ({key: identity.get(key) for key in ("corpus", "shard")} for identity in (Store(out).run()["identity"], job.identity))
    if before != after and _settings(before) == _settings(after):  # with other settings it is another plan, and the store says so
        raise UserError(
            f"the corpus changed since {out} began, at {catalogue.first_change(out / 'corpus', draft)}: the scores there belong to the files "
            "as they were; filter it into a new --out (a copy of a corpus is the same one where it keeps its files' times: cp -p, rsync -a)"
        )


def _settings(identity: dict[str, Any]) -> dict[str, Any]:
    """An identity without what says which files there are."""
    return {**identity, "corpus": {key: value for key, value in (identity["corpus"] or {}).items() if key not in ("shards", "digest")}}


def _cut(recipe: FilterRecipe, folder: Path) -> Job:
    """List and cut the corpus into a catalogue folder. Raises UserError when there are no rows, or they may not be listed."""
    try:
        cuts = list(recipe.corpus.cut(recipe.shard, folder))
    except PermissionError as error:
        raise UserError(f"corpus.dataset: no permission to look into it: {error}; grant it, or leave that part out") from error
    if not cuts:
        raise UserError("corpus.dataset: there are no rows")
    catalogue.write(folder, cuts)
    total = hashlib.sha256("".join(f"{digest}\n" for _, digest in cuts).encode())
    return Job(tuple(cut for cut, _ in cuts), _identity(recipe, len(cuts), total.hexdigest()[:32]))


def _identity(recipe: FilterRecipe, shards: int, digest: str) -> dict[str, Any]:
    """A corpus that is moved stays the same corpus: its files' names, sizes and times (or checksums) say which it is, not where they are."""
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
    if table is not None:
        store.pin_source(table.fingerprint)
    return Sifter(recipe, store, FilterContext(runtime.device(me, device), [], table, store.folder / "cache"), progress)
