"""Randomness that belongs to the request: one generator per image, and global random state that cannot matter."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np


def generators(seeds: Sequence[int], device: str = "cpu") -> list[Any]:
    """One torch.Generator per request. On the CPU by default, so that the noise is the same on every device."""
    import torch

    return [torch.Generator(device).manual_seed(int(seed)) for seed in seeds]


class GlobalDraws:
    """Whether the code inside `fenced` drew from torch's global generators. used: known after the block."""

    used = False


@contextlib.contextmanager
def fenced(seeds: Sequence[int], device: str) -> Iterator[GlobalDraws]:
    """Seed torch's global generators from the requests' seeds, notice whether they are drawn from, and put them back.

    Some pipelines and schedulers take no generator for some of their noise. The global seed is a hash, so that such noise
    is not the same stream as that of the request's own generator.
    """
    import torch

    digest = hashlib.sha256(np.asarray(seeds, dtype=np.int64).tobytes()).digest()
    seed = int.from_bytes(digest[:8], "little") >> 1
    cuda = [torch.device(device)] if device.startswith("cuda") else []
    draws = GlobalDraws()
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        for one in cuda:
            with torch.cuda.device(one):
                torch.cuda.manual_seed(seed)
        before = _states(cuda)
        yield draws
        draws.used = _states(cuda) != before


def _states(cuda: list[Any]) -> list[bytes]:
    import torch

    return [state.numpy().tobytes() for state in (torch.get_rng_state(), *(torch.cuda.get_rng_state(one) for one in cuda))]
