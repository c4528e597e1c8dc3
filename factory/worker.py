"""One worker: a shard's requests in, its images, scores and mark out."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from PIL import Image

from factory import images, runtime, scoring
from factory.contracts import FilterContext, OpenGenerator, Table
from factory.errors import Undecodable, UserError
from factory.plan import Plan, Requests, Shard
from factory.prepare import Batch, Preparer
from factory.recipe import Recipe
from factory.records import Annotations, Example, Inputs, Request, Samples
from factory.scoring import Columns, Scoring
from factory.store import Store


@dataclass
class _Row:
    """What is written of one sample; the parents' pixels are let go."""

    request: Request
    prompt: str
    parents: list[tuple[int, str]]
    inputs: Inputs


@dataclass
class _Made:
    """A shard under construction."""

    started: float
    rows: list[_Row] = field(default_factory=list)
    encoded: list[Future[bytes]] = field(default_factory=list)
    scores: dict[str, list[tuple[int, Columns]]] = field(default_factory=dict)


class Watcher(Protocol):
    """Who wants to know how the work goes."""

    def ready(self) -> None:
        """Models are loaded; making begins."""

    def add(self, count: int, columns: dict[str, dict[str, np.ndarray]]) -> None:
        """A batch is made or scored: how many, and each filter's score columns by identity."""


class Maker:
    """Makes shards. Models open on first use, so a worker that finds nothing to do loads nothing."""

    def __init__(self, recipe: Recipe, plan: Plan, table: Table, store: Store, device: str, watcher: Watcher):
        self.recipe, self.plan, self.table, self.store, self.device = recipe, plan, table, store, device
        self.watcher = watcher
        self.preparer = Preparer(recipe, plan, table, device, store.folder / "cache")
        self.scoring = Scoring(recipe, FilterContext(device, plan.class_names, table, store.folder / "cache"))
        self._generators: dict[int, OpenGenerator] = {}
        self._pool = ThreadPoolExecutor(max(2, recipe.threads), thread_name_prefix="factory-images")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="factory-writer")
        self._pending: Future[None] | None = None

    def generator(self, number: int) -> OpenGenerator:
        """One of the recipe's generators, loaded once, and checked against the condition before any image is made."""
        if number not in self._generators:
            try:
                opened = self._open(number)
            except UserError:
                if not self._generators:
                    raise
                self._generators.clear()  # several may not fit into one device's memory
                opened = self._open(number)
            self.store.pin_generator(number, {**opened.describe(), **runtime.describe(self.device)})
            self._generators[number] = opened
        return self._generators[number]

    def _open(self, number: int) -> OpenGenerator:
        opened = self.recipe.generator[number].open(self.device)
        opened.check(self.recipe.needs(), self.plan.class_names)
        return opened

    def make(self, shard: Shard, rows: Requests, release: Callable[[], None]) -> None:
        """Make or complete one shard; it is written behind the next one's generation, and `release` is called after its mark."""
        if self.store.is_made(shard.name, len(shard)):
            self._rescore(shard)
            release()
            return
        self.generator(shard.generator), self.scoring.scorers  # opened here, so that the clock starts when making does
        self.preparer.open()
        self.watcher.ready()
        made = _Made(time.perf_counter())
        batches = list(self.plan.batches(rows.slice(shard.start, shard.stop)))
        upcoming = self._pool.submit(self.preparer.prepare, batches[0])
        for i in range(len(batches)):
            batch = upcoming.result()
            if i + 1 < len(batches):
                upcoming = self._pool.submit(self.preparer.prepare, batches[i + 1])
            self._generate(shard.generator, batch, made)
        self.flush()
        self._pending = self._writer.submit(self._write, shard, made, release)

    def flush(self) -> None:
        """Finish what is being written."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Finish what is being written and stop the helper threads."""
        try:
            self.flush()
        finally:
            self._pool.shutdown(cancel_futures=True)
            self._writer.shutdown()

    # ---- generate

    def _generate(self, generator: int, batch: Batch, made: _Made) -> None:
        made_images = self.generator(generator).generate(batch.seeds, batch.inputs)
        made.encoded += [self._pool.submit(images.encode, image) for image in made_images]
        samples = Samples(
            ids=[request.id for request in batch.requests],
            images=list(made_images),
            labels=batch.labels,
            prompts=batch.prompts,
            parents=batch.parents,
        )
        for request, prompt, own, given, image in zip(batch.requests, batch.prompts, batch.parents, batch.inputs, made_images, strict=True):
            notes = given.annotations
            guide = given.images[0] if given.images else given.control
            if notes is not None and guide is not None:  # the pipeline stretched the condition image to its own size
                notes = notes.resized(guide.shape[:2], image.shape[:2])
            kept = replace(given, images=(), combine=None, embedding=None, control=None, mask=None, annotations=notes)
            made.rows.append(_Row(request, prompt, [(p.index, p.key) for p in own], kept))
        self._score(samples, made.scores, {})

    def _score(self, samples: Samples, into: dict[str, list[tuple[int, Columns]]], known: dict[str, Columns]) -> None:
        columns = self.scoring.score(samples, known)
        for identity, scores in columns.items():
            into.setdefault(identity, []).append((len(samples), scores))
        self.watcher.add(len(samples), columns)

    # ---- write

    def _write(self, shard: Shard, made: _Made, release: Callable[[], None]) -> None:
        try:
            self.store.drop_scores(shard.name)
            self._write_scores(shard.name, made.scores)
            used = {index for row in made.rows for index, _ in row.parents}
            planned = {index for row in made.rows for index in row.request.parents}
            bad = self.preparer.quarantined
            quarantined = {str(i): bad[i] for i in sorted(planned - used) if i in bad}
            notes = {"seconds": round(time.perf_counter() - made.started, 3), "quarantined": quarantined}
            self.store.write_shard(shard.name, _table(shard, made), notes)
        finally:
            release()

    def _write_scores(self, shard: str, scores: dict[str, list[tuple[int, Columns]]]) -> None:
        for identity, parts in scores.items():
            self.store.write_scores(shard, identity, scoring.joined(parts))

    # ---- score what is already there

    def is_scored(self, shard: Shard) -> bool:
        """Whether every filter has seen every row of a shard that it should."""
        return scoring.is_complete(self.recipe, self.store, shard.name, lambda: np.ones(len(shard), bool))

    def _rescore(self, shard: Shard) -> None:
        """Scores for filters that were added after the shard was made, over the same batches; no image is generated."""
        if self.is_scored(shard):
            return
        self.watcher.ready()
        known = self.store.shard_scores(shard.name, self.recipe.filters)
        table = self.store.read_shard(shard.name)
        scores: dict[str, list[tuple[int, Columns]]] = {}
        size = self.plan.batch_sizes[shard.generator]
        for start in range(0, table.num_rows, size):
            part = {name: {key: values[start : start + size] for key, values in columns.items()} for name, columns in known.items()}
            self._score(self._stored(table.slice(start, size).to_pylist()), scores, part)
        self._write_scores(shard.name, scores)

    def _stored(self, rows: list[dict[str, Any]]) -> Samples:
        return Samples(
            ids=[row["id"] for row in rows],
            images=[images.decoded(row["image"]) for row in rows],
            labels=np.array([row["label"] for row in rows], np.int32),
            prompts=[row["prompt"] for row in rows],
            parents=[self._readable(row["parent_rows"]) for row in rows],
        )

    def _readable(self, rows: list[int]) -> tuple[Example, ...]:
        """The parents of a stored row that can still be decoded; a filter that needs one finds none and gives no score."""
        found = []
        for row in rows:
            with contextlib.suppress(Undecodable):
                found.append(self.preparer.read(row))
        return tuple(found)


