"""What an exported picture says of itself: read back with Pillow, in every format and through every exporter."""

import io
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from factory.exporters import _xmp
from factory.exporters.coco import Coco
from factory.exporters.folder import Folder
from factory.exporters.parquet import Parquet
from factory.exporters.webdataset import WebDataset
from factory.exporters.yolo import Yolo
from factory.images import decode, encode
from tests.rows import ANNOTATED, NAMES, DatasetInfo, annotated, digest, info, make

TRAINED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
FORMATS = [("png", 95), ("webp", 90), ("webp", 100), ("jpeg", 95)]
ABOUT = DatasetInfo("test", NAMES, ANNOTATED, 4)


def source_type(data):
    """The digital source type in the XMP of an image file, None without XMP."""
    found = Image.open(io.BytesIO(data)).getxmp()
    return found["xmpmeta"]["RDF"]["Description"]["DigitalSourceType"] if found else None


def parquet_files(folder):
    return [cell["bytes"] for file in sorted(folder.rglob("*.parquet")) for cell in pq.read_table(file)["image"].to_pylist()]


def tar_files(folder):
    found = []
    for path in sorted(folder.rglob("*.tar")):
        with tarfile.open(path) as tar:
            found += [tar.extractfile(member).read() for member in tar if member.name.endswith((".png", ".webp", ".jpg"))]
    return found


def image_files(folder):
    return [path.read_bytes() for path in sorted(folder.rglob("*")) if path.suffix in (".png", ".webp", ".jpg")]


@pytest.mark.parametrize(("format", "quality"), FORMATS)
def test_xmp_is_where_the_format_has_it_and_changes_no_pixel(format, quality):
    image = next(make())["image"]
    plain, marked = encode(image, format, quality), encode(image, format, quality, _xmp.packet("trainedAlgorithmicMedia"))
    assert source_type(plain) is None and source_type(marked) == TRAINED
    assert np.array_equal(decode(plain), decode(marked))
    place = {"png": b"iTXtXML:com.adobe.xmp\0", "webp": b"XMP ", "jpeg": b"http://ns.adobe.com/xap/1.0/\0"}[format]
    assert place in marked and place not in plain


@pytest.mark.parametrize(("exporter", "read"), [(Parquet, parquet_files), (WebDataset, tar_files), (Folder, image_files)])
@pytest.mark.parametrize(("format", "quality"), FORMATS)
def test_every_exported_image_is_marked_with_equal_bytes(tmp_path, exporter, read, format, quality):
    for place in ("a", "b"):
        exporter(image=format, quality=quality).write(make(), info(), tmp_path / place)
    files = read(tmp_path / "a")
    assert len(files) == 30 and {source_type(data) for data in files} == {TRAINED}
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


@pytest.mark.parametrize("exporter", [Coco, Yolo])
def test_images_of_object_formats_are_marked(tmp_path, exporter):
    exporter(masks="none").write(annotated(), ABOUT, tmp_path)
    files = image_files(tmp_path / "images")
    assert len(files) == 4 and {source_type(data) for data in files} == {TRAINED}


def test_a_recipe_turns_the_mark_off_or_says_composite(tmp_path):
    Parquet(digital_source_type=None).write(make(), info(), tmp_path / "off")
    Parquet(digital_source_type="compositeWithTrainedAlgorithmicMedia").write(make(), info(), tmp_path / "composite")
    assert {source_type(data) for data in parquet_files(tmp_path / "off")} == {None}
    assert {source_type(data) for data in parquet_files(tmp_path / "composite")} == {TRAINED.replace("trained", "compositeWithTrained")}


def test_a_row_that_brings_its_file_gets_no_mark(tmp_path):
    """Neither passed on as it is nor encoded anew: nobody here knows where that picture is from."""
    own = encode(next(make())["image"], "png")
    for format in ("png", "jpeg"):
        Parquet(image=format).write([{"id": "x", "label": 0, "bytes": own}], info(), tmp_path / format)
    (same,), (turned,) = parquet_files(tmp_path / "png"), parquet_files(tmp_path / "jpeg")
    assert same == own and Image.open(io.BytesIO(turned)).format == "JPEG" and source_type(turned) is None
