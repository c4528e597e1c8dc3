"""Kill a push at many requests, push again, and count what was sent twice: python -m bench.push [--interruptions N] [--images N] [--json]

A dataset of noise is pushed through the unmodified huggingface_hub to a server on this machine that speaks the Hub's protocol. Once in
peace, which tells how many requests a push makes. Then again and again into a new repository, each push SIGKILLed while the server
reads its k-th request, with k spread evenly over all of them, and pushed once more by a new process.

bytes_resent_share: bytes of large files that arrived beyond their size, over their size; mean over the interruptions.
identical: whether every repository ended with the tree of the push in peace, in one visible commit, and showed nothing before it.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from bench._report import emit, parser
from factory import build
from factory import plan as planning
from factory import recipe as recipes
from tests.hub_client import Client
from tests.hub_server import Hub

REPOSITORY = "ada/bench"


def made(home: Path, images: int) -> Path:
    """A finished run: noise of 160×160 pixels, about 77 kB an image, in shards of 1 MB."""
    (home / "photos" / "noise").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    Image.fromarray(noise).save(home / "photos" / "noise" / "0.png")
    text = (
        f"name: noise\nsource: {{dataset: {home / 'photos'}}}\ngenerator: {{kind: tests.paint.Paint, batch: 8, size: 160}}\n"
        f"condition: text\namount: {{per_class: {images}}}\nthreads: 1\nexport: {{kind: parquet, shard_mb: 1}}\n"
    )
    (home / "recipe.yaml").write_text(text, encoding="utf-8")
    recipe = recipes.load(home / "recipe.yaml")
    table = recipe.source.open()
    build.run(recipe, planning.make(recipe, table), table, home / "run", device="cpu")
    return home / "run"


def large(hub: Hub) -> int:
    """Bytes of the large files at the head."""
    return sum(file.size for file in hub.repos[REPOSITORY].tree.values() if file.lfs)


def interrupted(hub: Hub, home: Path, request: int) -> bool:
    """One push that is killed while its request of that number is read; whether readers saw nothing of it."""
    with Client(hub.url, next(iter(hub.tokens)), home) as victim:

        def kill(number: int, method: str, path: str) -> Any:
            if number != request:
                return None
            victim.process.send_signal(signal.SIGKILL)
            return "half"

        with hub.failing(kill):
            victim.factory("push", "run", REPOSITORY)
        time.sleep(0.05)  # what was on its way when it was killed has arrived
    repo = hub.repos.get(REPOSITORY)
    return repo is None or len(repo.commits) == 1


def main() -> None:
    """Push in peace, push under fire, compare."""
    options = parser(__doc__)
    options.add_argument("--interruptions", type=int, default=20)
    options.add_argument("--images", type=int, default=120)
    given = options.parse_args()
    with TemporaryDirectory() as folder, Hub() as hub:
        home = Path(folder) / "home"
        made(home, given.images)
        with Client(hub.url, next(iter(hub.tokens)), home) as client:
            with hub.failing(lambda number, method, path: None):
                status, said = client.factory("push", "run", REPOSITORY)
                requests = len(hub.requests)
            if status:
                raise RuntimeError(said)
            peace, size = dict(hub.repos[REPOSITORY].tree), large(hub)
            same, resent = [], []
            for request in np.linspace(0, requests - 1, given.interruptions).round().astype(int).tolist():
                hub.repos.clear()
                hub.blobs.clear()
                hub.stored = 0
                unseen = interrupted(hub, home, request)
                status, said = client.factory("push", "run", REPOSITORY)
                if status:
                    raise RuntimeError(said)
                repo = hub.repos[REPOSITORY]
                same.append(unseen and repo.tree == peace and len(repo.commits) == 2)
                resent.append(hub.stored / size - 1)
    result = {
        "interruptions": len(same),
        "bytes_resent_share": round(float(np.mean(resent)), 4),
        "identical": all(same),
        "requests": requests,
        "bytes": size,
    }
    emit(result, given.json)


if __name__ == "__main__":
    main()