def _table(shard: Shard, made: _Made) -> pa.Table:
    """A shard's rows: pixels, and enough to make each one again."""
    requests = [row.request for row in made.rows]
    inputs = [row.inputs for row in made.rows]
    columns = {
        "id": pa.array([r.id for r in requests], pa.string()),
        "image": pa.array([future.result() for future in made.encoded], pa.binary()),
        "label": pa.array([r.label for r in requests], pa.int32()),
        "ordinal": pa.array([r.ordinal for r in requests], pa.int32()),
        "round": pa.array([shard.round] * len(requests), pa.int16()),
        "seed": pa.array([r.seed for r in requests], pa.int64()),
        "prompt": pa.array([row.prompt for row in made.rows], pa.string()),
        "generator": pa.array([r.generator for r in requests], pa.int16()),
        "parents": pa.array([[key for _, key in row.parents] for row in made.rows], pa.list_(pa.string())),
        "parent_rows": pa.array([[index for index, _ in row.parents] for row in made.rows], pa.list_(pa.int32())),
        "conditioning": pa.array([json.dumps(i.record, sort_keys=True) for i in inputs], pa.string()),
    }
    return pa.table(columns | _targets(inputs))


def _targets(inputs: list[Inputs]) -> dict[str, pa.Array]:
    """Soft labels and annotations, as columns only where some row has them."""
    columns: dict[str, pa.Array] = {}
    if any(i.soft_label is not None for i in inputs):
        values = [None if i.soft_label is None else i.soft_label.tolist() for i in inputs]
        columns["soft_label"] = pa.array(values, pa.list_(pa.float32()))
    notes = [i.annotations or Annotations() for i in inputs]
    if any(n.boxes is not None for n in notes):
        columns["boxes"] = pa.array([None if n.boxes is None else n.boxes.tolist() for n in notes], pa.list_(pa.list_(pa.float32())))
        labels = [None if n.box_labels is None else n.box_labels.tolist() for n in notes]
        columns["box_labels"] = pa.array(labels, pa.list_(pa.int64()))
    if any(n.mask is not None for n in notes):
        columns["mask"] = pa.array([None if n.mask is None else _mask_png(n.mask) for n in notes], pa.binary())
    return columns


def _mask_png(mask: np.ndarray) -> bytes:
    """int32 [H, W] -> 16-bit PNG, exact up to 65,535 instances."""
    out = io.BytesIO()
    Image.fromarray(mask.astype(np.uint16)).save(out, "PNG")
    return out.getvalue()
