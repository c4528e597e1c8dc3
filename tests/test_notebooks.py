"""Every notebook runs from top to bottom on what the repository ships, defines nothing, and says what is true."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like the repository's root, so that runs are made elsewhere; the notebook starts below it, as Jupyter does."""
    for name in ("data", "recipes"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    return tmp_path


def cells(path: Path) -> list[str]:
    return ["".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def execute(name: str, **smaller: Any) -> dict[str, Any]:
    """The names that a notebook leaves behind. smaller: values that take the place of those that a cell of it sets."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    names: dict[str, Any] = {}
    try:
        for cell in cells(ROOT / "notebooks" / f"{name}.ipynb"):
            exec(cell, names)
            names |= {key: value for key, value in smaller.items() if key in names}
    finally:
        pyplot.close("all")
    return names


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_defines_nothing_and_stores_no_output(path: Path) -> None:
    for cell in cells(path):
        assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda) for node in ast.walk(ast.parse(cell))), (
            "belongs in factory/"
        )
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None, "outputs differ from machine to machine"


def test_quickstart(root: Path) -> None:
    names = execute("quickstart")
    assert names["report"]["kept"] == len(names["data"]) == 40
    assert names["again"]["match"] and names["again"]["max_difference"] <= 1
    assert names["decided"]["kept"] < 40, "the strictest filter refuses some, or the notebook shows nothing"
    assert (root / "runs/notebook/contact_sheet.png").exists()


def test_filter_a_corpus(root: Path) -> None:
    names = execute("filter_a_corpus")
    reason, honest = names["reason"], names["honest"]
    assert names["report"]["read"] == 610 == len(reason)
    assert (reason[names["grey"]] == "blank").all() and not (reason[names["copies"]] == "").any()
    assert len(names["broken"]) == 5 and not np.isin(reason[names["broken"]], ["", "blank", "zero_shot"]).any()
    assert (reason[names["wrong"]] == "zero_shot").mean() > 0.8 and 0 < (reason[honest] == "zero_shot").mean() < 0.2
    assert names["decided"]["kept"] < names["report"]["kept"] < pq.read_metadata(root / "runs/spoiled/run/kept.parquet").num_rows
    assert execute("filter_a_corpus")["report"]["read"] == 610, "a second time over the first run"


def test_is_it_worth_it(root: Path) -> None:
    making = ["source.shots=3", "amount.per_class=6", "generator.steps=3", "filters=[undecodable]"]
    small = {
        "backbone": "efficientnet_lite0@32",
        "steps": 4,
        "batch": 8,
        "width": 4,
        "seeds": 2,
        "validation": 3,
        "test": 6,
        "reference": 60,
    }
    names = execute("is_it_worth_it", making=making, measuring={"classifiers": ["small_network"], "ratios": [1, 2], **small})
    found = names["found"]
    assert names["report"]["kept"] == 60 and found["guards"]["passed"] and len(names["table"]) == 30
    assert [row["ratio"] for row in names["mixed"]] == [1, 2] and names["axis"].get_legend() is not None
    assert found["verdict"]["use"] in (True, False, None) and found["verdict"]["text"]
    assert found["memorisation"]["pairs"] and json.loads((root / "runs/worth/evaluation.json").read_text()) == json.loads(json.dumps(found))
