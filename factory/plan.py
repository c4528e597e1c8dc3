"""A plan: which images are wanted, as columns. A pure function of the recipe and the source; no torch, no pixels.

Each class has an endless sequence of requests (its *ordinals* 0, 1, 2, …), and a round asks for the next stretch of it. What
the k-th request of a class is (seed, prompt, parents) depends on k alone, so asking for more never changes what there is.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from factory import seeds, wording
from factory.contracts import Context, Table
from factory.errors import UserError
from factory.files import cache_folder
from factory.recipe import Amount, Recipe
from factory.records import Request

UNLABELLED = -1
_STEPS = (0.7548776662466927, 0.5698402909980532)  # 1/g and 1/g², g³ = g + 1: the R2 sequence (Roberts 2018)


@dataclass(frozen=True)
class Requests:
    """Columns of one round, ordered by generator, then ordinal, then class, so that any first stretch holds every class.

    label, ordinal, prompt: int32 [N] (prompt indexes Plan.prompts).  seed: int64 [N].  parents: int32 [N, P], source rows.
    generator, sweep: int16 [N], indices into the recipe's generators and Plan.sweeps.
    """

    label: np.ndarray
    ordinal: np.ndarray
    seed: np.ndarray
    prompt: np.ndarray
    parents: np.ndarray
    generator: np.ndarray
    sweep: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    def slice(self, start: int, stop: int) -> Requests:
        """Rows [start, stop)."""
        return self.take(slice(start, stop))

    def take(self, rows: Any) -> Requests:
        """These rows (indices or a slice), in their order."""
        return Requests(*(column[rows] for column in vars(self).values()))


@dataclass(frozen=True)
class Shard:
    """Rows [start, stop) of a round, all of one generator: the unit of work, made by one worker, whole or absent."""

    name: str
    round: int
    start: int
    stop: int
    generator: int = 0

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Plan:
    """Everything that decides pixels, and nothing else: `id` is its identity.

    classes: class indices that are asked for ([-1] for an unlabelled source).  pools: the parents of each such class.
    wanted: int64, images to keep for each such class, after filtering; not part of the identity.
    shares: the generators' weights, summing to 1.  batch_sizes: images per call of each generator.
    sweeps: the settings of each cell of the recipe's sweep; one empty cell without one.
    wording: what is known of the prompts: how many, and how many were dropped.
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
    parents_of: str
    shard: int
    batch_sizes: list[int]
    shares: np.ndarray
    sweeps: list[tuple[tuple[str, float], ...]]
    wording: dict[str, Any]
    identity: dict[str, Any] = field(repr=False)

    def requests(self, start: np.ndarray, count: np.ndarray) -> Requests:
        """The stretch [start, start + count) of every class's sequence; both int64 [classes]."""
        spans = [(i, int(s), int(s + n)) for i, (s, n) in enumerate(zip(start, count, strict=True))]
        label = np.repeat(self.classes.astype(np.int32), count)
        ordinal = np.concatenate([np.arange(s, e, dtype=np.int32) for _, s, e in spans])
        columns = [
            label,
            ordinal,
            seeds.per_request(self.seed, label, ordinal),
            *(np.concatenate([of(*span) for span in spans]) for of in (self._prompts_of, self._parents_of)),
            *(np.concatenate([self._spread(axis, *span) for span in spans]) for axis in range(2)),
        ]
        order = np.lexsort((label, ordinal, columns[5]))
        return Requests(*(column[order] for column in columns))

    def shards(self, round: int, requests: Requests) -> list[Shard]:
        """A round cut into shards of one generator each; independent of who will make them."""
        edges = np.searchsorted(requests.generator, np.arange(len(self.shares) + 1)).tolist()
        cuts = [
            (generator, start, min(start + self.shard, stop))
            for generator, (first, stop) in enumerate(itertools.pairwise(edges))
            for start in range(first, stop, self.shard)
        ]
        return [Shard(f"{round:02d}-{i:05d}", round, start, stop, generator) for i, (generator, start, stop) in enumerate(cuts)]

    def batches(self, rows: Requests) -> Iterator[list[Request]]:
        """A shard's rows as batches of Requests."""
        size = self.batch_sizes[int(rows.generator[0])] if len(rows) else 1
        for start in range(0, len(rows), size):
            stop = min(start + size, len(rows))
            yield [self._request(rows, i) for i in range(start, stop)]

    def _request(self, rows: Requests, i: int) -> Request:
        label, ordinal = int(rows.label[i]), int(rows.ordinal[i])
        prompt = self.prompts[rows.prompt[i]]
        return Request(
            id=request_id(label, ordinal),
            label=label,
            ordinal=ordinal,
            seed=int(rows.seed[i]),
            prompt=prompt,
            parents=tuple(map(int, rows.parents[i])),
            classes=len(self.class_names),
            generator=int(rows.generator[i]),
            sweep=self.sweeps[rows.sweep[i]],
        )

    def _prompts_of(self, i: int, start: int, stop: int) -> np.ndarray:
        own = self.class_prompts[i]
        return own[np.arange(start, stop) % len(own)].astype(np.int32)

    def _parents_of(self, i: int, start: int, stop: int) -> np.ndarray:
        """Parents for ordinals [start, stop): every pool member once per cycle; a second parent differs wherever it can."""
        if not self.parent_count:
            return np.zeros((stop - start, 0), np.int32)
        if self.parents_of == "others":
            return self._others_of(i, start, stop)
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

    def _others_of(self, i: int, start: int, stop: int) -> np.ndarray:
        """Parents of other classes: these in turn, in an order of their own for each cycle, and any member of each."""
        others = np.array([j for j, pool in enumerate(self.pools) if j != i and len(pool)])
        sizes = np.array([len(self.pools[j]) for j in others])
        rng = seeds.rng(self.seed, "other classes", int(self.classes[i]))
        cycles = -(-stop // len(others))
        turn = rng.random((cycles, len(others)), dtype=np.float32).argsort(axis=1, kind="stable").reshape(-1)[start:stop]
        columns = []
        for slot in range(self.parent_count):
            draw = seeds.rng(self.seed, "other parents", int(self.classes[i]), slot).random(stop)[start:stop]
            places = (draw * sizes[turn]).astype(np.int64)
            columns.append([self.pools[others[j]][place] for j, place in zip(turn.tolist(), places.tolist(), strict=True)])
        return np.array(columns, np.int32).T.reshape(stop - start, self.parent_count)

    def _spread(self, axis: int, i: int, start: int, stop: int) -> np.ndarray:
        """For ordinals [start, stop) the generator (axis 0) or the sweep's cell (axis 1), int16.

        A low-discrepancy sequence, so that every stretch holds each choice in its share, and none goes with one prompt or parent.
        """
        shares = self.shares if axis == 0 else np.full(len(self.sweeps), 1 / len(self.sweeps))
        shift = seeds.rng(self.seed, "spread", axis, int(self.classes[i])).random()
        place = (shift + np.arange(start, stop) * _STEPS[axis]) % 1
        return np.minimum(np.searchsorted(np.cumsum(shares), place, side="right"), len(shares) - 1).astype(np.int16)


def request_id(label: int, ordinal: int) -> str:
    """The name of an image for life: its class and its place in the class's sequence."""
    return f"{'u' if label == UNLABELLED else label}-{ordinal:06d}"


def make(recipe: Recipe, table: Table, worded: wording.Worded | None = None) -> Plan:
    """The plan of a recipe over an opened source; its prompts are made anew unless they are given. Raises UserError for what no run
    could honour.
    """
    names = recipe.prompts.categories(table.class_names) if table.class_names else []
    classes = np.arange(len(names)) if names else np.array([UNLABELLED])
    members = table.labels if names else np.full(len(table), UNLABELLED)
    pools = [np.flatnonzero(members == c) for c in classes]
    recipe.condition.check(table)
    recipe.export.check(table.notes)
    _need_parents(recipe, names, pools)
    slots = wanted(recipe.amount, names, np.array([len(pool) for pool in pools]))
    if not slots.any():
        raise UserError("amount: the recipe asks for no image; raise amount.per_class, or amount.fill_to above the real images of a class")
    worded = worded or wording.texts(recipe.prompts, Context(table, names, recipe.seed, "auto", cache_folder()))
    prompts = list(dict.fromkeys(text for group in worded.texts for text in group))
    index = {text: i for i, text in enumerate(prompts)}
    weights = np.array([generator.weight for generator in recipe.generator])
    source = {"fingerprint": table.fingerprint, "class_names": names, "real": [len(pool) for pool in pools]}
    identity = _identity(recipe, source, worded.texts)
    return Plan(
        id=hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16],
        seed=recipe.seed,
        class_names=names,
        classes=classes,
        wanted=slots,
        prompts=prompts,
        class_prompts=[np.array([index[text] for text in group], np.int32) for group in worded.texts],
        pools=pools,
        parent_count=recipe.condition.parent_count(),
        parents_of=recipe.condition.parents_of,
        shard=recipe.shard,
        batch_sizes=[generator.batch for generator in recipe.generator],
        shares=weights / weights.sum(),
        sweeps=recipe.sweep_cells(),
        wording=worded.facts,
        identity=identity,
    )


