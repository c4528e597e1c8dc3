"""Shards shared out among workers that know nothing of each other: each claims the next free one, and nobody waits for a slow one but at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from factory.runtime import Worker
from factory.store import Store

LEAST_PAUSE, MOST_PAUSE = 0.25, 5.0  # seconds between looks at shards that other workers hold


class Named(Protocol):
    @property
    def name(self) -> str: ...


Shard = TypeVar("Shard", bound=Named)


def take(
    store: Store, shards: Sequence[Shard], done: Callable[[Shard], bool], me: Worker, refresh: Callable[[], None]
) -> Iterator[tuple[Shard, Callable[[], None]]]:
    """Claimed shards, each with what releases it, until all are done by this worker or another; a dead worker's claims free themselves.

    A shard that was handed out is this worker's to finish: it is not offered again. refresh: called after each, and while waiting.
    """
    mine: set[str] = set()
    pause = LEAST_PAUSE
    todo = [shard for shard in shards if not done(shard)]
    while todo:
        # Workers start apart, so that they rarely ask for the same lock, and each stays with the generator that it began with.
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
            mine.add(shard.name)
            yield shard, claim.release
            refresh()
        todo = [shard for shard in todo if shard.name not in mine and not done(shard)]
        if todo and not busy:
            refresh()
            time.sleep(pause := min(2 * pause, MOST_PAUSE))
        else:
            pause = LEAST_PAUSE
