"""Where files are: this disk, or anything that fsspec opens by URL (s3://, gs://, hf://, https://, memory://)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from glob import has_magic
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

from factory.errors import UserError
from factory.images import IMAGE_SUFFIXES

# What tells one content of a file from another, as the file systems of fsspec call it: checksums, then times.
_VERSIONS = ("ETag", "etag", "md5Hash", "content_md5", "checksum", "sha256", "blob_id", "sha", "generation")
_TIMES = ("LastModified", "last_modified", "mtime", "modified", "updated", "created")
ABSENT = "-1"  # the stamp of a file that is not there


def is_image(name: str) -> bool:
    """Whether a file's name says that it is an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def located(dataset: str) -> tuple[Any, str]:
    """(file system, path on it) of a path or URL; a local path is made absolute. Raises UserError for an unknown protocol."""
    import fsspec

    local = "://" not in dataset
    try:
        file_system, path = fsspec.core.url_to_fs(os.path.abspath(os.path.expanduser(dataset)) if local else dataset)
    except (ImportError, ValueError) as error:
        raise UserError(f"corpus.dataset: cannot open {dataset}: {error}") from error
    return file_system, path.rstrip("/") or "/"


def is_local(file_system: Any) -> bool:
    protocols = file_system.protocol if isinstance(file_system.protocol, tuple | list) else (file_system.protocol,)
    return "file" in protocols


def exists(dataset: str) -> bool:
    """Whether something is there; a glob is taken to be."""
    file_system, path = located(dataset)
    return has_magic(path) or bool(file_system.exists(path))


def missing(dataset: str) -> UserError:
    """The error for a place where nothing is."""
    where = dataset if "://" in dataset else os.path.abspath(os.path.expanduser(dataset))
    return UserError(f"corpus.dataset: there is nothing at {where}; check the path, which is relative to the current folder")


def some_names(dataset: str, limit: int) -> set[str]:
    """Lower-case names of the first files found, without their folders."""
    file_system, path = located(dataset)
    if file_system.isfile(path):
        return {PurePosixPath(path).name.lower()}
    every = (name for _, _, names in file_system.walk(path) for name in names)
    return {name.lower() for name in islice(every, limit)}


@dataclass(frozen=True)
class Files:
    """Files below one base, by relative name in order. stamps: of each, see `stamp`."""

    file_system: Any
    base: str
    names: list[str]
    stamps: list[str]

    def path(self, name: str) -> str:
        """A file's path on the file system."""
        return within(self.base, name)


def within(base: str, name: str) -> str:
    """A path below a base, or the path itself where it stands by itself (absolute, or a URL)."""
    return name if name.startswith("/") or "://" in name or not base else f"{base.rstrip('/')}/{name}"


def base_of(dataset: str) -> tuple[Any, str]:
    """(file system, folder that relative names are counted from) of a file, folder or glob."""
    file_system, path = located(dataset)
    if has_magic(path):
        parts = path.split("/")
        return file_system, "/".join(parts[: next(i for i, part in enumerate(parts) if has_magic(part))])
    return file_system, path if file_system.isdir(path) else path.rpartition("/")[0]


def files(dataset: str, suffixes: tuple[str, ...]) -> Files:
    """The files with these suffixes: one file, those of a glob, or those in a folder and below it. Raises UserError when there are none."""
    file_system, path = located(dataset)
    _, base = base_of(dataset)
    if has_magic(path):
        found = file_system.glob(path, detail=True)
    elif file_system.isdir(path):
        found = {name: info for name, info in file_system.find(path, detail=True).items() if name.lower().endswith(suffixes)}
    elif file_system.exists(path):
        found = {path: file_system.info(path)}
    else:
        raise missing(dataset)
    plain = {_relative(name, base): (name, info) for name, info in found.items() if info.get("type") != "directory"}
    chosen = sorted(name for name in plain if not any(part.startswith(".") for part in name.split("/")))
    if not chosen:
        raise UserError(f"corpus.dataset: there is no {' or '.join('*' + suffix for suffix in suffixes)} at {dataset}")
    return Files(file_system, base, chosen, [stamp(file_system, *plain[name]) for name in chosen])


def stamp(file_system: Any, path: str, info: Mapping[str, Any]) -> str:
    """Size, and the checksum or time that the file system gives: a file that is replaced by another has another. Moving a file keeps it."""
    if is_local(file_system):
        return local_stamp(path)
    version = next((info[key] for key in (*_VERSIONS, *_TIMES) if info.get(key) is not None), "")
    return f"{int(info.get('size') or 0)} {version}"


def local_stamp(path: str) -> str:
    """Size and time of a file on this disk."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # a link that leads nowhere, or no path at all, is a row that cannot be read, later
        return ABSENT
    return f"{found.st_size} {found.st_mtime_ns}"


def _relative(path: str, base: str) -> str:
    return path[len(base) :].lstrip("/") if base and path.startswith(base) else path.lstrip("/")


def walk(file_system: Any, base: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """(relative folder, [(name, stamp)] in order) of the base and every folder below it, in order; hidden ones are passed over.

    Memory holds one folder's names at a time.
    """
    yield from _local_walk(base, "", ()) if is_local(file_system) else _remote_walk(file_system, base, "")


def _local_walk(base: str, inner: str, above: tuple[str, ...]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    own = os.path.realpath(os.path.join(base, inner))
    if own in above:  # a link to a folder that it is in would repeat all rows below without an end
        return
    files, folders = [], []
    with os.scandir(os.path.join(base, inner)) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                folders.append(entry.name)
            else:
                files.append((entry.name, local_stamp(entry.path)))
    yield inner, sorted(files)
    for name in sorted(folders):
        yield from _local_walk(base, f"{inner}/{name}" if inner else name, (*above, own))


def _remote_walk(file_system: Any, base: str, inner: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    entries = [
        (info["name"].rstrip("/").rpartition("/")[2], info) for info in file_system.ls(within(base, inner) if inner else base, detail=True)
    ]
    entries = sorted((pair for pair in entries if not pair[0].startswith(".")), key=lambda pair: pair[0])
    yield inner, [(name, stamp(file_system, info["name"], info)) for name, info in entries if info["type"] != "directory"]
    for name, info in entries:
        if info["type"] == "directory":
            yield from _remote_walk(file_system, base, f"{inner}/{name}" if inner else name)
