"""Sources: every kind gives the same table; mistakes name what there is; damage waits until it is read."""

import io
import json
import shutil
import tarfile

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import ValidationError

from factory import kinds, sources
from factory.contracts import Source
from factory.errors import Undecodable, UserError
from factory.evaluate import sets
from factory.sources import _content
from factory.sources.folder import Folder
from factory.sources.hub import Hub
from factory.sources.parquet import Parquet
from factory.sources.webdataset import WebDataset

CLASSES = ("cat", "dog", "T-shirt/top")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Each test has its own `datasets` cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def png(value: int, mode="RGB") -> bytes:
    out = io.BytesIO()
    Image.new(mode, (6, 4), value if mode != "RGB" else (value, 0, 0)).save(out, "PNG")
    return out.getvalue()


def rows(count=12) -> list[dict]:
    return [{"image": {"bytes": png(i), "path": None}, "label": i % 3} for i in range(count)]


def write_parquet(path, data, **features):
    path.parent.mkdir(parents=True, exist_ok=True)
    known = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES)), **features}
    columns = {name: known.get(name) for name in data[0]}
    schema = datasets.Features({name: feature for name, feature in columns.items() if feature is not None})
    datasets.Dataset.from_list(data, features=schema if len(schema) == len(columns) else None).to_parquet(path)
    return str(path)


def write_folder(base, count=12, classes=("cat", "dog")):
    for i in range(count):
        file = base / classes[i % len(classes)] / f"{i:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(i))
    return base


# ---- parquet, and what all kinds share


def test_parquet_reads_rows(tmp_path):
    table = Parquet(dataset=write_parquet(tmp_path / "a.parquet", rows())).open()
    assert len(table) == 12 and table.class_names == list(CLASSES) and table.captions is None
    assert table.labels.dtype == np.int32 and table.labels.tolist() == [i % 3 for i in range(12)]
    example = table.read(7)
    assert example.image.shape == (4, 6, 3) and example.image[0, 0].tolist() == [7, 0, 0]
    assert (example.index, example.label, example.key) == (7, 1, _content.digests([png(7)])[0])


def test_fingerprint_follows_content_and_not_place(tmp_path):
    first = write_parquet(tmp_path / "a.parquet", rows())
    moved = write_parquet(tmp_path / "x" / "b.parquet", rows())
    other = write_parquet(tmp_path / "c.parquet", [*rows()[:-1], {"image": {"bytes": png(99), "path": None}, "label": 2}])
    relabelled = write_parquet(tmp_path / "d.parquet", [{**row, "label": 2 - row["label"]} for row in rows()])
    prints = [Parquet(dataset=path).open().fingerprint for path in (first, first, moved, other, relabelled)]
    assert prints[0] == prints[1] == prints[2] and len({*prints}) == 3


