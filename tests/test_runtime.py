"""What a process is told before it computes."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

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
    faults = [
        int(subprocess.run([sys.executable, "-c", FAULTS, how], check=True, capture_output=True, text=True).stdout)
        for how in ("held", "default")
    ]
    assert faults[0] < 100 and faults[0] < faults[1]
