"""Images made from a recipe's text, in memory: what the benches of conditions share."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from factory import plan as planning
from factory import recipe as recipes
from factory.prepare import Preparer
from factory.records import Example


@dataclass(frozen=True)
class Made:
    """images: uint8 [H, W, 3] each.  labels: int [N].  parents: the real images of each.  seconds: of generating alone.

    generator: what made them, open, for the next recipe with the same one.
    """

    images: list[np.ndarray]
    labels: np.ndarray
    parents: list[tuple[Example, ...]]
    table: Any
    class_names: list[str]
    seconds: float
    generator: Any


def make(text: str, cache: Path, generator: Any = None, device: str = "cpu") -> Made:
    """Make every image of a recipe's first round; generator: an open one to use in place of the recipe's."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(text)
        recipe = recipes.load(path)
    table = recipe.source.open()
    plan = planning.make(recipe, table)
    generator = generator or recipe.generator[0].open(device)
    generator.check(recipe.needs(), plan.class_names)
    requests = plan.requests(np.zeros(len(plan.classes), np.int64), plan.wanted)
    preparer = Preparer(recipe, plan, table, device, cache)
    batches = [preparer.prepare(b) for s in plan.shards(0, requests) for b in plan.batches(requests.slice(s.start, s.stop))]
    generator.generate(batches[0].seeds[:2], batches[0].inputs[:2])  # warm up
    started = time.perf_counter()
    images = [image for b in batches for image in generator.generate(b.seeds, b.inputs)]
    seconds = time.perf_counter() - started
    labels = np.concatenate([b.labels for b in batches])
    return Made(images, labels, [own for b in batches for own in b.parents], table, plan.class_names, seconds, generator)