def test_shots_are_drawn_by_seed_and_nested(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", rows(60))

    def keys(**fields):
        table = Parquet(dataset=path, **fields).open()
        return [table.read(i).key for i in range(len(table))], np.bincount(table.labels).tolist()

    assert keys(shots=4) == keys(shots=4) and keys(shots=4)[1] == [4, 4, 4]
    assert keys(shots=4)[0] != keys(shots=4, seed=1)[0]
    assert len(set(keys(shots=16)[0])) == 48, "without replacement"
    assert set(keys(shots=4)[0]) < set(keys(shots=16)[0]), "fewer shots of the same seed are among the more"
    assert set(keys(shots=4, classes=["dog"])[0]) < set(keys(shots=4)[0]), "classes do not change the draw"


def test_too_few_images_for_the_shots_is_said(tmp_path, caplog):
    assert len(Parquet(dataset=write_parquet(tmp_path / "a.parquet", rows(6)), shots=5).open()) == 6
    assert "fewer than 5 shots" in caplog.text


def test_classes(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", rows())
    table = Parquet(dataset=path, classes=["T-shirt/top", "cat"]).open()
    assert table.class_names == ["cat", "T-shirt/top"] and table.labels.tolist() == [0, 1] * 4
    with pytest.raises(UserError, match="no class 'T-shirt'; did you mean 'T-shirt/top'"):
        Parquet(dataset=path, classes=["T-shirt"]).open()
    few = write_parquet(tmp_path / "b.parquet", rows(2))
    with pytest.raises(UserError, match="'T-shirt/top' has no image"):
        Parquet(dataset=few).open()
    assert len(Parquet(dataset=few, classes=["cat", "dog"]).open()) == 2


@pytest.mark.parametrize(
    ("values", "fields", "names", "labels"),
    [
        ([3, 10, 3, 20], {}, ["3", "10", "20"], [0, 1, 0, 2]),
        ([0, 1, -1, 1], {"class_names": ["a", "b"]}, ["a", "b"], [0, 1, -1, 1]),
        (["b", "a", None, ""], {}, ["a", "b"], [1, 0, -1, -1]),
        (["b", "a", "b", "a"], {"class_names": ["b", "a"]}, ["b", "a"], [0, 1, 0, 1]),
        ([1.0, None, 0.0, 1.0], {}, ["0", "1"], [1, -1, 0, 1]),
        ([True, False, True, False], {}, ["0", "1"], [1, 0, 1, 0]),
    ],
)
def test_label_columns(tmp_path, values, fields, names, labels):
    data = [{"image": png(i), "label": value} for i, value in enumerate(values)]
    pq.write_table(pa.Table.from_pylist(data), tmp_path / "a.parquet")
    table = Parquet(dataset=str(tmp_path / "a.parquet"), **fields).open()
    assert table.class_names == names and table.labels.tolist() == labels
    assert table.read(0).image.shape == (4, 6, 3), "an image column may be plain bytes"


@pytest.mark.parametrize(
    ("values", "fields", "message"),
    [
        ([0, 3], {"class_names": ["a", "b"]}, "label 3 has no name"),
        (["a", "bb"], {"class_names": ["a", "b"]}, "'bb' is not in class_names; did you mean 'b'"),
        ([0.5, 1.0], {}, "whole numbers or text"),
        ([[0, 1], [1, 0]], {}, "soft_label"),
    ],
)
def test_label_mistakes(tmp_path, values, fields, message):
    pq.write_table(pa.Table.from_pylist([{"image": png(i), "label": v} for i, v in enumerate(values)]), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=message):
        Parquet(dataset=str(tmp_path / "a.parquet"), **fields).open()


def test_missing_columns_name_what_there_is(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", rows())
    with pytest.raises(UserError, match=r"no column 'labels' for `label`; did you mean 'label'.*image, label.*label: null"):
        Parquet(dataset=path, label="labels").open()
    with pytest.raises(UserError, match=r"no column 'img' for `image`.*there are: image, label"):
        Parquet(dataset=path, image="img").open()
    with pytest.raises(ValidationError, match="need a label"):
        Parquet(dataset=path, label=None, shots=3)


def test_unlabelled(tmp_path):
    table = Parquet(dataset=write_parquet(tmp_path / "a.parquet", rows()), label=None).open()
    assert table.class_names == [] and set(table.labels.tolist()) == {-1} and table.read(3).label == -1


def test_captions_soft_labels_masks_and_boxes(tmp_path):
    data = [
        {
            "image": {"bytes": png(i), "path": None},
            "label": i % 3,
            "caption": [f"number {i}", "again"],
            "soft": [0, 2, 2],
            "mask": {"bytes": png(i, "L"), "path": None},
            "objects": {"bbox": [[1, 1, 2, 3], [0, 0, 6, 4]], "category": [5, i]},
        }
        for i in range(3)
    ]
    path = write_parquet(tmp_path / "a.parquet", data)
    fields = {"caption": "caption", "soft_label": "soft", "mask": "mask", "boxes": "objects.bbox", "box_labels": "objects.category"}
    table = Parquet(dataset=path, **fields, box_format="xywh").open()
    assert table.captions == ["number 0", "number 1", "number 2"]
    example = table.read(2)
    assert example.caption == "number 2" and example.soft_label.tolist() == [0, 0.5, 0.5]
    notes = example.annotations
    assert notes.boxes.tolist() == [[1, 1, 3, 4], [0, 0, 6, 4]] and notes.box_labels.tolist() == [5, 2]
    assert notes.mask.dtype == np.int32 and notes.mask.shape == (4, 6) and set(notes.mask.flat) == {2}
    assert Parquet(dataset=path, **fields).open().read(0).annotations.boxes[0].tolist() == [1, 1, 2, 3]
    with pytest.raises(UserError, match=r"objects\.bbox, objects\.category"):
        Parquet(dataset=path, boxes="objects.box").open()
    assert Parquet(dataset=path).open().fingerprint != table.fingerprint, "captions steer images, so they are part of the identity"


def test_sixteen_bit_masks_keep_their_numbers_and_wrong_sizes_are_undecodable():
    out = io.BytesIO()
    Image.fromarray(np.full((4, 6), 40_000, np.uint16)).save(out, "PNG")
    assert _content.mask(out.getvalue(), (4, 6)).max() == 40_000
    with pytest.raises(Undecodable, match="its image"):
        _content.mask(out.getvalue(), (6, 4))
    with pytest.raises(Undecodable, match="colour"):
        _content.mask(png(3), (4, 6))


def test_folder_of_parquet_has_splits(tmp_path):
    write_parquet(tmp_path / "d" / "train-00000-of-00002.parquet", rows(6))
    write_parquet(tmp_path / "d" / "train-00001-of-00002.parquet", rows(9))
    write_parquet(tmp_path / "d" / "validation-00000-of-00001.parquet", rows(3))
    assert len(Parquet(dataset=str(tmp_path / "d")).open()) == 15
    assert len(Parquet(dataset=str(tmp_path / "d"), split="validation").open()) == 3
    assert len(Parquet(dataset=str(tmp_path / "d"), split="train[:5]", classes=["cat"]).open()) == 2
    assert len(Parquet(dataset=str(tmp_path / "d" / "train-*.parquet"), split="anything").open()) == 15
    with pytest.raises(UserError, match="test"):
        Parquet(dataset=str(tmp_path / "d"), split="test").open()
    with pytest.raises(UserError, match=f"nothing at {tmp_path}/d/none"):
        Parquet(dataset=str(tmp_path / "d" / "none*.parquet")).open()


def test_parquet_names_images_beside_it(tmp_path, monkeypatch):
    (tmp_path / "set" / "test images").mkdir(parents=True)
    for i in range(3):
        (tmp_path / "set" / "test images" / f"{i}.png").write_bytes(png(i))
    for split, numbers in (("train", [0, 1]), ("val", [2])):
        named = {"image": [f"test images/{i}.png" for i in numbers], "label": ["cat"] * len(numbers)}
        pq.write_table(pa.table(named), tmp_path / "set" / f"{split}.parquet")
    assert sources.infer(str(tmp_path / "set")) == "parquet"
    table = Parquet(dataset=str(tmp_path / "set")).open()
    assert [table.read(i).image[0, 0, 0] for i in range(2)] == [0, 1]
    assert Parquet(dataset=str(tmp_path / "set"), split="validation").open().read(0).image[0, 0, 0] == 2
    (tmp_path / "set").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    assert Parquet(dataset="train.parquet").open().fingerprint == table.fingerprint


def test_a_file_that_is_no_parquet(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"not at all")
    with pytest.raises(UserError, match=r"a\.parquet"):
        Parquet(dataset=str(tmp_path / "a.parquet")).open()


# ---- folders


def test_folder_classes(tmp_path):
    table = Folder(dataset=str(write_folder(tmp_path / "birds"))).open()
    assert table.class_names == ["cat", "dog"] and np.bincount(table.labels).tolist() == [6, 6]
    example = table.read(0)
    assert example.image.shape == (4, 6, 3) and example.label == 0


def test_folder_moves_without_a_new_fingerprint(tmp_path, monkeypatch):
    before = Folder(dataset=str(write_folder(tmp_path / "a"))).open().fingerprint
    shutil.copytree(tmp_path / "a", tmp_path / "other" / "b")
    monkeypatch.chdir(tmp_path / "other")
    assert Folder(dataset="b").open().fingerprint == before
    monkeypatch.setattr(_content, "HASH_FILES_UP_TO", 5)
    large = [Folder(dataset=str(path)).open().fingerprint for path in (tmp_path / "a", tmp_path / "other" / "b")]
    assert large[0] == large[1] != before
    (tmp_path / "a" / "cat" / "000.png").write_bytes(png(0) + b"more")
    assert Folder(dataset=str(tmp_path / "a")).open().fingerprint != large[0]


def test_folder_splits_and_awkward_class_names(tmp_path):
    write_folder(tmp_path / "s" / "train", 8)
    write_folder(tmp_path / "s" / "val", 4)
    assert len(Folder(dataset=str(tmp_path / "s")).open()) == 8
    assert len(Folder(dataset=str(tmp_path / "s"), split="validation").open()) == 4
    with pytest.raises(UserError, match="there are: train, val"):
        Folder(dataset=str(tmp_path / "s"), split="test").open()
    table = Folder(dataset=str(write_folder(tmp_path / "t", 9, ("train", "test tube", "dev")))).open()
    assert table.class_names == ["dev", "test tube", "train"] and len(table) == 9, "a class may be called like a split"
    with pytest.raises(UserError, match="one split, train"):
        Folder(dataset=str(tmp_path / "t"), split="test").open()


def test_one_class_and_deeper_folders(tmp_path):
    for i in range(4):
        file = tmp_path / "one" / "cat" / f"part{i % 2}" / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(i))
    assert Folder(dataset=str(tmp_path / "one")).open().class_names == ["cat"]


def test_a_class_folder_without_images_is_told(tmp_path, caplog):
    write_folder(tmp_path / "set")
    (tmp_path / "set" / "bird").mkdir()
    assert Folder(dataset=str(tmp_path / "set")).open().class_names == ["cat", "dog"]
    assert "the folder 'bird' holds no image" in caplog.text


def test_a_folder_of_coco_is_not_one_class(tmp_path):
    write_folder(tmp_path, classes=("train2017",))
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train2017.json").write_text("{}")
    with pytest.raises(UserError, match=r"laid out as COCO: .* write a metadata\.jsonl"):
        Folder(dataset=str(tmp_path)).open()


def test_flat_folder_needs_label_null(tmp_path):
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.png").write_bytes(png(1))
    with pytest.raises(UserError, match="label: null"):
        Folder(dataset=str(tmp_path / "flat")).open()
    assert len(Folder(dataset=str(tmp_path / "flat"), label=None).open()) == 1


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_metadata(tmp_path, suffix):
    base = tmp_path / "m"
    (base / "files").mkdir(parents=True)
    for i in range(4):
        (base / "files" / f"{i}.png").write_bytes(png(i))
    lines = [{"file_name": f"files/{i}.png", "label": "ab"[i % 2], "caption": f"c{i}"} for i in range(4)]
    if suffix == "csv":
        text = "file_name,label,caption\n" + "\n".join(",".join(line.values()) for line in lines)
    else:
        text = "\n".join(map(json.dumps, lines))
    (base / f"metadata.{suffix}").write_text(text)
    table = Folder(dataset=str(base), caption="caption").open()
    assert table.class_names == ["a", "b"] and table.captions == ["c0", "c1", "c2", "c3"]
    assert table.read(3).image[0, 0, 0] == 3


def test_damage_waits_until_it_is_read(tmp_path):
    base = write_folder(tmp_path / "d", 6)
    (base / "cat" / "000.png").write_bytes(png(0)[:40])
    (base / "cat" / "002.png").write_bytes(b"")
    table = Folder(dataset=str(base)).open()
    assert len(table) == 6
    for index in (0, 1):
        with pytest.raises(Undecodable):
            table.read(index)
    assert table.read(2).image.shape == (4, 6, 3)
    (base / "cat" / "004.png").unlink()
    with pytest.raises(Undecodable, match="cannot read the file"):
        table.read(2)


def test_no_bytes_is_undecodable(tmp_path):
    data = [{"image": png(0), "label": 0}, {"image": None, "label": 1}]
    pq.write_table(pa.Table.from_pylist(data), tmp_path / "a.parquet")
    table = Parquet(dataset=str(tmp_path / "a.parquet")).open()
    with pytest.raises(Undecodable, match="no image"):
        table.read(1)


# ---- tars


def write_tar(path, count=6):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for i in range(count):
            for suffix, data in (("png", png(i)), ("cls", str(i % 2).encode()), ("json", json.dumps({"caption": f"c{i}"}).encode())):
                info = tarfile.TarInfo(f"{i:04d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return str(path)


def test_webdataset(tmp_path):
    source = WebDataset(dataset=write_tar(tmp_path / "a.tar"), class_names=["even", "odd"], caption="json.caption")
    table = source.open()
    assert table.class_names == ["even", "odd"] and table.labels.tolist() == [0, 1] * 3 and table.captions[4] == "c4"
    assert table.read(4).image[0, 0, 0] == 4
    stored = {key: value for key, value in source.settings().items() if key != "kind"}
    assert WebDataset(**stored).open().fingerprint == table.fingerprint
    assert (
        table.fingerprint
        == WebDataset(dataset=str(tmp_path / "*.tar"), image="png", class_names=["even", "odd"], caption="json.caption").open().fingerprint
    )


def test_webdataset_folder_and_mistakes(tmp_path):
    write_tar(tmp_path / "w" / "train-000.tar")
    write_tar(tmp_path / "w" / "test-000.tar", 2)
    assert len(WebDataset(dataset=str(tmp_path / "w"), split="test").open()) == 2
    with pytest.raises(UserError, match=r"no column 'jpg'.*png"):
        WebDataset(dataset=str(tmp_path / "w"), image="jpg").open()


# ---- saved datasets, and telling kinds apart


def test_saved_to_disk(tmp_path):
    data = datasets.load_dataset("parquet", data_files=write_parquet(tmp_path / "a.parquet", rows()), split="train")
    data.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": data, "test": data.select(range(3))}).save_to_disk(tmp_path / "many")
    assert Hub(dataset=str(tmp_path / "one")).open().fingerprint == Parquet(dataset=str(tmp_path / "a.parquet")).open().fingerprint
    assert len(Hub(dataset=str(tmp_path / "many"), split="test").open()) == 3
    assert len(Hub(dataset=str(tmp_path / "many"), shots=2).open()) == 6
    with pytest.raises(UserError, match="'tests'; did you mean 'test'"):
        Hub(dataset=str(tmp_path / "many"), split="tests").open()


def test_shuffled_datasets_keep_their_order(tmp_path):
    data = datasets.Dataset.from_list(
        rows(), features=datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=list(CLASSES)))
    )
    data.shuffle(seed=3).save_to_disk(tmp_path / "shuffled")
    table = Hub(dataset=str(tmp_path / "shuffled")).open()
    assert [table.read(i).image[0, 0, 0] % 3 for i in range(12)] == table.labels.tolist()


def test_a_hub_that_cannot_be_reached_is_told_with_the_way_round(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"'ada/lovelace' cannot be opened: .*hf download --repo-type dataset NAME --local-dir FOLDER"):
        Hub(dataset="ada/lovelace").open()
    with pytest.raises(UserError, match=r"^--test: \./nowhere/x: .*there is nothing at .*/nowhere/x"):
        sets.opened("--test", "./nowhere/x", "test")


def test_local_repository(tmp_path):
    write_parquet(tmp_path / "repo" / "data" / "train-00000-of-00001.parquet", rows())
    (tmp_path / "repo" / "README.md").write_text("---\npretty_name: x\n---\n")
    assert len(Hub(dataset=str(tmp_path / "repo")).open()) == 12


def test_infer(tmp_path, monkeypatch):
    write_folder(tmp_path / "images")
    write_parquet(tmp_path / "tables" / "data" / "train.parquet", rows())
    write_tar(tmp_path / "tars" / "a.tar")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "state.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    expected = {
        "images": "folder",
        str(tmp_path / "images"): "folder",
        "tables": "parquet",
        "tables/": "parquet",
        "tables/data/train.parquet": "parquet",
        "tables/**/*.parquet": "parquet",
        "hf://datasets/a/b/x.parquet": "parquet",
        "tars": "webdataset",
        "tars/a.tar": "webdataset",
        "saved": "hub",
        "user/name": "hub",
        "cifar10": "hub",
    }
    assert {name: sources.infer(name) for name in expected} == expected
    for name in ("./birds", "images/birds", "a/b/c", "birds.parquet", "/nowhere/birds"):
        with pytest.raises(UserError, match="nothing at /"):
            sources.infer(name)
    with pytest.raises(UserError, match="holds no images"):
        sources.infer("empty")
    with pytest.raises(UserError, match=f"nothing at {tmp_path}/images/birds"):
        sources.infer("images/birds")


@pytest.mark.parametrize("kind", ["folder", "parquet", "webdataset", "hub"])
def test_found_by_name(kind):
    found = kinds.find("sources", kind, Source)
    assert all(field.description for field in found.model_fields.values())


def test_progress_bars_come_back(tmp_path):
    Parquet(dataset=write_parquet(tmp_path / "a.parquet", rows())).open()
    assert not datasets.utils.are_progress_bars_disabled()
