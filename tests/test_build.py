"""Builds: the same bytes whoever makes them and however often they are killed; nothing lost, everything counted."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest

from factory import build, reselect
from factory import plan as planning
from factory import recipe as recipes
from factory.errors import UserError
from factory.images import decode
from factory.records import Annotations
from factory.store import Store
from tests.conftest import ROOT
from tests.paint import OpenPaint


def run(path: Path, out: Path, *sets: str) -> dict[str, Any]:
    recipe = recipes.load(path, list(sets))
    table = recipe.source.open()
    report = build.run(recipe, planning.make(recipe, table), table, out, device="cpu")
    assert report is not None
    return report


def command(path: Path, out: Path, workers: int = 1, accelerate: bool = False) -> list[str]:
    tail = ["-m", "factory", "build", str(path), "--out", str(out), "--device", "cpu"]
    if not accelerate:
        return [sys.executable, *tail, "--workers", str(workers)]
    launch = [
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--main_process_port",
        "0",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
    ]
    return [sys.executable, *launch, "--num_processes", str(workers), *tail]


def digest(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def load(out: Path, tmp_path: Path) -> datasets.Dataset:
    return datasets.load_dataset(str(out / "dataset"), split="train", cache_dir=str(tmp_path / "cache"))


def test_a_build_makes_a_dataset_that_opens_without_code(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    report = run(write_recipe(), tmp_path / "run")
    data = load(tmp_path / "run", tmp_path)
    assert len(data) == report["kept"] == 20
    assert data.features["label"].names == ["finch", "heron"]
    assert data[0]["image"].size == (16, 16)
    assert {"id", "prompt", "seed", "parents", "conditioning", "generator", "blank"} <= set(data.column_names)
    assert len(set(data["id"])) == len(set(data["seed"])) == 20
    assert (tmp_path / "run" / "contact_sheet.png").stat().st_size > 1000
    assert json.loads((tmp_path / "run" / "report.json").read_text()) == report


def test_counts_add_up_and_rejected_rows_keep_their_reason(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    path = write_recipe(filters="[undecodable, {kind: blank, keep_top: '50%'}]", amount="{per_class: 10, rounds: 1}")
    report = run(path, tmp_path / "run")
    assert report["generated"] == 20 and report["kept"] == 10 and report["refused"]["blank"] == 10
    assert report["short"] == {"finch": 5, "heron": 5}
    decisions = pq.read_table(tmp_path / "run" / "selection.parquet")
    assert decisions.num_rows == 20 and decisions["reason"].to_pylist().count("blank") == 10


def test_a_short_class_asks_for_more_rounds(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    path = write_recipe(filters="[{kind: blank, keep_top: '50%'}]", amount="{per_class: 10, rounds: 4}")
    report = run(path, tmp_path / "run")
    assert report["kept"] == 20 and not report["short"] and report["rounds"] > 1
    again = run(path, tmp_path / "other")
    assert again["this_launch"]["images"] == again["generated"] == report["generated"]
    assert digest(tmp_path / "run" / "dataset") == digest(tmp_path / "other" / "dataset")


def test_a_second_build_makes_nothing(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    run(write_recipe(), tmp_path / "run")
    before = digest(tmp_path / "run" / "dataset")
    report = run(write_recipe(), tmp_path / "run")
    assert report["this_launch"]["images"] == 0 and digest(tmp_path / "run" / "dataset") == before


def test_a_filter_added_later_scores_and_generates_nothing(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    run(write_recipe(filters="[undecodable]"), tmp_path / "run")
    shards = digest(tmp_path / "run" / "shards")
    report = run(write_recipe(), tmp_path / "run")
    assert digest(tmp_path / "run" / "shards") == shards and report["kept"] == 20
    fresh = run(write_recipe(), tmp_path / "fresh")
    assert fresh["kept"] == 20 and digest(tmp_path / "run" / "dataset") == digest(tmp_path / "fresh" / "dataset")


def test_more_images_keep_the_old_ones(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    run(write_recipe(), tmp_path / "run")
    old = dict(zip(*[load(tmp_path / "run", tmp_path)[c] for c in ("id", "seed")], strict=True))
    report = run(write_recipe(), tmp_path / "run", "amount.per_class=15")
    assert report["this_launch"]["images"] == 10 and report["kept"] == 30
    new = datasets.load_dataset(str(tmp_path / "run" / "dataset"), split="train", cache_dir=str(tmp_path / "cache2"))
    assert old.items() <= dict(zip(new["id"], new["seed"], strict=True)).items()


def test_raising_the_amount_needs_no_further_rounds(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    run(write_recipe(), tmp_path / "run", "amount.rounds=1")
    assert run(write_recipe(), tmp_path / "run", "amount.rounds=1", "amount.per_class=13")["kept"] == 26
    lower = run(write_recipe(), tmp_path / "run", "amount.per_class=4")
    assert lower["kept"] == 8 and lower["refused"]["over_quota"] == 18


def test_another_plan_is_refused_and_says_what_differs(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    run(write_recipe(), tmp_path / "run")
    before = digest(tmp_path / "run")
    with pytest.raises(UserError, match=r"another plan \(generator\.size: 16 → 8\)"):
        run(write_recipe(), tmp_path / "run", "generator.size=8")
    assert digest(tmp_path / "run") == before


def test_a_folder_of_something_else_is_refused(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "final.txt").write_text("years of work")
    with pytest.raises(UserError, match="holds no run"):
        run(write_recipe(), tmp_path / "thesis")
    assert (tmp_path / "thesis" / "final.txt").read_text() == "years of work"


def test_workers_agree_on_a_round_whoever_records_it_first(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    first = store.record_round(1, np.array([12, 12]), np.array([3, 1]))
    second = store.record_round(1, np.array([12, 10]), np.array([5, 5]))
    assert [a.tolist() for a in first] == [b.tolist() for b in second] == [[12, 12], [3, 1]]
    assert store.next_round(2, ["rules"], lambda: np.array([4, 0])).tolist() == [4, 0]
    assert store.next_round(2, ["rules"], lambda: np.array([9, 9])).tolist() == [4, 0]
    assert store.next_round(2, ["other rules"], lambda: np.array([9, 9])).tolist() == [9, 9]


def test_a_joining_worker_with_another_recipe_is_refused(
    write_recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(write_recipe(), tmp_path / "run")
    monkeypatch.setattr("factory.store.OWNER_SECONDS", 0.1)
    recipe = recipes.load(write_recipe(), ["amount.per_class=11"])
    table = recipe.source.open()
    with pytest.raises(UserError, match=r"other settings \(amount\.per_class: 10 → 11\)"):
        build.run(recipe, planning.make(recipe, table), table, tmp_path / "run", device="cpu", join=True)


def test_changed_weights_are_refused(write_recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(write_recipe(), tmp_path / "run")
    monkeypatch.setattr(OpenPaint, "describe", lambda self: {"weights": {"unet.safetensors": 2}})
    with pytest.raises(UserError, match="weights changed"):
        run(write_recipe(), tmp_path / "run", "amount.per_class=12")


def test_boxes_and_masks_follow_their_image() -> None:
    notes = Annotations(np.array([[2, 4, 10, 8]], np.float32), np.array([1]), np.arange(48, dtype=np.int32).reshape(6, 8))
    small = notes.resized((6, 8), (3, 4))
    assert small.boxes is not None and small.boxes.tolist() == [[1, 2, 5, 4]]
    assert small.mask is not None and small.mask.tolist() == [[9, 11, 13, 15], [25, 27, 29, 31], [41, 43, 45, 47]]


def test_a_folder_in_use_is_refused(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    with Store(tmp_path / "run").owned(), pytest.raises(UserError, match="in use"):
        run(write_recipe(), tmp_path / "run")


def test_corrupt_parents_are_quarantined_and_counted(write_recipe: Callable[..., Path], image_folder: Path, tmp_path: Path) -> None:
    (image_folder / "finch" / "2.png").write_bytes(b"\x89PNG\r\n\x1a\nnot a picture")
    (image_folder / "heron" / "3.png").write_bytes(b"")
    report = run(write_recipe(), tmp_path / "run")
    assert report["kept"] == 20 and len(report["quarantined_parents"]) == 2
    parents = {key for row in load(tmp_path / "run", tmp_path)["parents"] for key in row}
    assert len(parents) == 10


def test_a_class_with_no_readable_parent_is_an_error(write_recipe: Callable[..., Path], image_folder: Path, tmp_path: Path) -> None:
    for picture in (image_folder / "finch").iterdir():
        picture.write_bytes(b"")
    with pytest.raises(UserError, match="none of the 6 real images of class 'finch' can be decoded"):
        run(write_recipe(), tmp_path / "run")


def test_a_cut_shard_is_made_again(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    run(write_recipe(), tmp_path / "run")
    before = digest(tmp_path / "run" / "dataset")
    shard = tmp_path / "run" / "shards" / "00-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:100])
    assert run(write_recipe(), tmp_path / "run")["this_launch"]["images"] == 6
    assert digest(tmp_path / "run" / "dataset") == before


def test_select_decides_again_without_source_or_model(write_recipe: Callable[..., Path], image_folder: Path, tmp_path: Path) -> None:
    run(write_recipe(), tmp_path / "run")
    image_folder.rename(tmp_path / "gone")
    (image_folder / "a").mkdir(parents=True)  # the recipe's path exists, and holds nothing
    store = Store(tmp_path / "run")
    scores = store.read_scores(store.read_rows()[0], recipes.load(tmp_path / "run" / "recipe.json").filters[1].identity())["score"]
    middle = float(np.median(scores))
    result = reselect.run(tmp_path / "run", None, [f"filters[1].min={middle}"], export=True)
    assert result["kept"] == (scores >= middle).sum() == len(load(tmp_path / "run", tmp_path))
    assert 0 < result["kept"] < 20
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["kept"] == result["kept"] and sum(report["short"].values()) == report["requested"] - report["kept"] > 0


def test_a_full_disk_is_one_line_and_loses_nothing(
    write_recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    real = pq.write_table

    def write(table: Any, where: Any, **options: Any) -> None:
        if "shards" in str(where):
            written.append(where)
            if len(written) == 3:
                Path(where).write_bytes(b"half a shard")
                raise OSError(28, "No space left on device")
        real(table, where, **options)

    monkeypatch.setattr(pq, "write_table", write)
    with pytest.raises(UserError, match="the disk is full"):
        run(write_recipe(), tmp_path / "run")
    assert len(Store(tmp_path / "run").marked()) == 2
    assert not list((tmp_path / "run" / "shards").glob(".*"))
    report = run(write_recipe(), tmp_path / "run")
    assert report["kept"] == 20 and report["this_launch"]["images"] == 8


def test_a_failed_generator_leaves_no_claim_behind(
    write_recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def generate(self: OpenPaint, seeds: list[int], inputs: list[Any]) -> list[np.ndarray]:
        calls.append(len(seeds))
        if len(calls) == 4:
            raise RuntimeError("out of memory")
        return [self._one(seed, given) for seed, given in zip(seeds, inputs, strict=True)]

    with monkeypatch.context() as broken:
        broken.setattr(OpenPaint, "generate", generate)
        with pytest.raises(RuntimeError, match="out of memory"):
            run(write_recipe(), tmp_path / "run")
    assert run(write_recipe(), tmp_path / "run")["kept"] == 20


def test_stored_pixels_are_the_generated_ones(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    run(write_recipe(condition="text"), tmp_path / "run")
    row = Store(tmp_path / "run").read_shard("00-00000").slice(0, 1).to_pylist()[0]
    expected = np.random.default_rng(row["seed"]).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert (decode(row["image"]) == expected).all()


@pytest.mark.parametrize(("workers", "accelerate"), [(2, True), (3, False)])
def test_workers_give_the_same_bytes(workers: int, accelerate: bool, write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    path = write_recipe(generator="{kind: tests.paint.Paint, batch: 4, seconds: 0.5}", amount="{per_class: 24}")
    run(path, tmp_path / "one")
    subprocess.run(command(path, tmp_path / "many", workers, accelerate), check=True, cwd=ROOT, capture_output=True)
    report = json.loads((tmp_path / "many" / "report.json").read_text())
    assert 0 < report["this_launch"]["images"] < report["generated"], "the first worker made everything: nobody helped"
    assert digest(tmp_path / "one" / "dataset") == digest(tmp_path / "many" / "dataset")


def test_killed_runs_resume_to_the_same_bytes(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    path = write_recipe(generator="{kind: tests.paint.Paint, batch: 4, seconds: 0.15}", amount="{per_class: 60, rounds: 2}")
    draw, kills = random.Random(5), 0
    for attempt in range(4):
        process = subprocess.Popen(
            command(path, tmp_path / "run", 1 + attempt % 2),
            cwd=ROOT,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(lambda: (tmp_path / "run" / "locks").exists() or process.poll() is not None)  # noqa: B023
        time.sleep(draw.uniform(0.2, 1.0))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills >= 2
    run(path, tmp_path / "run")
    run(
        write_recipe("quick.yaml", generator="{kind: tests.paint.Paint, batch: 4, seconds: 0.15}", amount="{per_class: 60, rounds: 2}"),
        tmp_path / "peace",
    )
    assert digest(tmp_path / "run" / "dataset") == digest(tmp_path / "peace" / "dataset")


def test_an_interrupt_says_how_to_go_on(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    path = write_recipe(generator="{kind: tests.paint.Paint, batch: 2, seconds: 0.2}")
    listen = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731 - tests that run in the background of a shell ignore it
    process = subprocess.Popen(command(path, tmp_path / "run"), cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=listen)
    wait_for(lambda: any((tmp_path / "run" / "marks").glob("*.json")))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "interrupted; shards done and kept: " in errors and "run the same command again" in errors and "Traceback" not in errors
    report = run(path, tmp_path / "run")
    assert report["kept"] == 20 and report["this_launch"]["images"] < 20


def wait_for(true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def test_two_datasets_of_one_recipe_are_never_taken_for_each_other(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    from datasets import load_dataset

    for export in ("parquet", "folder"):
        seen = []
        for seed in (1, 2):
            out = tmp_path / f"{export}-{seed}"
            run(write_recipe(seed=str(seed), export=export), out)
            loaded = load_dataset(str(out / "dataset"), split="train", cache_dir=str(tmp_path / "cache"))
            seen.append(sorted(loaded["seed"]))
            assert len(loaded) == 20
        assert seen[0] != seen[1]
