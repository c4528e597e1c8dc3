"""Kill a build again and again, and compare what comes out: python -m bench.resume [--kills N] [--json]

Builds the quickstart (fewer images) once in peace. Then builds it again, each launch with 1, 2 or 3 workers and SIGKILLed, every
process of it, at a random moment; when one finishes, the next begins afresh, until the given number of kills has struck. Every
dataset folder is compared with the first, byte by byte.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from bench._report import emit, parser


def command(out: Path, recipe: str, sets: list[str], workers: int) -> list[str]:
    """A build as a person launches it."""
    overrides = [part for item in sets for part in ("--set", item)]
    return [sys.executable, "-m", "factory", "build", recipe, "--out", str(out), "--workers", str(workers), *overrides]


def digest(folder: Path) -> dict[str, str]:
    """Every file of a dataset folder and its sha256."""
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def strike(out: Path, recipe: str, sets: list[str], workers: int, after: float) -> bool:
    """Launch, kill the whole process group after some seconds; false when the build had already finished."""
    process = subprocess.Popen(
        command(out, recipe, sets, workers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        process.wait(after)
        if process.returncode:
            raise RuntimeError(f"a build failed by itself with exit code {process.returncode}")
        return False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True


def main() -> None:
    """Build in peace, build under fire, compare."""
    options = parser(__doc__)
    options.add_argument("--kills", type=int, default=20)
    options.add_argument("--recipe", default="recipes/quickstart.yaml")
    options.add_argument("--set", action="append", default=["amount.per_class=24", "shard=20", "generator.batch=10"], dest="sets")
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    draw = random.Random(given.seed)
    with TemporaryDirectory() as folder:
        peace = Path(folder) / "peace"
        started = time.perf_counter()
        subprocess.run(command(peace, given.recipe, given.sets, 1), check=True, capture_output=True)
        whole = time.perf_counter() - started
        kills, workers, marks = 0, [], []
        same: list[bool] = []
        while kills < given.kills:
            fire = Path(folder) / f"fire-{len(same)}"
            while kills < given.kills:
                count = draw.choice([1, 2, 3])
                # Loading takes a good part of so short a build: strike from before the first shard to near the end.
                if not strike(fire, given.recipe, given.sets, count, draw.uniform(0.3, 1.0) * min(whole, 25)):
                    break
                kills += 1
                workers.append(count)
                marks.append(len(list((fire / "marks").glob("*.json"))))
            subprocess.run(command(fire, given.recipe, given.sets, 2), check=True, capture_output=True)
            same.append(digest(peace / "dataset") == digest(fire / "dataset"))
    result = {"kills": kills, "workers": workers, "shards_after_each_kill": marks, "builds": len(same), "identical": all(same)}
    emit(result, given.json)


if __name__ == "__main__":
    main()
