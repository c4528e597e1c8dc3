"""Uploading while a build goes on. Storage is addressed by content, so what is uploaded early and under no name is found by the push.

The rows that rules keep of the first shards stay what they are when more shards come: bounds look at one row, near-duplicates and
quotas at earlier ones. So a second export of just these rows, which runs behind the build, closes files of the very bytes that the
build's own export will write, and each is uploaded as it is closed. Were one not to be the same, it would be uploaded in vain: the
commit takes the build's own files.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from huggingface_hub import CommitOperationAdd

from factory import assemble, finished
from factory import recipe as recipes
from factory.errors import UserError
from factory.publish.facts import digest
from factory.push import contents
from factory.push.leaks import Watch
from factory.push.remote import Remote
from factory.recipe import Recipe
from factory.store import Shards, Store

log = logging.getLogger("factory")
POLL_SECONDS = 1.0
GROWTH = 0.25  # decide again when there is this much more, so that all decisions together cost a few times the last one
LOOK_ROWS = 64


class _Ended(Exception):
    """The build is over; what is not uploaded yet is left to the push."""


class _Reader(Store):
    """A run that is read while another process builds it; nothing is written into it."""

    def cached(self, name: str, shards: Shards, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return compute()


def upload(store: Store, remote: Remote) -> None:
    """Upload shards as they are finished, until the build is. Raises UserError when it stops before its end."""
    recipe = recipes.load(store.folder / "recipe.json", environ={})
    if any(f.keep_top is not None for f in recipe.filters):
        log.info("follow: keep_top ranks all images, so the shards are uploaded when the build is finished")
    else:
        with TemporaryDirectory(prefix=".push-", dir=store.folder) as folder:
            (Path(folder) / "export").mkdir()
            _export(recipe, _Reader(store.folder), remote, Path(folder) / "export")
    while store.in_use():
        time.sleep(POLL_SECONDS)
    _check_finished(store)


def _export(recipe: Recipe, store: Store, remote: Remote, folder: Path) -> None:
    finished = _Finished(recipe, store)
    try:
        shards = finished.more(0)
        info = assemble.dataset_info(recipe, store, shards, _decide(recipe, store, shards))
        recipe.export.write(_rows(recipe, store, finished, shards, _Parts(folder, remote, store)), info, folder)
    except _Ended:
        pass


def _rows(recipe: Recipe, store: Store, finished: _Finished, shards: Shards, parts: _Parts) -> Iterator[dict[str, Any]]:
    """The kept rows of ever more shards; raises _Ended instead of ending, so that no file is closed before its time."""
    done = 0
    while True:
        kept = assemble.kept_rows(recipe, store, shards, _decide(recipe, store, shards), first=done)
        for number, row in enumerate(kept):
            if number % LOOK_ROWS == 0:
                parts.upload()
            yield row
        parts.upload()
        done = len(shards.names)
        shards = finished.more(done)


def _decide(recipe: Recipe, store: Store, shards: Shards) -> Any:
    """The selection of the first shards alone."""
    tables = [store.read_shard(name, ["label", "ordinal"]) for name in shards.names]
    rows = {name: np.concatenate([table[name].to_numpy() for table in tables]) for name in ("label", "ordinal")}
    return assemble.decide(recipe, store, shards, rows, finished.quotas(recipe, store))


class _Finished:
    """The shards that are whole and scored, from the first one on without a gap, in plan order."""

    def __init__(self, recipe: Recipe, store: Store):
        self.recipe, self.store = recipe, store
        self.names: list[str] = []
        self.round = self.index = self.rows = 0

    def more(self, decided: int) -> Shards:
        """These shards, once there are enough new ones to decide again. Raises _Ended when the build is over before that."""
        while True:
            over = not self.store.in_use()
            self._advance()
            if len(self.names) >= max(1, decided * (1 + GROWTH)) and len(self.names) > decided:
                return self.store.shards(self.names)
            if over:
                raise _Ended
            time.sleep(POLL_SECONDS)

    def _advance(self) -> None:
        rounds = self.store.rounds()
        marked = self.store.marked()
        while self.round < len(rounds):
            if self.rows >= sum(rounds[self.round]["count"]):
                self.round, self.index, self.rows = self.round + 1, 0, 0
                continue
            name = f"{self.round:02d}-{self.index:05d}"
            if name not in marked or not all(self.store.has_scores(name, f.identity()) for f in self.recipe.filters):
                return
            self.names.append(name)
            self.rows += self.store.mark(name)["rows"]
            self.index += 1


class _Parts:
    """The files of an export that goes on: all but the last one are closed."""

    def __init__(self, folder: Path, remote: Remote, store: Store):
        self.folder, self.remote = folder, remote
        self.watch = Watch([store.folder.absolute(), store.folder.resolve()])
        self.count = 0

    def upload(self) -> None:
        """Upload what was closed since the last look, and free its disk."""
        files = sorted(path for path in self.folder.rglob("*") if path.is_file() and path.stat().st_size)
        for path in files[:-1]:
            name = path.name.lstrip(".").replace(".part", ".parquet")  # by its name the Hub knows a large file
            closed = path.rename(self.folder.parent / name)
            self.watch.check(name, closed)
            self.remote.upload([CommitOperationAdd(f"data/{name}", closed)])
            closed.unlink()
            self.count += 1
            log.info("follow: %d shard%s uploaded", self.count, "s are" if self.count > 1 else " is")


def _check_finished(store: Store) -> None:
    facts = contents.facts_of(store) if (store.folder / "dataset").exists() else {}
    now = recipes.load(store.folder / "recipe.json", environ={}).settings()
    if facts.get("settings") != digest(now) or facts.get("rounds") != len(store.rounds()):
        raise UserError("the build stopped before its end; go on with `factory build`, then push again: what is uploaded stays")
