"""Exports are read back with the libraries that people use."""

import hashlib
import io
import itertools
import json
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from factory import kinds
from factory.contracts import DatasetInfo, Exporter
from factory.errors import Undecodable
from factory.exporters import _encode, _names
from factory.exporters import parquet as parquet_module
from factory.exporters._names import safe_names
from factory.exporters.coco import Coco
from factory.exporters.folder import Folder
from factory.exporters.parquet import Parquet
from factory.exporters.webdataset import WebDataset
from factory.exporters.yolo import Yolo
from factory.images import decode, encode
from factory.sources.folder import Folder as FolderSource
from factory.sources.parquet import Parquet as ParquetSource
from factory.sources.webdataset import WebDataset as WebDatasetSource
from tests.rows import ANNOTATED, COLUMNS, NAMES, annotated, digest, info, make


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


# ---- Parquet


def test_parquet_opens_with_load_dataset(tmp_path):
    Parquet().write(make(), info(), tmp_path / "out")
    data = datasets.load_dataset(str(tmp_path / "out"), split="train")
    assert len(data) == 30 and data.column_names == ["image", "label", *COLUMNS]
    assert isinstance(data.features["image"], datasets.Image) and data.features["label"].names == NAMES
    for row, made in zip(data, make(), strict=True):
        assert np.array_equal(np.asarray(row["image"]), made["image"])
        assert (row["id"], row["label"], row["seed"], row["prompt"], row["parents"]) == tuple(
            made[key] for key in ("id", "label", "seed", "prompt", "parents")
        )
        assert row["clip_similarity"] == pytest.approx(made["clip_similarity"], nan_ok=True)


def test_parquet_streams(tmp_path):
    Parquet().write(make(), info(), tmp_path / "out")
    data = datasets.load_dataset(str(tmp_path / "out"), split="train", streaming=True)
    rows = list(data)
    assert len(rows) == 30 and rows[5]["image"].size == (10, 8) and data.features["label"].names == NAMES


def test_parquet_is_cut_by_size_and_renamed_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_module, "GROUP_ROWS", 4)
    Parquet(shard_mb=1).write(make(30, 200, 200), info(), tmp_path / "out")
    files = sorted(path.name for path in (tmp_path / "out" / "data").iterdir())
    assert 4 <= len(files) <= 6 and files == [f"train-{i:05d}-of-{len(files):05d}.parquet" for i in range(len(files))]
    assert all(path.stat().st_size < 1.1 * 2**20 for path in (tmp_path / "out" / "data").iterdir())
    assert datasets.load_dataset(str(tmp_path / "out"), split="train")["seed"] == [2**62 + i for i in range(30)]
    groups = pq.ParquetFile(tmp_path / "out" / "data" / files[0]).metadata
    assert all(groups.row_group(i).num_rows <= 8 for i in range(groups.num_row_groups))


def chunks(folder, size=None):
    """Digest -> bytes of each data page (or of each file) of a Parquet export."""
    found = {}
    for file in sorted((folder / "data").iterdir()):
        data, reader = file.read_bytes(), pq.ParquetFile(file)
        if size == "files":
            found[hashlib.sha256(data).hexdigest()] = len(data)
            continue
        for group in range(reader.num_row_groups):
            for column in range(reader.metadata.num_columns):
                part = reader.metadata.row_group(group).column(column)
                start = part.dictionary_page_offset or part.data_page_offset
                found[hashlib.sha256(data[start : start + part.total_compressed_size]).hexdigest()] = part.total_compressed_size
    return found


@pytest.mark.parametrize("dropped", [[0], [1500], [40, 700, 701, 1400]])
def test_dropping_rows_leaves_most_bytes_of_a_parquet_export_as_they_were(tmp_path, dropped):
    rows = list(make(2000, 24, 24))
    Parquet(shard_mb=1).write(rows, info(), tmp_path / "old")
    Parquet(shard_mb=1).write([row for i, row in enumerate(rows) if i not in dropped], info(), tmp_path / "new")
    few = len(dropped) == 1  # each place where rows are missing costs the group it was in, and seldom more than the next
    for what, least in (("files", 0.5 if few else 0), ("column chunks", 0.7 if few else 0.6)):
        old, new = chunks(tmp_path / "old", what), chunks(tmp_path / "new", what)
        same = sum(size for digest, size in new.items() if digest in old)
        assert same >= least * sum(new.values()), f"of {what} only {same / sum(new.values()):.0%} are as they were"


