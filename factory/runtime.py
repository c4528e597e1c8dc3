"""Processes and devices: the only file that knows how workers are launched.

Workers are independent: `accelerate launch -m factory build …` sets RANK, WORLD_SIZE and LOCAL_RANK, each worker picks its
device from them, and no collective is ever called, so a slow worker holds nobody up.
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from factory import __version__
from factory.errors import UserError

log = logging.getLogger("factory")
HELD = 1 << 30  # bytes: the largest tensor that comes from the heap, and the most that lies idle at its end
_HELD_BY_OLDER = 32 << 20  # the most that glibc before 2.35 takes for a tensor (HEAP_MAX_SIZE / 2); it refuses a larger setting
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


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
    """This process's place, from what accelerate, torchrun, mpirun or srun set; alone when nothing launched it."""
    me = Worker(
        _from_environ(0, "RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID"),
        _from_environ(1, "WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_NTASKS"),
        _from_environ(0, "LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID"),
    )
    if me.world == 1 and "MASTER_ADDR" in os.environ and "ACCELERATE_USE_CPU" in os.environ:
        log.warning("accelerate starts a single process for --cpu, whatever --num_processes says; use --workers N, or --multi_gpu there")
    return me


def _from_environ(default: int, *names: str) -> int:
    return next((int(os.environ[name]) for name in names if name in os.environ), default)


def device(me: Worker, wanted: str = "auto") -> str:
    """`auto` is this worker's share of the fastest accelerator there is; else a torch device. Raises UserError for one that is not here."""
    if wanted == "cpu":
        return wanted  # without torch, which a filter run may never need
    import torch

    if wanted != "auto":
        _require(wanted)
        return wanted
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"):
        return "cpu"
    if torch.cuda.is_available():
        return f"cuda:{me.local_rank % torch.cuda.device_count()}"
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        return f"xpu:{me.local_rank % torch.xpu.device_count()}"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _require(wanted: str) -> None:
    """Raise UserError for a device that is none, or that this machine lacks."""
    import torch

    try:
        named = torch.device(wanted)
    except RuntimeError:
        raise UserError(f"--device {wanted}: there is no such kind of device; say auto, cpu, cuda, cuda:1, xpu or mps") from None
    there = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if named.type in there and (named.index or 0) >= there[named.type]:
        raise UserError(f"--device {wanted}: PyTorch finds {there[named.type]} such devices here; say auto, or cpu")


def fix_numerics(threads: int) -> None:
    """Everything outside the recipe that changes float sums, fixed: thread count and kernel choice."""
    import torch

    keep_freed_memory()
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def keep_freed_memory() -> None:
    """Tell glibc to hold on to memory that large tensors give back.

    By default it asks the kernel for every large tensor anew, and the kernel clears the pages: on a CPU a third of a convolutional network's time.
    Anywhere but on glibc this does nothing.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    # The second setting alone would hold the first at its small beginning, which else grows by itself.
    if mallopt(_M_MMAP_THRESHOLD, HELD) or mallopt(_M_MMAP_THRESHOLD, _HELD_BY_OLDER):
        mallopt(_M_TRIM_THRESHOLD, HELD)


def expect_numerics(threads: int) -> None:
    """The same for a process that may never need torch: it is not imported, and if it is later, it begins with that many threads."""
    if "torch" in sys.modules:
        fix_numerics(threads)
    else:
        os.environ["OMP_NUM_THREADS"] = str(threads)


def describe(device: str) -> dict[str, str]:
    """What outside the recipe decides the last bits of an image: hardware and versions, as JSON values without the machine's name."""
    import numpy
    import torch

    if device.startswith("cuda"):
        hardware = torch.cuda.get_device_name(device)
    else:
        hardware = f"{device.partition(':')[0]} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return {"hardware": hardware, "torch": str(torch.__version__), "numpy": numpy.__version__, "factory": __version__}


def launch(workers: int, arguments: list[str]) -> int:
    """Run that many workers of the same `factory` command on this machine and wait for all. Returns the highest exit code.

    They are as independent as those of any launcher: one that dies leaves its shard to the others.
    """
    place = {"WORLD_SIZE": str(workers)}
    command = [sys.executable, "-m", "factory", *arguments]
    crew: list[subprocess.Popen[bytes]] = []

    def stop(number: int, frame: FrameType | None) -> None:
        for process in crew:
            process.terminate()

    previous = signal.signal(signal.SIGTERM, stop)  # a pre-empted job must not leave workers behind
    try:
        for i in range(workers):
            crew.append(subprocess.Popen(command, env={**os.environ, **place, "RANK": str(i), "LOCAL_RANK": str(i)}))
        while True:
            try:
                return max(abs(process.wait()) for process in crew)
            except KeyboardInterrupt:  # the terminal told the workers too; they finish by themselves
                continue
    finally:
        signal.signal(signal.SIGTERM, previous)


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
