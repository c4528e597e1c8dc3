"""Randomness that belongs to the request: one generator per image, and global random state that cannot matter."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np


def generators(seeds: Sequence[int], device: str = "cpu") -> list[Any]:
    """One torch.Generator per request. On the CPU by default, so that the noise is the same on every device."""
    import torch

    return [torch.Generator(device).manual_seed(int(seed)) for seed in seeds]


class GlobalDraws:
    """Whether the code inside `fenced` drew from global random state. used: bool, known after the block."""

    used = False


@contextlib.contextmanager
def fenced(seeds: Sequence[int], device: str) -> Iterator[GlobalDraws]:
    """Seed every global generator from the requests' seeds, notice whether any is drawn from, and put all back.

    Some pipelines and schedulers take no generator for some of their noise. The global seed is a hash, so that their noise
    is not the same stream as that of the request's own generator.
    """
    import torch

    digest = hashlib.sha256(np.asarray(seeds, dtype=np.int64).tobytes()).digest()
    seed = int.from_bytes(digest[:8], "little") >> 1
    cuda = [torch.device(device)] if device.startswith("cuda") else []
    numpy_state, python_state = np.random.get_state(), random.getstate()
    draws = GlobalDraws()
    try:
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            before = _states(cuda)
            yield draws
            draws.used = _states(cuda) != before
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


def _states(cuda: list[Any]) -> list[bytes]:
    import torch

    tensors = [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in cuda)]
    legacy: Any = np.random.get_state()
    return [
        *(tensor.numpy().tobytes() for tensor in tensors),
        legacy[1].tobytes() + bytes(str(legacy[2]), "ascii"),
        repr(random.getstate()).encode(),
    ]
