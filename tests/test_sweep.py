"""What a threshold costs, from stored scores: against counts made by hand, and the Vendi score against its library."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from factory import filtering, sweep
from factory.diversity import mean_cosine_distance
from factory.errors import UserError
from tests import corpora
from tests.test_cli import factory

CLIP = "data/models/fashion-mnist/clip"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    corpus = f"{{dataset: {corpora.parquet(tmp_path / 'c.parquet', 40)}, image: photo, label: kind}}"
    recipe = filtering.load(corpora.recipe(tmp_path / "r.yaml", corpus=corpus))
    filtering.run(recipe, tmp_path / "run", "cpu")
    return tmp_path / "run"


def test_yield_and_balance(run: Path) -> None:
    result = sweep.run(run, "Brightness", [0, 100, 128, 255.5])
    values = np.array(corpora.values(40))
    assert [point["kept"] for point in result["points"]] == [(values >= low).sum() for low in (0, 100, 128, 255.5)]
    dark, light = (values <= 127).sum(), (values > 127).sum()
    shares = np.array([dark, light]) / 40
    assert result["points"][0]["balance"] == pytest.approx(-(shares * np.log2(shares)).sum(), abs=1e-5)
    assert result["points"][2]["balance"] == 0 and result["points"][2]["per_class"] == {"dark": 0, "light": light}
    assert result["points"][3]["balance"] is None and result["now"] == 100 and result["bound"] == "min"
    quantiles = sweep.run(run, "Brightness", [], 5)["points"]
    assert quantiles[0]["kept"] == 40 and quantiles[-1]["kept"] == (values == values.max()).sum()


def test_rules_are_those_of_the_run_whatever_the_environment(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = sweep.run(run, "Brightness", [100])
    monkeypatch.setenv("FACTORY__FILTERS", '["undecodable", {"kind": "brightness", "min": 0}]')
    monkeypatch.setenv("FACTORY__THREADS", "many")
    assert sweep.run(run, "Brightness", [100]) == here


def test_diversity_is_what_its_definition_says() -> None:
    from vendi_score import vendi

    units = np.random.default_rng(0).normal(size=(30, 8))
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    found = sweep.diversity(units.astype(np.float16), np.arange(20))
    cosines = units[:20] @ units[:20].T
    assert found["diversity"] == pytest.approx(1 - cosines[np.triu_indices(20, 1)].mean(), abs=1e-3)
    assert found["vendi"] == pytest.approx(vendi.score_X(units[:20], normalize=False), abs=0.02)
    assert sweep.diversity(units, np.arange(1)) == {"diversity": None, "vendi": None} == sweep.diversity(None, np.arange(9))
    copies = np.repeat(units[:1], 5, axis=0)
    assert sweep.diversity(copies, np.arange(5))["vendi"] == pytest.approx(1, abs=1e-3)
    assert min(mean_cosine_distance(np.repeat(units[row : row + 1], 7, axis=0)) for row in range(30)) >= 0, "whatever the rounding"


def test_the_command(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    picture = run / "sweep.png"
    code, out, err = factory(monkeypatch, capsys, "sweep", str(run), "Brightness", "--at", "50", "--at", "150", "--picture", str(picture))
    assert code == 0 and "near_duplicate" in out and "now ≥ 100" in out, err
    assert picture.read_bytes()[:4] == b"\x89PNG"
    code, out, _ = factory(monkeypatch, capsys, "sweep", str(run), "Brightness", "--json")
    assert code == 0 and json.loads(out)["rows"] == 40
    with pytest.raises(UserError, match="no filter 'blank'; there are: Brightness"):
        sweep.run(run, "blank", [])


def test_the_shipped_recipe_runs_and_is_swept(tmp_path: Path) -> None:
    sets = ["corpus.dataset=data/fashion-mnist/test-00000-of-00001.parquet", "corpus.kind=tests.corpora.First", "shard=24"]
    recipe = filtering.load("recipes/filter/fashion.yaml", sets)
    report = filtering.run(recipe, tmp_path / "run", "cpu")
    assert report is not None and report["read"] == 48 and 0 < report["kept"] < 48
    points = sweep.run(tmp_path / "run", "zero_shot", [0.0, 0.9])["points"]
    assert points[0]["kept"] > points[1]["kept"] and points[0]["vendi"] > points[1]["vendi"] > 1
    whole = sweep.run(tmp_path / "run", "near_duplicate", [], 3)
    assert whole["bound"] == "max" and whole["points"][0]["kept"] <= whole["points"][-1]["kept"]