def test_parquet_says_that_its_chunks_follow_the_content(tmp_path):
    Parquet().write(make(), info(), tmp_path / "out")
    (file,) = (tmp_path / "out" / "data").iterdir()
    assert json.loads(pq.read_metadata(file).metadata[b"content_defined_chunking"]) == parquet_module.CHUNKS
    assert datasets.Features.from_arrow_schema(pq.read_schema(file))["label"].names == NAMES


@pytest.mark.parametrize(("image", "quality", "exact"), [("png", 95, True), ("webp", 100, True), ("webp", 80, False), ("jpeg", 95, False)])
def test_image_formats(tmp_path, image, quality, exact):
    smooth = [{**row, "image": np.full((32, 32, 3), 5 * i, np.uint8)} for i, row in enumerate(make(3))]
    Parquet(image=image, quality=quality).write(smooth, info(), tmp_path / "out")
    data = datasets.load_dataset(str(tmp_path / "out"), split="train").with_format("arrow")[:]["image"].to_pylist()
    for cell, row in zip(data, smooth, strict=True):
        error = np.abs(decode(cell["bytes"]).astype(int) - row["image"]).max()
        assert error == 0 if exact else error < 12
        assert cell["path"] == f"{row['id']}.{'jpg' if image == 'jpeg' else image}"


def test_parquet_without_labels_or_rows(tmp_path):
    Parquet().write(make(5, labels=[]), info([]), tmp_path / "out")
    assert "label" not in datasets.load_dataset(str(tmp_path / "out"), split="train").column_names
    Parquet().write([], info(rows=0), tmp_path / "none")
    assert pq.read_table(tmp_path / "none" / "data" / "train-00000-of-00001.parquet").num_rows == 0


def test_unlabelled_rows_of_a_labelled_dataset_are_null(tmp_path):
    Parquet().write([{**row, "label": -1} if i == 1 else row for i, row in enumerate(make(3))], info(), tmp_path / "out")
    assert datasets.load_dataset(str(tmp_path / "out"), split="train")["label"] == [0, None, 2]


def test_parquet_fails_cleanly(tmp_path):
    def broken():
        yield from make(5)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError):
        Parquet().write(broken(), info(), tmp_path / "out")
    assert list((tmp_path / "out" / "data").iterdir()) == []
    with pytest.raises(ValueError, match="'seed' has type 'int8'"):
        Parquet().write([], DatasetInfo("x", [], {"seed": "int8"}, 0), tmp_path / "bad")


def test_what_is_exported_can_be_a_source(tmp_path):
    Parquet().write(make(), info(), tmp_path / "p")
    Folder().write(make(), info(), tmp_path / "f")
    for source in (ParquetSource(dataset=str(tmp_path / "p")), FolderSource(dataset=str(tmp_path / "f"))):
        table = source.open()
        assert len(table) == 30 and sorted(table.class_names) == sorted(NAMES)
        assert table.class_names[table.labels[0]] == NAMES[0] and np.array_equal(table.read(0).image, next(make())["image"])


# ---- annotations


def test_parquet_keeps_annotations(tmp_path):
    Parquet().write(annotated(), DatasetInfo("x", NAMES, ANNOTATED, 4), tmp_path / "out")
    data = datasets.load_dataset(str(tmp_path / "out"), split="train")
    assert data[1]["soft_label"] == [0.25, 0.75, 0] and data[3]["boxes"] == [[0, 1, 2, 3]] * 3 and data[3]["box_labels"] == [0, 1, 2]
    assert np.asarray(data[3]["mask"]).max() == 3 and data[2]["mask"] is None
    fields = {"soft_label": "soft_label", "mask": "mask", "boxes": "boxes", "box_labels": "box_labels", "classes": None}
    notes = ParquetSource(dataset=str(tmp_path / "out"), **fields).open().read(3).annotations
    assert notes.boxes.shape == (3, 4) and notes.mask.max() == 3


