"""What a process is told before it computes."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from factory import runtime

FAULTS = """
import resource, sys, torch
from factory import runtime
torch.set_num_threads(1)
if sys.argv[1] == "held":
    runtime.keep_freed_memory()
for _ in range(12):
    torch.ones(8, 1024, 1024)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(8, 1024, 1024)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_memory_that_tensors_give_back_is_used_again() -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}  # which would hold it by default
    faults = [
        int(subprocess.run([sys.executable, "-c", FAULTS, how], check=True, capture_output=True, text=True, env=plain).stdout)
        for how in ("held", "default")
    ]
    assert faults[0] < 100 and faults[0] < faults[1]


@pytest.mark.parametrize(
    ("most", "settings"), [(1 << 31, [(-3, 1 << 30), (-1, 1 << 30)]), (32 << 20, [(-3, 32 << 20), (-1, 1 << 30)]), (0, [])]
)
def test_an_older_glibc_that_refuses_a_large_threshold_is_given_a_smaller_one(
    most: int, settings: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[tuple[int, int]] = []

    def mallopt(setting: int, value: int) -> int:
        if setting == -3 and value > most:
            return 0
        taken.append((setting, value))
        return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=mallopt))
    runtime.keep_freed_memory()
    assert taken == settings
