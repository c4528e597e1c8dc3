"""COCO and YOLO are read back: by pycocotools, torchvision and `datasets`, and line by line as YOLO's readers do."""

import io
import json

import cv2
import datasets
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from ruamel.yaml import YAML
from torchvision.datasets import CocoDetection

from factory import plan, recipe
from factory.contracts import DatasetInfo
from factory.errors import UserError
from factory.exporters import _names
from factory.exporters.coco import Coco
from factory.exporters.yolo import Yolo
from tests.rows import NAMES, digest, make

CELLS = ["red/cell", "white Zelle", "plättchen"]
COLUMNS = {"id": "string", "prompt": "string", "synthetic": "string", "soft_label": "list<float32>", "boxes": "list<list<float32>>"}
LABELLED = {**COLUMNS, "box_labels": "list<int64>"}
MASKED = {**LABELLED, "mask": "image"}
HEIGHT, WIDTH = 31, 47


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def png(values):
    out = io.BytesIO()
    Image.fromarray(np.asarray(values).astype(np.uint16)).save(out, "PNG")
    return out.getvalue()


def instances(i):
    """Row 0 has none; else i objects, the last with a hole and a second part. Ids are no sequence."""
    values = np.zeros((HEIGHT, WIDTH), int)
    for k in range(i):
        values[2 : 9 + k, 12 * k : 12 * k + 9] = 300 + 7 * k
    if i:
        values[4:6, 12 * (i - 1) + 3 : 12 * (i - 1) + 5] = 0
        values[25:28, 12 * (i - 1) + 2 : 12 * (i - 1) + 4] = 300 + 7 * (i - 1)
    return values


def box_of(mask):
    rows, columns = np.nonzero(mask)
    return [float(edge) for edge in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]


def rows(count=4):
    for i, row in enumerate(make(count, HEIGHT, WIDTH)):
        values = instances(i % 4)
        boxes = [box_of(values == number) for number in np.unique(values)[1:]]
        labels = [(i + k) % 3 for k in range(len(boxes))]
        extra = {"boxes": boxes, "box_labels": labels, "mask": png(values), "synthetic": "train", "soft_label": [0.5, 0.25, 0.25]}
        yield {**row, **extra}


def without(*names):
    return [{key: value for key, value in row.items() if key not in names} for row in rows()]


def info(columns=MASKED, names=NAMES, split="train", count=4):
    return DatasetInfo("x", names, columns, count, split)


# ---- COCO


def test_coco_boxes_and_masks_come_back(tmp_path):
    Coco(image="png", box_names=CELLS, license="CC0-1.0").write(rows(), info(), tmp_path)
    file = tmp_path / "annotations" / "instances_train.json"
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    coco = COCO(str(file))
    assert [coco.cats[k]["name"] for k in sorted(coco.cats)] == CELLS and coco.dataset["licenses"][0]["name"] == "CC0-1.0"
    for number, made in enumerate(rows(), start=1):
        entry, found = coco.imgs[number], coco.loadAnns(coco.getAnnIds(imgIds=[number]))
        assert (entry["width"], entry["height"]) == (WIDTH, HEIGHT) and entry["columns"]["synthetic"] == "train"
        assert entry["columns"]["id"] == made["id"] and entry["columns"]["soft_label"] == [0.5, 0.25, 0.25]
        assert np.array_equal(np.asarray(Image.open(tmp_path / "images" / "train" / entry["file_name"])), made["image"])
        values = instances(number - 1)
        assert len(found) == len(made["boxes"])
        for one, box, label, value in zip(found, made["boxes"], made["box_labels"], np.unique(values)[1:], strict=True):
            assert one["bbox"] == [box[0], box[1], box[2] - box[0], box[3] - box[1]] and one["category_id"] == label + 1
            assert np.array_equal(coco.annToMask(one), values == value) and one["area"] == (values == value).sum()
    assert sorted(coco.anns) == list(range(1, 7))


def test_coco_is_read_by_torchvision_and_datasets(tmp_path):
    Coco(image="webp").write(rows(), info(), tmp_path)
    data = CocoDetection(tmp_path / "images" / "train", tmp_path / "annotations" / "instances_train.json")
    assert len(data) == 4 and [len(target) for _, target in data] == [0, 1, 2, 3] and data[1][0].size == (WIDTH, HEIGHT)
    table = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "images"), split="train")
    assert table["id"] == [row["id"] for row in make(4)] and table[3]["box_labels"] == [0, 1, 2] and set(table["synthetic"]) == {"train"}


def test_coco_scores_its_own_boxes_as_perfect(tmp_path):
    """The file works in the evaluation that it is made for."""
    Coco(box_names=CELLS).write(rows(8), info(count=8), tmp_path)
    truth = COCO(str(tmp_path / "annotations" / "instances_train.json"))
    for kind in ("bbox", "segm"):
        guesses = truth.loadRes([{**one, "score": 1.0} for one in truth.anns.values()])
        score = COCOeval(truth, guesses, kind)
        score.evaluate(), score.accumulate(), score.summarize()
        assert score.stats[0] == pytest.approx(1)