def test_folder_keeps_masks_apart_from_the_images(tmp_path):
    from torchvision.datasets import ImageFolder

    Folder().write(annotated(), DatasetInfo("x", NAMES, ANNOTATED, 4), tmp_path / "out")
    data = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "out"))
    assert list(data) == ["train"] and len(data["train"]) == len(ImageFolder(tmp_path / "out" / "train")) == 4
    row = data["train"][3]
    assert row["boxes"] == [[0, 1, 2, 3]] * 3 and row["mask"] == "mask/T-shirt-top/0-000003.png" and data["train"][2]["mask"] is None
    assert decode((tmp_path / "out" / row["mask"]).read_bytes()).max() == 3


# ---- folders


def test_folder_opens_with_datasets(tmp_path):
    Folder().write(make(), info(), tmp_path / "out")
    for data in (
        datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "out")),
        datasets.load_dataset(str(tmp_path / "out")),
    ):
        assert list(data) == ["train"], "a class called train makes no split"
        for row, made in itertools.zip_longest(data["train"], make()):
            assert np.array_equal(np.asarray(row["image"]), made["image"])
            assert (row["label"], row["id"], row["seed"]) == (NAMES[made["label"]], made["id"], made["seed"])
            assert row["parents"] == made["parents"] and (row["clip_similarity"] is None) == (
                made["id"].endswith("4") and made["seed"] == 2**62 + 4
            )


def test_folder_opens_with_torchvision(tmp_path):
    from torchvision.datasets import ImageFolder

    Folder(image="webp", quality=100).write(make(), info(), tmp_path / "out")
    data = ImageFolder(tmp_path / "out" / "train")
    assert len(data) == 30 and data.classes == sorted(safe_names(NAMES))
    assert all(sum(target == c for _, target in data.samples) == 10 for c in range(3))
    assert data[0][0].size == (10, 8)


def test_folders_stay_small(tmp_path, monkeypatch):
    from torchvision.datasets import ImageFolder

    monkeypatch.setattr(_names, "FILES_PER_FOLDER", 4)
    Folder().write(make(), info(), tmp_path / "out")
    assert all(sum(path.is_file() for path in place.iterdir()) <= 4 for place in (tmp_path / "out" / "train").rglob("*") if place.is_dir())
    assert len(ImageFolder(tmp_path / "out" / "train")) == len(datasets.load_dataset(str(tmp_path / "out"), split="train")) == 30


def test_folder_unlabelled(tmp_path):
    Folder().write(make(labels=[]), info([]), tmp_path / "out")
    data = datasets.load_dataset(str(tmp_path / "out"), split="train")
    assert len(data) == 30 and "label" not in data.column_names


def test_folder_refuses_two_rows_of_one_id(tmp_path):
    with pytest.raises(FileExistsError):
        Folder().write([*make(2), *make(2)], info(), tmp_path / "out")


def test_safe_names():
    assert safe_names(["T-shirt/top", "T-shirt:top", "t-shirt-TOP"]) == ["T-shirt-top", "T-shirt-top~2", "t-shirt-TOP~3"]
    assert safe_names(["train", "rapid test tube", "dev_board", "trainer", "contest"]) == [
        "=train",
        "rapid =test tube",
        "=dev_board",
        "trainer",
        "contest",
    ]
    assert safe_names([".hidden", "__x", "", "..", "a" * 500, "Ä ö", "images"])[:4] == ["hidden", "_x", "_", "_~2"]
    assert len(safe_names(["a" * 500])[0]) == 120


@pytest.mark.parametrize("names", [["rapid test tube", "dev-board"], ["validation 2", "x.test"]])
def test_split_words_in_class_names_make_no_splits(tmp_path, names):
    Folder().write(make(6, labels=names), info(names), tmp_path / "out")
    assert list(datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "out"))) == ["train"]


# ---- any export

ALL = [Parquet(), Folder(), WebDataset(), Coco(), Yolo()]
BOXED = DatasetInfo("x", ["T-shirt/top", "Ж ключ", "a\nb: c"], {**COLUMNS, "synthetic": "string", "boxes": "list<list<float32>>"}, 30)
named = pytest.mark.parametrize("export", ALL, ids=lambda export: export.kind)


