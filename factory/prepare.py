"""From requests to generator inputs: parents read (bad ones replaced), conditions applied. No model."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from factory import seeds
from factory.contracts import Context, Prepares, Table
from factory.errors import Undecodable, UserError
from factory.plan import UNLABELLED, Plan
from factory.recipe import Recipe
from factory.records import Example, Inputs, Request

PARENT_BYTES = 512 << 20


class ParentCache:
    """Decoded parents, least recently used first out, bounded by bytes. Thread-safe."""

    def __init__(self, table: Table, limit: int = PARENT_BYTES):
        self.table, self.limit = table, limit
        self._held: OrderedDict[int, Example] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def read(self, index: int) -> Example:
        """One real image. Raises Undecodable."""
        with self._lock:
            if index in self._held:
                self._held.move_to_end(index)
                return self._held[index]
        example = self.table.read(index)
        with self._lock:
            if index not in self._held:
                self._held[index] = example
                self._size += example.image.nbytes
            while self._size > self.limit:
                self._size -= self._held.popitem(last=False)[1].image.nbytes
        return example


@dataclass
class Batch:
    """Requests with everything the generator and the filters need."""

    requests: list[Request]
    parents: list[tuple[Example, ...]]
    inputs: list[Inputs]

    @property
    def seeds(self) -> list[int]:
        """The generator's seeds."""
        return [request.seed for request in self.requests]

    @property
    def labels(self) -> np.ndarray:
        """int32 [N]."""
        return np.array([request.label for request in self.requests], np.int32)

    @property
    def prompts(self) -> list[str]:
        """What each image was asked to show: the condition's own prompt (a caption) where it has one, else the request's."""
        return [given.prompt or request.prompt for request, given in zip(self.requests, self.inputs, strict=True)]


class Preparer:
    """Prepares batches; the same requests give the same batch in every process.

    quarantined: source row -> why it could not be decoded.  Thread-safe.
    """

    def __init__(self, recipe: Recipe, plan: Plan, table: Table, device: str, cache: Path):
        self.recipe, self.plan, self.table = recipe, plan, table
        self._context = Context(table, plan.class_names, plan.seed, device, cache)
        self._conditions: dict[tuple[tuple[str, float], ...], Prepares] = {}
        self.quarantined: dict[int, str] = {}
        self.read = ParentCache(table).read
        self._place = {int(row): (i, at) for i, pool in enumerate(plan.pools) for at, row in enumerate(pool)} if plan.parent_count else {}

    def open(self) -> None:
        """Load what the condition needs, once for each cell of a sweep. Raises UserError."""
        for cell in self.plan.sweeps:
            if cell not in self._conditions:
                self._conditions[cell] = self.recipe.swept(cell).open(self._context)

    def prepare(self, requests: list[Request]) -> Batch:
        """Raises UserError when a class has no parent that can be decoded."""
        self.open()
        parents = [tuple(self._parent(row) for row in request.parents) for request in requests]
        return Batch(requests, parents, [self._inputs(request, own) for request, own in zip(requests, parents, strict=True)])

    def _inputs(self, request: Request, parents: tuple[Example, ...]) -> Inputs:
        inputs = self._conditions[request.sweep].prepare(request, parents, seeds.rng(request.seed, "condition"))
        swept = dict(request.sweep)
        return replace(inputs, guidance=swept.get("guidance", inputs.guidance), record={**inputs.record, **swept}) if swept else inputs

    def _parent(self, row: int) -> Example:
        """A parent, or where it cannot be decoded the next in its class's pool: the same for every worker."""
        i, at = self._place[row]
        pool = self.plan.pools[i]
        for step in range(len(pool)):
            index = int(pool[(at + step) % len(pool)])
            try:
                return self.read(index)
            except Undecodable as error:
                self.quarantined[index] = str(error)
        label = int(self.plan.classes[i])
        name = self.plan.class_names[label] if label != UNLABELLED else "(all)"
        why = self.quarantined[int(pool[at])]
        raise UserError(
            f"source: none of the {len(pool)} real images of class {name!r} can be decoded ({why}); replace them or leave the class out"
        )
