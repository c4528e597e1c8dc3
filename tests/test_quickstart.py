"""The shipped recipe with the shipped models, small: real diffusion, real filters, the same bytes from three workers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.test_build import digest, load, run

SETS = ("amount={per_class: 3, rounds: 2}", "generator.steps=4", "generator.batch=5", "shard=10", "threads=1")


def test_the_quickstart_builds_and_workers_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    report = run(ROOT / "recipes" / "quickstart.yaml", tmp_path / "one", *SETS)
    data = load(tmp_path / "one", tmp_path)
    assert len(data) == report["kept"] and report["generated"] >= 30
    assert report["kept"] + sum(report["refused"].values()) == report["generated"]
    assert all(len(parents) == 2 for parents in data["parents"]) and "lambda" in data[0]["conditioning"]
    assert data[0]["image"].size == (28, 28) and min(data["clip_similarity"]) >= 0.2
    command = [sys.executable, "-m", "factory", "build", "recipes/quickstart.yaml", "--out", str(tmp_path / "three"), "--workers", "3"]
    command += [part for item in SETS for part in ("--set", item)] + ["--device", "cpu"]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    assert digest(tmp_path / "one" / "dataset") == digest(tmp_path / "three" / "dataset")