def test_masks_without_boxes_are_objects_of_the_rows_class(tmp_path):
    Coco().write(without("boxes", "box_labels"), info({"id": "string", "mask": "image"}), tmp_path)
    coco = COCO(str(tmp_path / "annotations" / "instances_train.json"))
    assert [one["category_id"] - 1 for one in coco.anns.values()] == [1, 2, 2, 0, 0, 0]
    assert coco.anns[1]["bbox"] == [0, 2, 9, 26] and rle.decode(coco.anns[1]["segmentation"]).sum() == coco.anns[1]["area"]


def test_class_masks_are_one_region_a_class(tmp_path):
    values = np.zeros((HEIGHT, WIDTH), int)
    values[:5, :5], values[9:12, 9:12], values[20:22, 20:22] = 1, 3, 1
    row = {**next(make(1, HEIGHT, WIDTH)), "mask": png(values)}
    Coco(masks="classes", box_names=CELLS).write([row], info({"id": "string", "mask": "image"}, count=1), tmp_path)
    coco = COCO(str(tmp_path / "annotations" / "instances_train.json"))
    assert [(one["category_id"], one["area"]) for one in coco.anns.values()] == [(1, 29), (3, 9)]
    with pytest.raises(UserError, match="number 2, and the categories are 0 to 1"):
        Coco(masks="classes", box_names=CELLS[:2]).write([row], info({"id": "string", "mask": "image"}, count=1), tmp_path / "b")


def test_boxes_are_cut_at_the_edge_and_empty_ones_are_counted(tmp_path, caplog):
    row = {**next(make(1, 10, 20)), "boxes": [[-5, 2, 5, 30], [20, 0, 25, 5], [3, 3, 3, 9], [float("nan"), 0, 1, 1]]}
    Coco().write([row], info(COLUMNS, count=1), tmp_path)
    coco = COCO(str(tmp_path / "annotations" / "instances_train.json"))
    assert [one["bbox"] for one in coco.anns.values()] == [[0, 2, 5, 8]] and coco.anns[1]["segmentation"] == []
    assert "3 of 4 boxes have no area" in caplog.text and repr(row["id"]) in caplog.text


# ---- YOLO


def read_yolo(folder, split="train"):
    """As YOLO's loaders do: a label file for each image, found by its path; five numbers are a box, an odd number of seven or more a polygon."""
    about = YAML(typ="safe").load(folder / "data.yaml")
    images = sorted(path for path in (folder / about[split]).rglob("*") if path.is_file() and path.suffix != ".jsonl")
    for image in images:
        text = folder / "labels" / image.relative_to(folder / "images").with_suffix(".txt")
        lines = [[float(number) for number in line.split(" ")] for line in text.read_text().splitlines()]
        for line in lines:
            assert len(line) == 5 or (len(line) >= 7 and len(line) % 2), line
            assert line[0] in about["names"] and all(0 <= number <= 1 for number in line[1:]), line
        assert len({len(line) == 5 for line in lines}) <= 1, "boxes and polygons in one file"
        yield Image.open(image), [(int(line[0]), np.array(line[1:])) for line in lines]


def test_yolo_boxes_come_back(tmp_path):
    Yolo(image="png", box_names=CELLS, val="/real/val").write(without("mask"), info(LABELLED), tmp_path)
    about = YAML(typ="safe").load(tmp_path / "data.yaml")
    assert about == {"train": "images/train", "val": "/real/val", "names": dict(enumerate(CELLS))}
    for (image, found), made in zip(read_yolo(tmp_path), sorted(rows(), key=lambda row: row["id"]), strict=True):
        assert np.array_equal(np.asarray(image), made["image"]) and [k for k, _ in found] == made["box_labels"]
        for (_, (cx, cy, w, h)), box in zip(found, made["boxes"], strict=True):
            back = np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]) * [WIDTH, HEIGHT, WIDTH, HEIGHT]
            assert np.abs(back - box).max() < 1e-3


def test_yolo_polygons_fill_to_the_masks(tmp_path):
    Yolo(box_names=CELLS).write(rows(), info(), tmp_path)
    for (_, found), (i, made) in zip(read_yolo(tmp_path), sorted(enumerate(rows()), key=lambda pair: pair[1]["id"]), strict=True):
        values = instances(i)
        assert [k for k, _ in found] == made["box_labels"]
        for (_, points), number in zip(found, np.unique(values)[1:], strict=True):
            drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
            cv2.fillPoly(drawn, [(points.reshape(-1, 2) * [WIDTH, HEIGHT]).astype(np.int32)], 1)  # truncated, as trainers do
            expected = (values == number).astype(np.uint8)
            solid = expected.copy()
            hole = 12 * (i - 1) + 3
            if number == values.max():
                solid[4:6, hole : hole + 2] = 1
            bridge = np.logical_and(drawn, ~solid.astype(bool))
            assert (drawn >= solid).all() and bridge.sum() <= HEIGHT, "the parts, their holes, and a line between them"


