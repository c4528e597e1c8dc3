"""croissant.json: what a dataset's files and columns are, as Croissant 1.0 (MLCommons, 2024), for `mlcroissant` and dataset search engines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from factory.contracts import DatasetInfo

_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
}
_TERMS = (
    "citeAs column equivalentProperty excludes extract field fileProperty fileObject fileSet format includes isLiveDataset jsonPath key md5 "
    "parentField path recordSet references regex repeated replace samplingRate separator source subField transform"
)
_CONTEXT |= {name: f"cr:{name}" for name in _TERMS.split()}
_TYPES = {"string": "sc:Text", "int64": "cr:Int64", "float32": "cr:Float32", "float64": "cr:Float64", "bool": "sc:Boolean"}
_KNOWN = {
    "id": "Names an image for life.",
    "seed": "Seed of the image.",
    "prompt": "Text that the image was made from.",
    "parents": "Content hashes of the real images that the image was conditioned on.",
    "conditioning": "What was drawn for the condition, as JSON.",
    "generator": "The model that made the image.",
    "synthetic": "The image was generated; the value is the split that it was made for.",
    "boxes": "Objects as x0, y0, x1, y1 in pixels.",
    "box_labels": "The number of each object's category.",
    "soft_label": "A share for each class.",
    "mask": "Numbers of classes or objects for each pixel, 0 is background.",
}


def of_parquet(folder: Path, info: DatasetInfo, files: str) -> None:
    """Write croissant.json beside Parquet files whose image cells are {bytes, path}."""
    source = {"fileSet": {"@id": "files"}}
    fields = [_image("image", {**_column(source, "image"), "transform": {"jsonPath": "bytes"}})]
    if info.class_names:
        fields.append(_field("label", "cr:Int64", _column(source, "label"), f"Index of the class: {', '.join(info.class_names)}."))
    for name, kind in info.columns.items():
        if kind == "image":
            fields.append(_image(name, {**_column(source, name), "transform": {"jsonPath": "bytes"}}))
        else:
            fields.append(_value(name, kind, _column(source, name)))
    _write(folder, info, [_file_set("files", files, "application/x-parquet")], fields)


def of_folder(folder: Path, info: DatasetInfo, suffixes: Sequence[str]) -> None:
    """Write croissant.json beside image files and a metadata.jsonl that names them."""
    table = _file_object(folder, f"{info.split}/metadata.jsonl", "metadata", "application/jsonlines")
    images = _file_set("images", f"{info.split}/*.{suffixes[0]}", _mime(suffixes[0]))
    if len(suffixes) > 1:
        images |= {
            "includes": [f"{info.split}/*.{suffix}" for suffix in suffixes],
            "encodingFormat": [_mime(suffix) for suffix in suffixes],
        }
    source = {"fileObject": {"@id": "metadata"}}
    columns = {name: _column(source, name) for name in _text_columns(info)}
    join = {**_column(source, "file_name"), "transform": {"regex": "(?:.*/)?([^/]+)"}}
    _write(folder, info, [table, images], _joined(info, join, columns))


def of_tars(folder: Path, info: DatasetInfo, suffix: str, tars: Sequence[Path]) -> None:
    """Write croissant.json beside tars of images and of json files that name them.

    Images and json files are two sets of records: mlcroissant (1.1) joins no files from inside archives, and reads a json there as text.
    """
    names = [tar.relative_to(folder).as_posix() for tar in tars]
    archives = [_file_object(folder, name, name, "application/x-tar") for name in names]
    inside = {"containedIn": [{"@id": name} for name in names]}
    further = [f"*.{name}.png" for name, kind in info.columns.items() if kind == "image"]
    images = {**_file_set("images", f"*.{suffix}", _mime(suffix)), **inside, **({"excludes": further} if further else {})}
    tables = {**_file_set("metadata", "*.json", "application/json"), **inside}

    def at(files: str, what: str) -> dict[str, Any]:
        return {"fileSet": {"@id": files}, "extract": {"fileProperty": what}}

    pixels = [
        _field("file_name", "sc:Text", at("images", "filename"), "Name of the image's file.", "pixels"),
        _field("image", "sc:ImageObject", at("images", "content"), "The image.", "pixels"),
    ]
    told = f"The row as JSON: file_name of its image, {', '.join(_text_columns(info))}."
    _write(folder, info, [*archives, images, tables], pixels, [_field("json", "sc:Text", at("metadata", "content"), told)])


def _joined(info: DatasetInfo, join: dict[str, Any], columns: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The fields of rows whose columns are in one file and whose image is in another, found by its name."""
    by_name = {"fileSet": {"@id": "images"}, "extract": {"fileProperty": "filename"}}
    fields = [
        {**_field("file_name", "sc:Text", join, "Name of the image's file."), "references": by_name},
        _image("image", {"fileSet": {"@id": "images"}, "extract": {"fileProperty": "content"}}),
    ]
    return fields + [_value(name, info.columns.get(name, "string"), source) for name, source in columns.items()]


def _text_columns(info: DatasetInfo) -> list[str]:
    """The columns that are values and no files; the class by its name."""
    return (["label"] if info.class_names else []) + [name for name, kind in info.columns.items() if kind != "image" and name != "label"]


def _field(name: str, data_type: str, source: dict[str, Any], description: str, of: str = "records") -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"{of}/{name}",
        "name": name,
        "description": description,
        "dataType": data_type,
        "source": source,
    }


def _value(name: str, kind: str, source: dict[str, Any]) -> dict[str, Any]:
    """A column: a value, or a list of them."""
    inner = kind.removeprefix("list<").removeprefix("list<").rstrip(">")
    field = _field(name, _TYPES[inner], source, _KNOWN.get(name, "Name of the class." if name == "label" else f"Column {name}."))
    return {**field, "repeated": True} if kind.startswith("list<") else field


def _image(name: str, source: dict[str, Any]) -> dict[str, Any]:
    return _field(name, "sc:ImageObject", source, _KNOWN.get(name, "The image."))


def _column(source: dict[str, Any], name: str) -> dict[str, Any]:
    return {**source, "extract": {"column": name}}


def _file_set(name: str, includes: str, mime: str) -> dict[str, Any]:
    return {"@type": "cr:FileSet", "@id": name, "name": name, "encodingFormat": mime, "includes": includes}


def _file_object(folder: Path, file: str, name: str, mime: str) -> dict[str, Any]:
    digest = sha256()
    with (folder / file).open("rb") as data:
        while block := data.read(1 << 20):
            digest.update(block)
    about = {"@type": "cr:FileObject", "@id": name, "name": name, "contentUrl": file, "encodingFormat": mime}
    return {**about, "contentSize": f"{(folder / file).stat().st_size} B", "sha256": digest.hexdigest()}


def _mime(suffix: str) -> str:
    return f"image/{'jpeg' if suffix == 'jpg' else suffix}"


def _write(folder: Path, info: DatasetInfo, files: list[dict[str, Any]], *sets: list[dict[str, Any]]) -> None:
    """sets: the fields of each set of records, which the part of their ids before the slash names."""
    records = []
    for fields in sets:
        name = fields[0]["@id"].split("/")[0]
        records.append({"@type": "cr:RecordSet", "@id": name, "name": name, "field": fields})
    content = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": info.name,
        "description": f"{info.rows} synthetic images, split {info.split}: every image was generated, none is a photograph."
        if info.synthetic
        else f"{info.rows} images, split {info.split}, chosen out of a larger set.",
        "distribution": files,
        "recordSet": records,
    }
    (folder / "croissant.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