def boxed(count=30, height=8, width=10):
    return ({**row, "boxes": [[1.0, 1.0, 5.0, 5.5]], "synthetic": "train"} for row in make(count, height, width))


def stored(export, folder, info=BOXED):
    """The files of the images and the other columns of an export, as `datasets` reads it."""
    data = datasets.load_dataset(str(folder), data_files={"x": export.data_files(info.split)}, split="x")
    name = next(name for name, feature in data.features.items() if isinstance(feature, datasets.Image))
    rows = list(data.cast_column(name, datasets.Image(decode=False)))
    files = [row[name]["bytes"] or Path(row[name]["path"]).read_bytes() for row in rows]
    return files, [row.get("json", row) for row in rows]


@named
def test_every_export_is_found_by_name_and_read_by_datasets(tmp_path, export):
    assert type(export) is kinds.find("exporters", export.kind, Exporter)
    export.write(boxed(), BOXED, tmp_path / "out")
    files, rows = stored(export, tmp_path / "out")
    assert [decode(data).shape for data in files] == [(8, 10, 3)] * 30
    for row, made in zip(rows, boxed(), strict=True):
        assert all(row[key] == made[key] for key in ("id", "seed", "prompt", "parents", "synthetic", "boxes"))


@named
def test_equal_rows_give_equal_bytes(tmp_path, export):
    export.write(boxed(), BOXED, tmp_path / "a")
    export.write(boxed(), BOXED, tmp_path / "b")
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


@named
def test_every_export_streams_its_input(tmp_path, monkeypatch, export):
    """A writer never holds more rows than its queue and a row group."""
    monkeypatch.setattr(parquet_module, "GROUP_ROWS", 10)
    alive, most = 0, 0

    class Counted(dict):
        def __init__(self, row):
            nonlocal alive, most
            super().__init__(row)
            alive += 1
            most = max(most, alive)

        def __del__(self):
            nonlocal alive
            alive -= 1

    export.write((Counted(row) for row in boxed(300)), BOXED, tmp_path / "out")
    assert most < 60


@named
def test_rows_may_bring_their_files_alone(tmp_path, export):
    """Grey, odd-sized files in the wanted format are passed on byte for byte, whatever their ids are."""
    ids = ["a/b.jpg", "a-b.jpg", "..", "ü ?*", "test-00001", "v1.2/train/x"]
    files = [encode(np.full((7 + i, 1 + i, 3), 9 * i, np.uint8), "jpeg", 40) for i in range(len(ids))]
    grey = io.BytesIO()
    Image.fromarray(np.full((3, 5), 77, np.uint8)).save(grey, "JPEG", quality=31)
    files[2] = grey.getvalue()
    rows = [{"id": name, "bytes": data, "label": 0, "boxes": []} for name, data in zip(ids, files, strict=True)]
    info = DatasetInfo("x", NAMES, {"id": "string", "boxes": "list<list<float32>>"}, len(ids))
    export.model_copy(update={"image": "jpeg"}).write(rows, info, tmp_path / "out")
    found, columns = stored(export, tmp_path / "out", info)
    assert dict(zip((row["id"] for row in columns), found, strict=True)) == dict(zip(ids, files, strict=True))


@named
def test_one_row(tmp_path, export):
    export.write(boxed(1, 1, 1), BOXED, tmp_path / "out")
    files, rows = stored(export, tmp_path / "out")
    assert len(files) == 1 and rows[0]["id"] == "0-000000"


def test_only_plain_files_are_passed_on():
    image = np.zeros((4, 6, 3), np.uint8)
    turned, moving = io.BytesIO(), io.BytesIO()
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(image).save(turned, "JPEG", exif=exif)
    Image.fromarray(image).save(moving, "WEBP", save_all=True, append_images=[Image.fromarray(image + 9)], duration=50)
    rows = [{"bytes": encode(image, "png")}, {"bytes": turned.getvalue()}, {"bytes": turned.getvalue(), "image": image}]
    out = [data for _, data in _encode.encoded(rows, "jpeg", 90)]
    assert [_encode.size(data) for data in out] == [(4, 6), (6, 4), (4, 6)] and all(data[:2] == b"\xff\xd8" for data in out)
    ((_, still),) = _encode.encoded([{"bytes": moving.getvalue()}], "webp", 90)
    assert Image.open(io.BytesIO(still)).n_frames == 1
    with pytest.raises(Undecodable):
        list(_encode.encoded([{"bytes": b"no image"}], "png", 90))


