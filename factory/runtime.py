"""Processes and devices: the only file that knows how workers are launched.

Workers are independent: `accelerate launch -m factory build …` sets RANK, WORLD_SIZE and LOCAL_RANK, each worker picks its
device from them, and no collective is ever called, so a slow worker holds nobody up.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass(frozen=True)
class Worker:
    """One process of a launch."""

    rank: int
    world: int
    local_rank: int

    @property
    def is_first(self) -> bool:
        return self.rank == 0


def worker() -> Worker:
    """This process's place, from what a launcher set; alone when nothing launched it."""
    return Worker(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_RANK", 0)))


def device(me: Worker, wanted: str = "auto") -> str:
    """`auto` is this worker's share of the fastest accelerator there is; anything else is taken as a torch device."""
    if wanted != "auto":
        return wanted
    import torch

    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"):
        return "cpu"
    if torch.cuda.is_available():
        return f"cuda:{me.local_rank % torch.cuda.device_count()}"
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        return f"xpu:{me.local_rank % torch.xpu.device_count()}"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def fix_numerics(threads: int) -> None:
    """Everything outside the recipe that changes float sums, fixed: thread count and kernel choice."""
    import torch

    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def launch(workers: int, arguments: list[str]) -> None:
    """Replace this process by `accelerate launch` with that many workers of the same command. Does not return."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(workers), "--num_machines", "1"]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    import torch

    if not torch.cuda.is_available():
        command.append("--cpu")
    os.execv(sys.executable, [*command, "-m", "factory", *arguments])


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM (a pre-empted job) stop a run as Ctrl-C does."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
