"""A plan: which images are wanted, as columns. A pure function of the recipe and the source; no torch, no pixels.

Each class has an endless sequence of requests (its *ordinals* 0, 1, 2, …), and a round asks for the next stretch of it. What
the k-th request of a class is (seed, prompt, parents) depends on k alone, so asking for more never changes what there is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from factory import seeds
from factory.contracts import Table
from factory.errors import UserError
from factory.recipe import Amount, Recipe
from factory.records import Request

UNLABELLED = -1


@dataclass(frozen=True)
class Requests:
    """Columns of one round, ordered by ordinal and then class, so that any first stretch holds every class.

    label, ordinal, prompt: int32 [N] (prompt indexes Plan.prompts).  seed: int64 [N].  parents: int32 [N, P], source rows.
    """

    label: np.ndarray
    ordinal: np.ndarray
    seed: np.ndarray
    prompt: np.ndarray
    parents: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    def slice(self, start: int, stop: int) -> Requests:
        """Rows [start, stop)."""
        return Requests(*(column[start:stop] for column in (self.label, self.ordinal, self.seed, self.prompt, self.parents)))


@dataclass(frozen=True)
class Shard:
    """Rows [start, stop) of a round: the unit of work, made by one worker, whole or absent."""

    name: str
    round: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Plan:
    """Everything that decides pixels, and nothing else: `id` is its identity.

    classes: class indices that are asked for ([-1] for an unlabelled source).  pools: the parents of each such class.
    wanted: int64, images to keep for each such class, after filtering; not part of the identity.
    """

    id: str
    seed: int
    class_names: list[str]
    classes: np.ndarray
    wanted: np.ndarray
    prompts: list[str]
    class_prompts: list[np.ndarray]
    pools: list[np.ndarray]
    parent_count: int
    shard: int
    batch: int
    identity: dict[str, Any] = field(repr=False)

    def requests(self, start: np.ndarray, count: np.ndarray) -> Requests:
        """The stretch [start, start + count) of every class's sequence; both int64 [classes]."""
        label = np.repeat(self.classes.astype(np.int32), count)
        ordinal = np.concatenate([np.arange(s, s + n, dtype=np.int32) for s, n in zip(start, count, strict=True)])
        prompt = np.concatenate([self._prompts_of(i, s, s + n) for i, (s, n) in enumerate(zip(start, count, strict=True))])
        parents = np.concatenate([self._parents_of(i, s, s + n) for i, (s, n) in enumerate(zip(start, count, strict=True))])
        order = np.lexsort((label, ordinal))
        label, ordinal = label[order], ordinal[order]
        return Requests(label, ordinal, seeds.per_request(self.seed, label, ordinal), prompt[order], parents[order])

    def shards(self, round: int, rows: int) -> list[Shard]:
        """A round of that many rows cut into shards; independent of who will make them."""
        return [
            Shard(f"{round:02d}-{i:05d}", round, start, min(start + self.shard, rows)) for i, start in enumerate(range(0, rows, self.shard))
        ]

    def batches(self, rows: Requests) -> Iterator[list[Request]]:
        """A shard's rows as batches of Requests."""
        for start in range(0, len(rows), self.batch):
            stop = min(start + self.batch, len(rows))
            yield [self._request(rows, i) for i in range(start, stop)]

    def _request(self, rows: Requests, i: int) -> Request:
        label, ordinal = int(rows.label[i]), int(rows.ordinal[i])
        prompt = self.prompts[rows.prompt[i]]
        return Request(request_id(label, ordinal), label, ordinal, int(rows.seed[i]), prompt, tuple(map(int, rows.parents[i])))

    def _prompts_of(self, i: int, start: int, stop: int) -> np.ndarray:
        own = self.class_prompts[i]
        return own[np.arange(start, stop) % len(own)].astype(np.int32)

    def _parents_of(self, i: int, start: int, stop: int) -> np.ndarray:
        """Parents for ordinals [start, stop): every pool member once per cycle; a second parent differs wherever it can."""
        if not self.parent_count:
            return np.zeros((stop - start, 0), np.int32)
        pool = self.pools[i]
        n = len(pool)
        cycles = -(-stop // n)
        # Random keys fill row by row, so more cycles extend the sequence and never change it.
        keys = seeds.rng(self.seed, "parents", int(self.classes[i])).random((cycles, n), dtype=np.float32)
        first = keys.argsort(axis=1, kind="stable").reshape(-1)[start:stop]
        columns = [first]
        for slot in range(1, self.parent_count):
            draw = seeds.rng(self.seed, "parents", int(self.classes[i]), slot).random(stop, dtype=np.float32)[start:stop]
            columns.append((first + slot + (draw * max(n - 1, 1)).astype(np.int64) % max(n - 1, 1)) % n)
        return pool[np.stack(columns, axis=1)].astype(np.int32)


def request_id(label: int, ordinal: int) -> str:
    """The name of an image for life: its class and its place in the class's sequence."""
    return f"{'u' if label == UNLABELLED else label}-{ordinal:06d}"


def make(recipe: Recipe, table: Table) -> Plan:
    """The plan of a recipe over an opened source. Raises UserError for what no run could honour."""
    classes = np.arange(len(table.class_names)) if table.class_names else np.array([UNLABELLED])
    members = table.labels if table.class_names else np.full(len(table), UNLABELLED)
    pools = [np.flatnonzero(members == c) for c in classes]
    parent_count = recipe.condition.parent_count()
    _need_parents(recipe, table, pools, parent_count)
    texts = recipe.prompts.texts(table.class_names or [""], recipe.seed)
    prompts = list(dict.fromkeys(text for group in texts for text in group))
    index = {text: i for i, text in enumerate(prompts)}
    slots = wanted(recipe.amount, table.class_names, np.array([len(pool) for pool in pools]))
    if not slots.any():
        raise UserError("amount: the recipe asks for no image; raise amount.per_class, or amount.fill_to above the real images of a class")
    identity = {
        "seed": recipe.seed,
        "source": {"fingerprint": table.fingerprint, "class_names": table.class_names, "real": [len(pool) for pool in pools]},
        "generator": recipe.generator.settings(),
        "condition": recipe.condition.settings(),
        "prompts": hashlib.sha256(json.dumps(texts).encode()).hexdigest(),
        "shard": recipe.shard,
        "threads": recipe.threads,
    }
    return Plan(
        id=hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16],
        seed=recipe.seed,
        class_names=table.class_names,
        classes=classes,
        wanted=slots,
        prompts=prompts,
        class_prompts=[np.array([index[text] for text in group], np.int32) for group in texts],
        pools=pools,
        parent_count=parent_count,
        shard=recipe.shard,
        batch=recipe.generator.batch,
        identity=identity,
    )


