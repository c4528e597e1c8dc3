"""How long a million stored rows take to decide again: python -m bench.select [--rows N] [--json]

Stores four filters' scores for that many rows as a build does, then runs `factory select` on them in a fresh process with
another threshold, and counts that whole process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bench._report import emit, parser
from factory import recipe as recipes
from factory.store import Shards, Store

CLASSES = 1_000
RECIPE = """
name: bench
source: {{dataset: {folder}, kind: folder}}
generator: {{model: none}}
amount: {{per_class: {per_class}}}
filters:
  - {{kind: clip_similarity, model: none, min: 0.25}}
  - {{kind: source_similarity, model: none, between: [0.55, 0.95]}}
  - {{kind: zero_shot, model: none, keep_top: 80%, per: class}}
  - {{kind: near_duplicate, model: none, max: 0.96}}
"""


def store_rows(folder: Path, rows: int) -> None:
    """A finished run's columns: scores that a model might have given, and neighbours for one row in twenty."""
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(folder=folder, per_class=rows // CLASSES))
    recipe = recipes.load(path)
    identity = {"source": {"class_names": [f"class {i}" for i in range(CLASSES)], "real": [16] * CLASSES}}
    store = Store.open(folder / "run", "bench", identity, recipe.settings())
    draw = np.random.default_rng(0)
    names = Shards(("00-00000",), "bench")
    store.write_rows(
        names, {"label": (np.arange(rows) % CLASSES).astype(np.int32), "ordinal": (np.arange(rows) // CLASSES).astype(np.int32)}
    )
    for f in recipe.filters:
        if f.whole:
            index = np.full((rows, 16), -1, np.int32)
            similarity = np.full((rows, 16), -1, np.float32)
            some = np.flatnonzero(draw.random(rows) < 0.05)
            index[some, 0] = (some * draw.random(len(some))).astype(np.int32)
            similarity[some, 0] = draw.uniform(0.85, 1, len(some))
            store.cached(f.identity(), names, lambda: {"index": index, "similarity": similarity})  # noqa: B023
        else:
            store.write_scores(names.names[0], f.identity(), {"score": draw.random(rows, dtype=np.float32)})
            store.join_scores(names, f.identity())


def main() -> None:
    """Store, select in a fresh process, print."""
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=1_000_000)
    given = options.parse_args()
    with TemporaryDirectory() as folder:
        store_rows(Path(folder), given.rows)
        command = [sys.executable, "-X", "importtime", "-m", "factory", "select", f"{folder}/run", "--set", "filters[0].min=0.3", "--json"]
        started = time.perf_counter()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds = time.perf_counter() - started
    answer = json.loads(done.stdout)
    emit(
        {"rows": answer["rows"], "seconds": round(seconds, 3), "kept": answer["kept"], "torch_imported": " torch\n" in done.stderr},
        given.json,
    )


if __name__ == "__main__":
    main()