# ---- WebDataset


def tar_of(folder):
    return sorted(str(path) for path in (folder / "data").iterdir())


def test_webdataset_is_read_by_webdataset(tmp_path):
    columns = {**COLUMNS, "boxes": "list<list<float32>>", "mask": "image"}
    rows = [{**row, **notes} for row, notes in zip(make(4), ({k: r[k] for k in ("boxes", "mask")} for r in annotated()), strict=True)]
    WebDataset(image="png").write(rows, DatasetInfo("x", NAMES, columns, 4), tmp_path)
    samples = list(webdataset.WebDataset(tar_of(tmp_path), shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in samples] == [row["id"] for row in rows]
    for sample, made in zip(samples, rows, strict=True):
        assert np.array_equal(sample["png"], made["image"]) and sample["cls"] == made["label"] and sample["txt"] == made["prompt"]
        assert sample["json"]["label"] == NAMES[made["label"]] and sample["json"]["seed"] == made["seed"]
        assert sample["json"]["boxes"] == made["boxes"] and sample["json"]["mask"] == ("mask.png" if made["mask"] else None)
        assert sample["mask.png"].max() == (0 if made["mask"] is None else decode(made["mask"]).max())


def test_webdataset_streams_and_is_a_source(tmp_path):
    WebDataset(image="png").write(make(), info(), tmp_path / "out")
    rows = list(datasets.load_dataset("webdataset", data_files=tar_of(tmp_path / "out"), split="train", streaming=True))
    assert len(rows) == 30 and rows[5]["png"].size == (10, 8) and rows[4]["json"]["clip_similarity"] is None
    table = WebDatasetSource(dataset=str(tmp_path / "out"), caption="txt").open()
    assert len(table) == 30 and np.array_equal(table.read(7).image, list(make())[7]["image"]) and table.captions[7] == "a “7”"


def test_webdataset_is_cut_by_size_and_tells_nothing_of_its_maker(tmp_path):
    rows = list(make(500, 40, 40))
    WebDataset(image="png", shard_mb=1).write(rows, info(), tmp_path / "a")
    WebDataset(image="png", shard_mb=1).write(rows[1:], info(), tmp_path / "b")
    files = tar_of(tmp_path / "a")
    assert [Path(file).name for file in files] == [f"train-{i:05d}.tar" for i in range(len(files))] and 4 <= len(files) <= 6
    assert all(Path(file).stat().st_size <= 1 << 20 for file in files)
    for file in files:
        with tarfile.open(file) as tar:
            assert all((m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) == (0, 0, 0, "", "", 0o644) for m in tar)
    same = {value for _, value in digest(tmp_path / "a")} & {value for _, value in digest(tmp_path / "b")}
    assert len(same) >= len(files) - 2, "a dropped row changes the files near it"


def test_webdataset_without_labels_or_rows(tmp_path):
    WebDataset().write(make(3, labels=[]), info([]), tmp_path / "plain")
    assert all("cls" not in sample for sample in webdataset.WebDataset(tar_of(tmp_path / "plain"), shardshuffle=False))
    WebDataset().write([{**row, "label": None} if i == 1 else row for i, row in enumerate(make(3))], info(), tmp_path / "some")
    data = datasets.load_dataset(str(tmp_path / "some"), split="train")
    assert data["cls"] == [0, -1, 2] and [row["label"] for row in data["json"]] == [NAMES[0], None, NAMES[2]]
    WebDataset().write([], info(rows=0), tmp_path / "none")
    assert list(webdataset.WebDataset(tar_of(tmp_path / "none"), shardshuffle=False, empty_check=False)) == []


def test_webdataset_refuses_two_rows_of_one_id_and_fails_cleanly(tmp_path):
    with pytest.raises(ValueError, match="two rows have the id '0-000000'"):
        WebDataset().write([*make(2), *make(2)], info(), tmp_path)
    assert tar_of(tmp_path) == []
