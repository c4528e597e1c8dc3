"""How fast a training is: the model's own arithmetic per second, and the share of time spent waiting for data."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

WARM_UP = 3  # first steps, in which memory is allocated and kernels are chosen


@torch.no_grad()
def training_flops(model: nn.Module, *inputs: torch.Tensor) -> int:
    """Floating point operations of one training step on these inputs: the backward pass costs twice the forward one (Kaplan et al. 2020)."""
    with FlopCounterMode(display=False) as counter:
        model(*inputs)
    return 3 * int(counter.get_total_flops())


class Throughput:
    """Times the steps of one process. flops: of one step."""

    def __init__(self, flops: int):
        self.flops = flops
        self._seconds: list[float] = []
        self._waited: list[float] = []

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around one step."""
        began = time.perf_counter()
        yield
        self._seconds.append(time.perf_counter() - began)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside a step, around the wait for its data."""
        began = time.perf_counter()
        yield
        self._waited.append(time.perf_counter() - began)

    def facts(self) -> dict[str, float]:
        """Medians over the steps after a warm-up; empty where there were no such steps."""
        seconds, waited = self._seconds[WARM_UP:], self._waited[WARM_UP:]
        if not seconds:
            return {}
        step = statistics.median(seconds)
        return {
            "seconds_per_step": round(step, 4),
            "model_flops_per_s": round(self.flops / step),
            "loader_wait_share": round(sum(waited) / sum(seconds), 4),
        }
