"""The same shard function under Ray: a task for each shard, which Ray gives to another node when one dies.

The run folder, and the corpus where it is local, must be seen by all nodes (a shared file system): as everywhere, a shard's mark is what makes
it done, so a task that is tried again finds what is whole and repeats nothing.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from factory import runtime
from factory.errors import UserError
from factory.filtering import outcome, story
from factory.filtering import recipe as recipes
from factory.filtering.progress import Progress
from factory.filtering.recipe import FilterRecipe
from factory.filtering.sifter import Sifter, is_done
from factory.records import Cut
from factory.store import Store

IN_FLIGHT = 2  # tasks for each that can run at once: the next is there when one ends, and few are lost with a node
log = logging.getLogger("factory")
_held: dict[tuple[str, ...], tuple[Sifter, Progress]] = {}  # a worker process keeps its models from task to task


def run(recipe: FilterRecipe, out: Path, address: str | None = None, device: str = "auto") -> dict[str, Any]:
    """Filter a recipe's corpus on a Ray cluster (the one at `address`, one that runs here, or a new one on this machine). Returns the report.

    Raises UserError without Ray, and for what a local run would raise.
    """
    ray = _ray()
    if not ray.is_initialized():
        ray.init(address=address or os.environ.get("RAY_ADDRESS"), log_to_driver=False, configure_logging=False)
    out = out.absolute()
    with Store(out).owned():
        store, job = story.begin(recipe, out)
        todo = [cut for cut in job.cuts if not is_done(recipe, store, cut)]
        progress = Progress(store, job.cuts, show=True)
        try:
            with runtime.interruptible(), progress:
                if todo:
                    _share(ray, recipe, out, todo, device, progress)
        except KeyboardInterrupt:
            raise UserError(f"interrupted; shards done and kept: {len(store.marked())}; run the same command again to go on") from None
        return outcome.conclude(recipe, store, job.cuts, progress)


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise UserError("--engine ray needs Ray: pip install 'synthetic-dataset-factory[ray]'") from None
    return ray


def _share(ray: Any, recipe: FilterRecipe, out: Path, todo: Sequence[Cut], device: str, progress: Progress) -> None:
    """Keep a few tasks for each place in flight until all shards are done. Ray tries a task again when its process or node dies."""
    resources = ray.cluster_resources()
    gpus = 1 if device == "auto" and resources.get("GPU") else 0
    task = ray.remote(max_retries=-1, num_cpus=recipe.threads, num_gpus=gpus)(score)
    places = int(resources["GPU"] if gpus else resources.get("CPU", 1) // recipe.threads)
    if places < 1:
        raise UserError(
            f"the Ray cluster has {resources.get('CPU', 0):g} CPUs and a worker takes {recipe.threads}; lower `threads` or add nodes"
        )
    waiting, running = list(reversed(todo)), list[Any]()
    progress.ready()
    try:
        while waiting or running:
            while waiting and len(running) < IN_FLIGHT * places:
                running.append(task.remote(str(out), os.getcwd(), waiting.pop(), device))
            finished, running = ray.wait(running, num_returns=1)
            for done in finished:
                progress.add(*ray.get(done))
                progress.refresh()
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        if isinstance(error.cause, OSError):
            raise UserError(f"{error.cause}; finished shards are kept, run the same command again to go on") from error
        raise
    finally:
        for left in running:
            ray.cancel(left, force=True)


def score(out: str, folder: str, cut: Cut, device: str) -> tuple[int, int]:
    """One shard, wherever Ray runs it: (rows, rows that could not be read). folder: what the recipe's relative paths are relative to."""
    key = (out, folder, (Path(out) / "recipe.json").read_text(encoding="utf-8"))  # a session may run several recipes over one folder
    if key not in _held:
        if Path(folder).is_dir():
            os.chdir(folder)
            sys.path.append(folder)  # kinds in packages beside the recipe, as on the command line
        recipe = recipes.load(Path(out) / "recipe.json", environ={})
        store = Store(Path(out))
        progress = Progress(store, [], show=False)
        _held.clear()  # models of an earlier run on this cluster
        _held[key] = (story.sifter(recipe, store, device, runtime.Worker(0, 1, 0), progress), progress)
    sifter, progress = _held[key]
    before = (progress.rows, progress.refused)
    sifter.one(cut)
    return progress.rows - before[0], progress.refused - before[1]
