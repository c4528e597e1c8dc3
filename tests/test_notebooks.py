"""Every notebook runs from top to bottom on a small run, and defines nothing."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from factory import filter_recipe, filtering
from tests.conftest import ROOT
from tests.test_build import run

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def filtered(folder: Path) -> None:
    """A small part of the sample, filtered by the recipe that the notebook speaks of."""
    part = pq.read_table(ROOT / "data/fashion-mnist/train-00000-of-00001.parquet").slice(0, 60)
    pq.write_table(part, folder / "part.parquet")
    recipe = filter_recipe.load(ROOT / "recipes/filter/fashion.yaml", [f"corpus.dataset={folder / 'part.parquet'}"])
    filtering.run(recipe, folder / "runs" / "filtered-fashion", "cpu")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path: Path, write_recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = path.stem == "filter_a_corpus"
    if corpus:
        filtered(tmp_path)
    else:
        run(write_recipe(), tmp_path / "runs" / "quickstart")
    monkeypatch.chdir(tmp_path)
    cells = ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    names: dict[str, object] = {}
    for cell in cells:
        assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in ast.walk(ast.parse(cell))), "belongs in factory/"
        exec(cell, names)
    assert names["report"]["read" if corpus else "kept"] == (60 if corpus else 20)  # type: ignore[index]