def _identity(recipe: Recipe, source: dict[str, Any], texts: Sequence[Sequence[str]]) -> dict[str, Any]:
    """What makes pixels, and nothing else."""
    generators = [generator.settings() for generator in recipe.generator]
    return {
        "seed": recipe.seed,
        "source": source,
        "generator": generators if len(generators) > 1 else generators[0],
        "condition": recipe.condition.identity(),
        "prompts": hashlib.sha256(json.dumps(texts).encode()).hexdigest(),
        "sweep": recipe.sweep,
        "shard": recipe.shard,
        "threads": recipe.threads,
    }


def _need_parents(recipe: Recipe, names: list[str], pools: list[np.ndarray]) -> None:
    count = recipe.condition.parent_count()
    if not count:
        return
    what = f"condition {recipe.condition.kind!r} needs {count} each"
    if recipe.condition.parents_of == "others":
        if sum(map(bool, map(len, pools))) < 2:
            raise UserError(f"source: {what}, of another class; give a labelled source with two classes or more")
        return
    bare = [names[i] if names else "(all)" for i, pool in enumerate(pools) if not len(pool)]
    if bare:
        raise UserError(
            f"source: no real image of {_some(bare)} to condition on, and {what}; add images, leave the class out with "
            "source.classes, or use condition: text"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


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
