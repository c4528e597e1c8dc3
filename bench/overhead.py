"""What the factory costs beside the bare pipeline: python -m bench.overhead [--images N] [--json]

One process loads the embedded models and warms up. Then, in turn and several times over, it times (a) a bare loop that calls
the same pipeline on the same batches, (b) a whole build: conditions, generation, scoring, encoding, writing, marks, and (c) one
image per call, the script that most research code is. `ratio` is b/a and `ratio_one_image_per_call` b/c, medians of the pairs.
Model loading is in none of them.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bench._report import emit, parser
from factory import plan as planning
from factory import recipe as recipes
from factory import runtime
from factory.build import Round
from factory.prepare import Preparer
from factory.store import Store
from factory.worker import Maker

RECIPE = Path("recipes/quickstart.yaml")


class Silent:
    """A watcher that wants to know nothing."""

    def ready(self) -> None:
        pass

    def add(self, count: int, columns: dict[str, dict[str, np.ndarray]]) -> None:
        pass


class Bench:
    """The quickstart recipe, opened once."""

    def __init__(self, images: int):
        self.recipe = recipes.load(RECIPE, [f"amount.per_class={images // 10}"])
        self.table = self.recipe.source.open()
        self.plan = planning.make(self.recipe, self.table)
        runtime.fix_numerics(self.recipe.threads)
        zero = np.zeros(len(self.plan.classes), np.int64)
        self.requests = self.plan.requests(zero, self.plan.wanted)
        self.round = Round(self.requests, self.plan.shards(0, self.requests))
        self.generator: Any = self.recipe.generator[0].open("cpu")
        batches = [b for s in self.round.shards for b in self.plan.batches(self.requests.slice(s.start, s.stop))]
        preparer = Preparer(self.recipe, self.plan, self.table, "cpu", Path("runs/cache"))
        self.prepared = [preparer.prepare(batch) for batch in batches]
        self.scorers: Any = None

    def bare(self) -> float:
        """Seconds for the pipeline alone, over the plan's batches."""
        started = time.perf_counter()
        for batch in self.prepared:
            self.generator.generate(batch.seeds, batch.inputs)
        return time.perf_counter() - started

    def build(self) -> float:
        """Seconds for everything that a build does with the same requests."""
        with TemporaryDirectory() as folder:
            store = Store.open(Path(folder) / "run", self.plan.id, self.plan.identity, self.recipe.settings())
            maker = Maker(self.recipe, self.plan, self.table, store, "cpu", Silent())
            maker._generators[0] = self.generator  # loaded once: loading is not what is measured
            if self.scorers is not None:
                maker.scoring.__dict__["scorers"] = self.scorers
            self.scorers = maker.scoring.scorers
            started = time.perf_counter()
            with contextlib.closing(maker):
                for shard in self.round.shards:
                    maker.make(shard, self.requests, lambda: None)
            return time.perf_counter() - started

    def one_by_one(self) -> float:
        """Seconds for one image per call, scaled up from a tenth of the images."""
        some = [(r, i) for batch in self.prepared for r, i in zip(batch.requests, batch.inputs, strict=True)][: len(self.requests) // 10]
        started = time.perf_counter()
        for request, given in some:
            self.generator.generate([request.seed], [given])
        return (time.perf_counter() - started) * len(self.requests) / len(some)


def main() -> None:
    """Measure in turn, print medians of the paired ratios."""
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=320)
    options.add_argument("--repeats", type=int, default=5)
    given = options.parse_args()
    bench = Bench(given.images)
    bench.bare(), bench.build()  # warm up
    pairs = [(bench.bare(), bench.build(), bench.one_by_one()) for _ in range(given.repeats)]
    result = {
        "ratio": round(statistics.median(build / bare for bare, build, _ in pairs), 3),
        "ratio_one_image_per_call": round(statistics.median(build / single for _, build, single in pairs), 3),
        "ratios": [round(build / bare, 3) for bare, build, _ in pairs],
        "images": len(bench.requests),
        "bare_images_per_s": round(len(bench.requests) / statistics.median(bare for bare, _, _ in pairs), 1),
    }
    emit(result, given.json)


if __name__ == "__main__":
    main()
