"""One image made again: from its run, from a copied dataset in any format, and never from other images or with other prompts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from factory import published, replay
from factory import recipe as recipes
from factory.errors import UserError
from factory.images import decode, encode
from factory.publish import names
from factory.records import Inputs
from factory.store import Store
from tests.conftest import ROOT
from tests.paint import OpenPaint, Paint
from tests.test_build import run
from tests.test_cli import factory

TOKEN = "hf_" + "a1B2" * 8
AUGMENTED = "{kind: augmented_image, mix: mixup, augment: [random_resized_crop, rand_augment]}"


class Huddle(Paint):
    """Paints as float sums do: what else is in the batch, and how much, moves every pixel a little."""

    weights: str = ""
    api_key: str = ""
    note: str = ""

    def open(self, device: str) -> OpenHuddle:
        return OpenHuddle(self.size, self.seconds)


class OpenHuddle(OpenPaint):
    def generate(self, seeds: Sequence[int], inputs: Sequence[Inputs]) -> list[np.ndarray]:
        return [(image // 4 + 8 * len(seeds) + sum(seeds) % 7).astype(np.uint8) for image in super().generate(seeds, inputs)]


def ids(dataset: Path) -> list[str]:
    return [name for file in sorted(dataset.rglob("*.parquet")) for name in pq.read_table(file)["id"].to_pylist()]


def moved(run_folder: Path, image_folder: Path, place: Path) -> tuple[Path, Path]:
    """The dataset alone, and the real images, both elsewhere; the run and the old place are gone."""
    dataset, real = shutil.copytree(run_folder / "dataset", place / "copy"), shutil.move(image_folder, place / "elsewhere")
    shutil.rmtree(run_folder)
    return Path(dataset), Path(real)


def test_every_image_of_a_run_is_made_again(
    write_recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run(write_recipe(condition=AUGMENTED, filters="[{kind: blank, min: 60}]"), tmp_path / "run")
    store = Store(tmp_path / "run")
    made = [row for shard in sorted(store.marked()) for row in store.read_shard(shard).to_pylist()]
    assert len(made) == report["generated"] > report["kept"]  # refused ones too
    for row in made[:: len(made) // 3]:
        code, out, _ = factory(monkeypatch, capsys, "replay", str(tmp_path / "run"), row["id"], "--device", "cpu", "--json")
        result = json.loads(out)
        assert code == 0 and result["identical"] and result["unlike"] == []
        assert (result["seed"], result["prompt"], result["parents"]) == (row["seed"], row["prompt"], row["parents"])
    code, _, err = factory(monkeypatch, capsys, "replay", str(tmp_path / "run"), "9-000000")
    assert code == 2 and "no image with the id '9-000000'" in err


@pytest.mark.parametrize(
    ("export", "lossless"),
    [
        ("{kind: parquet}", True),
        ("{kind: webdataset, image: jpeg, quality: 80}", False),
        ("{kind: folder, image: webp, quality: 100}", True),
    ],
)
def test_a_dataset_away_from_its_run_remakes_its_images(
    export: str,
    lossless: bool,
    write_recipe: Callable[..., Path],
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(write_recipe(export=export, condition=AUGMENTED), tmp_path / "run")
    dataset, real = moved(tmp_path / "run", image_folder, tmp_path)
    code, _, err = factory(monkeypatch, capsys, "replay", str(dataset), "1-000007", "--device", "cpu")
    assert code == 2 and "--source PATH" in err
    again = tmp_path / "again.png"
    code, out, err = factory(
        monkeypatch, capsys, "replay", str(dataset), "1-000007", "--source", str(real), "--out", str(again), "--device", "cpu"
    )
    assert code == 0 and out.startswith("identical: 1-000007") and ("after" in out) is not lossless, out + err
    stored = published.find(str(dataset), "1-000007")
    assert stored.row["id"] == "1-000007" and Image.open(again).size == (16, 16)
    assert np.array_equal(decode(stored.data), decode(again.read_bytes())) is lossless


def test_other_real_images_are_refused(write_recipe: Callable[..., Path], image_folder: Path, tmp_path: Path) -> None:
    run(write_recipe(), tmp_path / "run")
    dataset, real = moved(tmp_path / "run", image_folder, tmp_path)
    Image.new("RGB", (20, 24)).save(real / "finch" / "0.png")
    with pytest.raises(UserError, match="holds other real images than this dataset was made from: 12 images with fingerprint"):
        replay.run(str(dataset), "0-000000", str(real), device="cpu")


def test_a_changed_image_is_told(
    write_recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(write_recipe(export="{kind: folder}"), tmp_path / "run")
    dataset = shutil.copytree(tmp_path / "run" / "dataset", tmp_path / "copy")
    file = next(dataset.rglob("0-000003.png"))
    image = decode(file.read_bytes()).copy()
    image[2, 3, 1] ^= 4
    file.write_bytes(encode(image))
    lines = (dataset / "train" / "metadata.jsonl").read_text().splitlines()
    (file_of_plan,) = dataset.glob("provenance/*/plan.json")
    plan = json.loads(file_of_plan.read_text())
    plan["generators"][0]["torch"] = "1.0"
    file_of_plan.write_text(json.dumps(plan))
    tail = ["--source", str(tmp_path / "birds"), "--device", "cpu"]
    code, out, _ = factory(monkeypatch, capsys, "replay", str(dataset), "0-000003", *tail)
    assert code == 1 and out.startswith("different: 0-000003") and "differ by 4 of 255 at most" in out and "torch: 1.0 → " in out
    code, out, _ = factory(monkeypatch, capsys, "replay", str(dataset), "0-000003", *tail, "--tolerance", "4")
    assert code == 0 and out.startswith("matches")
    altered = [line.replace('"prompt": "', '"prompt": "not ') for line in lines]
    (dataset / "train" / "metadata.jsonl").write_text("\n".join(altered))
    code, _, err = factory(monkeypatch, capsys, "replay", str(dataset), "0-000003", *tail)
    assert code == 2 and "another prompt than is stored with it" in err


def test_what_was_drawn_for_the_condition_is_compared(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    run(write_recipe(export="{kind: folder}", condition=AUGMENTED), tmp_path / "run")
    lines = tmp_path / "run" / "dataset" / "train" / "metadata.jsonl"
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    drawn = json.loads(rows[0]["conditioning"])
    rows[0]["conditioning"] = json.dumps({**drawn, "lambda": 0.123}, sort_keys=True)
    lines.write_text("\n".join(map(json.dumps, rows)))
    dataset, source = str(tmp_path / "run" / "dataset"), str(tmp_path / "birds")
    (told,) = replay.run(dataset, rows[0]["id"], source, device="cpu")["unlike"]
    assert told.startswith("conditioning: ") and "0.123" in told
    assert replay.run(dataset, rows[1]["id"], source, device="cpu")["unlike"] == []


def test_the_batch_of_the_plan_is_made_unless_alone(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    run(write_recipe(generator="{kind: tests.test_replay.Huddle, batch: 4}"), tmp_path / "run")
    for name in ("0-000000", "1-000002", "0-000009"):  # the last is in a batch that its shard cuts short
        whole = replay.run(str(tmp_path / "run"), name, device="cpu")
        alone = replay.run(str(tmp_path / "run"), name, device="cpu", alone=True)
        assert whole["identical"] and whole["batch"]["size"] == whole["batch"]["planned"] > 1 == alone["batch"]["size"]
        assert not alone["match"] and alone["unlike"][0].startswith(f"batch: {whole['batch']['size']} → 1")


def test_a_dataset_is_read_from_any_file_system(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    run(write_recipe(), tmp_path / "run")
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "run" / "dataset"), "/published", recursive=True)
    try:
        assert replay.run("memory://published", "0-000001", str(tmp_path / "birds"), device="cpu")["identical"]
        with pytest.raises(UserError, match="there is no image with the id 'x' of plan"):
            published.find("memory://published", "x")
    finally:
        memory.rm("/published", recursive=True)
    with pytest.raises(UserError, match="there is no run and no dataset with its plan"):
        published.find(str(tmp_path / "birds"), "0-000001")


def test_a_copied_dataset_of_the_shipped_models_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    sets = ("amount={per_class: 1, rounds: 1}", "filters=[]", "generator.steps=2", "generator.batch=5", "shard=10", "threads=1")
    run(ROOT / "recipes" / "quickstart.yaml", tmp_path / "run", *sets)
    dataset = shutil.copytree(tmp_path / "run" / "dataset", tmp_path / "copy")
    models = ["generator[0].model=data/models/fashion-mnist"]
    result = replay.run(str(dataset), ids(dataset)[3], "data/fashion-mnist", models, device="cpu")
    assert result["identical"] and result["unlike"] == [] and result["batch"]["size"] == 5


# ---- what travels


def texts(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for one in value.values():
            yield from texts(one)
    elif isinstance(value, list):
        for one in value:
            yield from texts(one)
    elif isinstance(value, str):
        yield value


@pytest.mark.parametrize("export", ["{kind: parquet}", "{kind: webdataset}", "{kind: folder}"])
def test_no_local_path_and_no_key_reaches_the_dataset(export: str, write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    generator = (
        f"{{kind: tests.test_replay.Huddle, batch: 4, weights: {tmp_path}/models/paint.safetensors, api_key: {TOKEN[::-1]}, note: {TOKEN}}}"
    )
    run(write_recipe(export=export, generator=generator), tmp_path / "run")
    dataset = tmp_path / "run" / "dataset"
    secrets = [str(tmp_path), TOKEN, TOKEN[::-1]]
    assert all(secret in (tmp_path / "run" / "making.json").read_text() for secret in secrets)  # they were there to be kept back
    for file in dataset.rglob("*"):
        assert not file.is_file() or not any(secret.encode() in file.read_bytes() for secret in secrets), file
    cells = [cell for file in dataset.rglob("*.parquet") for cell in texts(pq.read_table(file).to_pylist())]
    assert not any(secret in cell for cell in cells for secret in secrets)
    (recipe_file,) = dataset.glob("provenance/*/recipe.yaml")
    read = recipes.load(recipe_file, [f"source.dataset={tmp_path}/birds"])
    assert read.generator[0].settings()["weights"] == "paint.safetensors" and read.condition.kind == "augmented_image"
    assert replay.run(str(dataset), "0-000000", str(tmp_path / "birds"), device="cpu")["identical"]


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ("C:\\Users\\ann\\birds", "birds"),
        ("transformers:/home/ann/dino", "transformers:dino"),
        ("zip://cat/1.png::file:///home/ann/cats.zip", "zip://cat/1.png::cats.zip"),
        ("https://ann:pass@example.org/a.tar?X-Signature=1", "https://example.org/a.tar"),
        (f"uses {TOKEN}", "uses (removed)"),
        ("timm:vit_small", "timm:vit_small"),
        ("a photo of a T-shirt/top, in/out", "a photo of a T-shirt/top, in/out"),
        ({"hf_token": "abc", "token": "<my-bird>", "n": 3, "in": ["/a/b/c"]}, {"token": "<my-bird>", "n": 3, "in": ["c"]}),
    ],
)
def test_what_strangers_see(value: object, seen: object) -> None:
    assert names.public(value)[0] == seen
