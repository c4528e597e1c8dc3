"""The command line as a person meets it: every mistake is one clear line and exit code 2."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from factory import cli
from factory.cli import main
from tests.conftest import ROOT


def factory(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run a command in this process; (exit code, stdout, stderr)."""
    monkeypatch.setattr(sys, "argv", ["factory", *arguments])
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


MISTAKES = {
    "no such recipe": ({}, "other.yaml", "no such recipe"),
    "no such source": ({"source": "{dataset: ./nowhere/birds}"}, None, "nowhere/birds"),
    "label column absent": ({"source": "{dataset: @birds, label: species}"}, None, "species"),
    "unknown kind": ({"condition": "{kind: agumented_image}"}, None, "did you mean augmented_image?"),
    "unknown class": ({"amount": "{per_class: {stork: 5}}"}, None, "'stork'"),
    "too many shots asked of no class": ({"source": "{dataset: @birds, classes: [stork]}"}, None, "stork"),
    "bad template": ({"prompts": "{text: 'a {colour} {label}'}"}, None, "colour"),
    "bounds swapped": ({"filters": "[{kind: blank, between: [9, 1]}]"}, None, "swap the bounds"),
    "not a share": ({"filters": "[{kind: blank, keep_top: lots}]"}, None, "keep_top"),
    "generator without the input": ({"condition": "class_label"}, None, "class_label"),
    "model folder missing": ({"generator": "{model: ./no/such/model}"}, None, "no/such/model"),
    "model folder empty": ({"generator": "{model: @birds}"}, None, "model_index.json"),
    "encoder missing": ({"filters": "[{kind: clip_similarity, model: ./no/clip}]"}, None, "no/clip"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_clear_line(
    mistake: str,
    write_recipe: Callable[..., Path],
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sections, name, expected = MISTAKES[mistake]
    path = write_recipe(**{key: value.replace("@birds", str(image_folder)) for key, value in sections.items()})
    code, _, err = factory(
        monkeypatch, capsys, "build", str(tmp_path / name if name else path), "--out", str(tmp_path / "run"), "--device", "cpu"
    )
    message = [line for line in err.splitlines() if line and not line[:2].isdigit()]  # log lines begin with the time
    assert code == 2, err
    assert len(message) == 1 and expected in message[0], err
    assert not list((tmp_path / "run").glob("shards/*"))


OTHERS = {
    "a folder": (["build", "recipes"], "name a file in it: augmented_conditioning.yaml"),
    "a picture": (["build", "docs/quickstart.png"], "this is no text"),
    "a filter recipe": (["check", "recipes/filter/fashion.yaml"], "run `factory filter recipes/filter/fashion.yaml`"),
    "a training recipe": (["build", "recipes/train/clip.yaml"], "run `factory train recipes/train/clip.yaml`"),
    "a build recipe to filter": (["filter", "recipes/quickstart.yaml"], "run `factory build recipes/quickstart.yaml`"),
    "a build recipe to train": (["train", "recipes/quickstart.yaml"], "it has `generator` and no `kind`"),
    "a section that is set alone": (
        ["check", "recipes/quickstart.yaml", "--set", "amout.per_class=3"],
        "--set amout.per_class=3 amout: unknown key; did you mean amount?",
    ),
    "a model that is not there": (
        ["check", "recipes/quickstart.yaml", "--set", "generator.model=data/models/nope"],
        "there is no folder data/models/nope",
    ),
    "an item that is not there": (
        ["check", "recipes/quickstart.yaml", "--set", "filters[9].min=2"],
        "filters has 5 items, counted from 0; there is no filters[9]",
    ),
    "a run that is not there": (["replay", "runs/nowhere", "0-000000"], "runs/nowhere: there is no such folder here, and on the Hub"),
}


@pytest.mark.parametrize("mistake", OTHERS)
def test_a_file_of_another_sort_is_one_clear_line(
    mistake: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, expected = OTHERS[mistake]
    monkeypatch.chdir(ROOT)
    code, _, err = factory(monkeypatch, capsys, *arguments)
    assert code == 2 and len(err.splitlines()) == 1 and expected in err, err


@pytest.mark.parametrize(
    ("number", "said"), [(errno.EROFS, "can be written"), (errno.EACCES, "can be written"), (errno.ENOSPC, "disk is full")]
)
def test_a_place_that_cannot_be_written_is_one_clear_line(
    number: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise OSError(number, os.strerror(number), "/runs/x/evaluation.json")

    monkeypatch.setattr(cli, "app", refuse)
    code, _, err = factory(monkeypatch, capsys, "report")
    assert code == 2 and err.startswith("/runs/x/evaluation.json: ") and said in err and err.count("\n") == 1


def test_check_plan_and_schema(
    write_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = factory(monkeypatch, capsys, "check", str(write_recipe()))
    assert code == 0 and "20 images of 2 classes from 12 real ones" in out
    code, out, _ = factory(monkeypatch, capsys, "plan", str(write_recipe()), "--json")
    facts = json.loads(out)
    assert (
        code == 0 and facts["slots"] == 20 and facts["shards"] == 4 and facts["classes"][0] == {"name": "finch", "parents": 6, "wanted": 10}
    )
    code, out, _ = factory(monkeypatch, capsys, "plan", str(write_recipe()), "--probe", "--device", "cpu")
    assert code == 0 and "16×16 px" in out
    code, out, _ = factory(monkeypatch, capsys, "schema")
    assert code == 0 and json.loads(out)["properties"]["filters"]["type"] == "array"
    code, out, _ = factory(monkeypatch, capsys, "schema", "--for", "evaluate")
    assert code == 0 and json.loads(out)["properties"]["protocol"]["enum"] == ["run", "few_shot", "long_tail"]


def test_preview_makes_the_images_that_the_build_will(
    write_recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = factory(
        monkeypatch, capsys, "preview", str(write_recipe()), "-n", "3", "--out", str(tmp_path / "p.png"), "--device", "cpu"
    )
    assert code == 0 and (tmp_path / "p.png").stat().st_size > 500, err
    assert "0-000000" in out and "1-000000" in out and "0-000001" in out


def test_build_prints_where_to_look(
    write_recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("build", str(write_recipe()), "--out", str(tmp_path / "run"), "--device", "cpu")
    code, out, _ = factory(monkeypatch, capsys, *arguments)
    assert code == 0
    for word in ("requested  20", "generated  20", "kept       20", "images/s", "load_dataset", "contact_sheet.png"):
        assert word in out
    code, out, _ = factory(monkeypatch, capsys, *arguments, "--json")
    assert code == 0 and json.loads(out)["kept"] == 20
    code, out, _ = factory(monkeypatch, capsys, "select", str(tmp_path / "run"), "--set", "filters[1].min=1000", "--json")
    assert code == 0 and json.loads(out)["refused"]["blank"] == 20


def test_selecting_what_was_not_scored_says_so(
    write_recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    factory(monkeypatch, capsys, "build", str(write_recipe(filters="[undecodable]")), "--out", str(tmp_path / "run"), "--device", "cpu")
    code, _, err = factory(monkeypatch, capsys, "select", str(tmp_path / "run"), str(write_recipe()))
    assert code == 2 and "run `factory build` to score them" in err
    code, _, err = factory(monkeypatch, capsys, "select", str(tmp_path / "nothing"))
    assert code == 2 and "holds no run" in err


@pytest.mark.parametrize("command", ["", "build", "check", "evaluate", "plan", "preview", "select", "replay", "schema", "train"])
def test_help_teaches_with_an_example(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = factory(monkeypatch, capsys, *([command] if command else []), "--help")
    assert code == 0 and f"factory {command or 'build'}" in out


def test_a_device_that_is_not_here(
    write_recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for device, expected in (("gpu", "there is no such kind of device"), ("cuda:99", "such devices here; say auto, or cpu")):
        code, _, err = factory(monkeypatch, capsys, "build", str(write_recipe()), "--out", str(tmp_path / "run"), "--device", device)
        assert code == 2 and f"--device {device}: " in err and expected in err and "Traceback" not in err


def test_a_build_does_not_go_into_a_filter_run(
    write_recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    factory(monkeypatch, capsys, "build", str(write_recipe()), "--out", out, "--device", "cpu")
    text = f"name: some\ncorpus: {{dataset: {tmp_path / 'birds'}}}\nfilters: [blank]\n"
    (tmp_path / "filter.yaml").write_text(text)
    code, _, err = factory(monkeypatch, capsys, "filter", str(tmp_path / "filter.yaml"), "--out", out, "--device", "cpu")
    assert code == 2 and err.endswith("holds a run of `factory build`; choose another --out\n"), err


def test_workers_option_launches_them(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "factory", "build", str(write_recipe()), "--out", str(tmp_path / "run"), "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert "kept       20" in done.stdout and done.stdout.count("requested") == 1
