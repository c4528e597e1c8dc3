"""croissant.json is valid for mlcroissant, which reads the images, labels and columns back with it."""

import io
import json

import mlcroissant
import numpy as np
import pytest
from PIL import Image

from factory.contracts import DatasetInfo
from factory.exporters.folder import Folder
from factory.exporters.parquet import Parquet
from factory.exporters.webdataset import WebDataset
from tests.rows import COLUMNS, NAMES, make

BOXED = {**COLUMNS, "synthetic": "string", "boxes": "list<list<float32>>", "box_labels": "list<int64>", "mask": "image"}


@pytest.fixture(autouse=True)
def extracted(tmp_path, monkeypatch):
    """mlcroissant names what it unpacks by the archive's relative path, so that two datasets would share it."""
    from etils import epath
    from mlcroissant._src.operation_graph.operations import extract

    monkeypatch.setattr(extract, "EXTRACT_PATH", epath.Path(tmp_path / "extracted"))


def rows(count=5):
    for i, row in enumerate(make(count)):
        mask = io.BytesIO()
        Image.fromarray(np.full((8, 10), i, np.uint16)).save(mask, "PNG")
        yield {**row, "synthetic": "train", "boxes": [[0.0, 1.0, 2.5, 3.0]] * i, "box_labels": [1] * i, "mask": mask.getvalue()}


def read(folder):
    """All records; those of tars put together by the names of their files, which mlcroissant leaves to its users."""
    dataset = mlcroissant.Dataset(jsonld=str(folder / "croissant.json"))
    assert not dataset.metadata.issues.errors, dataset.metadata.issues.report()
    found = [{key.split("/")[1]: value for key, value in row.items()} for row in dataset.records("records")]
    if "json" not in found[0]:
        return found
    images = {text(row["pixels/file_name"]): row["pixels/image"] for row in dataset.records("pixels")}
    found = [json.loads(text(row["json"])) for row in found]
    return [{**row, "image": images[row["file_name"]]} for row in found]


def text(value):
    return value.decode() if isinstance(value, bytes) else value


@pytest.mark.parametrize("export", [Parquet(), Folder(), WebDataset(image="png")], ids=lambda export: export.kind)
@pytest.mark.parametrize("names", [["T-shirt/top", "Ж ключ", "a b"], []], ids=["classes", "unlabelled"])
def test_records_come_back(tmp_path, export, names):
    export.write(rows(), DatasetInfo("birds", names, BOXED, 5), tmp_path)
    found = sorted(read(tmp_path), key=lambda row: text(row["id"])[-2:])
    assert len(found) == 5
    for i, (row, made) in enumerate(zip(found, rows(), strict=True)):
        assert np.array_equal(np.asarray(row["image"].convert("RGB")), made["image"])
        assert all(text(row[key]) == made[key] for key in ("id", "prompt", "seed", "synthetic"))
        assert [text(one) for one in row["parents"]] == made["parents"]
        assert [list(box) for box in row["boxes"]] == made["boxes"] and list(row["box_labels"]) == made["box_labels"]
        assert row["clip_similarity"] is None if i == 4 else row["clip_similarity"] == pytest.approx(made["clip_similarity"])
        if names:
            assert text(row["label"]) == (made["label"] if export.kind == "parquet" else names[made["label"]])
        if export.kind == "parquet":
            assert np.asarray(row["mask"]).max() == i


@pytest.mark.parametrize("image", ["png", "webp", "jpeg"])
@pytest.mark.parametrize("kind", [Parquet, Folder, WebDataset])
def test_every_file_format_is_valid(tmp_path, kind, image):
    """mlcroissant itself cannot read WebP files, so that those are validated alone."""
    kind(image=image).write(rows(), DatasetInfo("birds", NAMES, BOXED, 5), tmp_path)
    if image != "webp" or kind is Parquet:
        assert read(tmp_path)[3]["image"].size == (10, 8)
    else:
        assert not mlcroissant.Dataset(jsonld=str(tmp_path / "croissant.json")).metadata.issues.errors


def test_several_tars_are_one_set_of_records(tmp_path):
    big = [{**row, "mask": None} for row in make(40, 120, 120)]
    WebDataset(image="png", shard_mb=1).write(big, DatasetInfo("x", NAMES, COLUMNS, 40), tmp_path)
    assert len(list((tmp_path / "data").iterdir())) > 1
    assert sorted(text(row["id"]) for row in read(tmp_path)) == sorted(row["id"] for row in big)
    sizes = {file["contentUrl"]: file["contentSize"] for file in json.loads((tmp_path / "croissant.json").read_text())["distribution"][:-2]}
    assert sizes == {f"data/{file.name}": f"{file.stat().st_size} B" for file in (tmp_path / "data").iterdir()}


@pytest.mark.parametrize("kind", [Parquet, Folder, WebDataset])
def test_it_can_be_left_out(tmp_path, kind):
    kind(croissant=False).write(make(2), DatasetInfo("x", NAMES, COLUMNS, 2), tmp_path)
    assert not (tmp_path / "croissant.json").exists()
