"""How long one million requests take to plan, and how much memory: python -m bench.plan [--requests N] [--classes C] [--json]"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bench._report import emit, parser, peak_mb
from factory import plan as planning
from factory import recipe as recipes
from factory.errors import Undecodable
from factory.records import Example

SHOTS = 16


class Rows:
    """A source of labels alone: planning reads no pixels."""

    fingerprint = "bench"

    def __init__(self, classes: int):
        self.captions: list[str] | None = None
        self.notes: frozenset[str] = frozenset()
        self.class_names = [f"class {i}" for i in range(classes)]
        self.labels = np.repeat(np.arange(classes, dtype=np.int32), SHOTS)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Example:
        raise Undecodable("there are no pixels here")


RECIPE = """
name: bench
source: {{dataset: {folder}, kind: folder}}
generator: {{model: none}}
condition: {{kind: augmented_image, mix: embed_mixup}}
prompts: {{text: "a photo of a {{label}}, {{place}}, {{light}}", axes: {{place: [indoors, outdoors, at sea], light: [dawn, noon, dusk]}}}}
amount: {{per_class: {per_class}}}
"""


def main() -> None:
    """Plan and cut into shards and batches, then print what it took."""
    options = parser(__doc__)
    options.add_argument("--requests", type=int, default=1_000_000)
    options.add_argument("--classes", type=int, default=1_000)
    given = options.parse_args()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(RECIPE.format(folder=folder, per_class=given.requests // given.classes))
        recipe = recipes.load(path)
    started = time.perf_counter()
    plan = planning.make(recipe, Rows(given.classes))
    requests = plan.requests(np.zeros(given.classes, np.int64), plan.wanted)
    shards = plan.shards(0, requests)
    result = {
        "requests": len(requests),
        "seconds": round(time.perf_counter() - started, 3),
        "peak_mb": peak_mb(),
        "shards": len(shards),
        "distinct_seeds": len(np.unique(requests.seed)),
    }
    emit(result, given.json)


if __name__ == "__main__":
    main()