@pytest.mark.parametrize("spot", [[(3, 4)], [(3, 4), (3, 5)], [(0, 0), (30, 46)]])
def test_yolo_spots_are_polygons_too(tmp_path, spot):
    values = np.zeros((HEIGHT, WIDTH), int)
    values[tuple(np.array(spot).T)] = 1
    Yolo().write([{**next(rows(1)), "boxes": [], "box_labels": [], "mask": png(values)}], info(count=1), tmp_path)
    ((_, found),) = read_yolo(tmp_path)
    assert len(found) == 1 and len(found[0][1]) >= 6


def test_a_box_without_a_mask_is_a_polygon_among_polygons(tmp_path):
    Yolo().write([{**row, "mask": None} for row in rows()], info(), tmp_path)
    corners = [points.reshape(4, 2) * [WIDTH, HEIGHT] for _, found in read_yolo(tmp_path) for _, points in found]
    boxes = [box for row in sorted(rows(), key=lambda row: row["id"]) for box in row["boxes"]]
    assert [[*c.min(0).round(3), *c.max(0).round(3)] for c in corners] == boxes


def test_yolo_is_read_by_datasets_and_marks_a_stress_test(tmp_path):
    Yolo().write(rows(), info(split="stress_test"), tmp_path)
    about = YAML(typ="safe").load(tmp_path / "data.yaml")
    assert about["train"] is None and about["val"] is None and about["test"] == "images/stress_test"
    data = datasets.load_dataset("imagefolder", data_files={"test": str(tmp_path / "images" / "stress_test" / "**")}, split="test")
    assert len(data) == 4 and data[2]["soft_label"] == [0.5, 0.25, 0.25] and data[0]["synthetic"] == "train"


# ---- both


@pytest.mark.parametrize("kind", [Coco, Yolo])
def test_a_dataset_without_objects_is_refused_before_anything_is_made(tmp_path, kind, write_recipe):
    with pytest.raises(UserError, match=f"{kind.__name__.lower()} is a format of objects.*no column boxes or mask"):
        kind().write(make(), DatasetInfo("x", NAMES, {"id": "string"}, 30), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    loaded = recipe.load(write_recipe(export=kind.__name__.lower()))
    with pytest.raises(UserError, match=r"source.boxes"):
        plan.make(loaded, loaded.source.open())


@pytest.mark.parametrize("kind", [Coco, Yolo])
def test_objects_need_categories(tmp_path, kind):
    with pytest.raises(UserError, match="box_names"):
        kind().write(rows(), info(names=[]), tmp_path / "a")
    with pytest.raises(UserError, match=r"row '1-000001': an object has the number 1, and the categories are 0 to 0"):
        kind(box_names=["cell"]).write(rows(), info(), tmp_path / "b")
    with pytest.raises(UserError, match="no category"):
        kind(box_names=CELLS).write(without("box_labels"), info(COLUMNS), tmp_path / "c")
    with pytest.raises(UserError, match="1 box labels for 0 boxes"):
        kind().write([{**row, "box_labels": [0]} for row in rows()], info(), tmp_path / "d")
    with pytest.raises(UserError, match="the mask is 4×4 and its image 31×47"):
        kind().write([{**row, "mask": png(np.zeros((4, 4)))} for row in rows()], info(), tmp_path / "e")
    kind().write(without("box_labels", "mask"), info(COLUMNS, names=[]), tmp_path / "f")


@pytest.mark.parametrize("kind", [Coco, Yolo])
def test_equal_rows_give_equal_bytes_and_folders_stay_small(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(_names, "FILES_PER_FOLDER", 2)
    for name in ("a", "b"):
        kind(image="png", box_names=CELLS).write(rows(5), info(count=5), tmp_path / name)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    data = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "a" / "images"), split="train")
    assert len(data) == 5 and (tmp_path / "a" / "images" / "train" / "0002").is_dir()
    if kind is Yolo:
        assert len(list(read_yolo(tmp_path / "a"))) == 5
    else:
        assert CocoDetection(tmp_path / "a/images/train", tmp_path / "a/annotations/instances_train.json")[4][0].size == (WIDTH, HEIGHT)


@pytest.mark.parametrize("kind", [Coco, Yolo])
def test_no_rows_and_one_row(tmp_path, kind):
    kind().write([], info(count=0), tmp_path / "none")
    kind(masks="none").write(list(rows(2))[1:], info(count=1), tmp_path / "one")
    if kind is Coco:
        for name, count in (("none", 0), ("one", 1)):
            content = json.loads((tmp_path / name / "annotations" / "instances_train.json").read_text())
            assert len(content["images"]) == len(content["annotations"]) == count
            assert len(COCO(str(tmp_path / name / "annotations" / "instances_train.json")).imgs) == count
    else:
        assert list(read_yolo(tmp_path / "none")) == [] and len(next(read_yolo(tmp_path / "one"))[1][0][1]) == 4