def _need_parents(recipe: Recipe, table: Table, pools: list[np.ndarray], parent_count: int) -> None:
    if not parent_count:
        return
    bare = [table.class_names[i] if table.class_names else "(all)" for i, pool in enumerate(pools) if not len(pool)]
    if bare:
        raise UserError(
            f"source: no real image of {', '.join(map(repr, bare))} to condition on, and condition {recipe.condition.kind!r} needs "
            f"{parent_count} each; add images, leave the class out with source.classes, or use condition: text"
        )


def wanted(amount: Amount, class_names: list[str], real: np.ndarray) -> np.ndarray:
    """Images to keep for each asked class, int64, given how many real ones there are. Raises UserError for unknown classes."""
    if amount.fill_to is not None:
        return np.maximum(amount.fill_to - real, 0)
    if isinstance(amount.per_class, int):
        return np.full(len(real), amount.per_class, np.int64)
    unknown = sorted(set(amount.per_class) - set(class_names))
    if unknown:
        raise UserError(f"amount.per_class: the source has no class {', '.join(map(repr, unknown))}; it has: {', '.join(class_names)}")
    return np.array([amount.per_class.get(name, 0) for name in class_names], np.int64)


def shortage(wanted: np.ndarray, kept: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """How many more requests each class makes: its shortfall over its yield so far, rounded up; int64 [classes].

    A class that kept nothing asks once more for all it wants; no class asks for more than four times that at once.
    """
    short = np.maximum(wanted - kept, 0)
    estimate = -(-short * np.maximum(asked, 1) // np.maximum(kept, 1))
    return np.where(kept > 0, np.minimum(estimate, 4 * wanted), np.where(short > 0, wanted, 0))
