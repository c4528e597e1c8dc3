"""Rows of WebDataset tars, read in one pass: files of one base name are the fields of one row."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from factory import cells
from factory.corpora import _columns, _places
from factory.corpora._corpus import Columns, Reader
from factory.records import Cut, Found

BROKEN = "broken_archive"
_TEXT = ("txt", "text", "caption", "cls", "url")


def cuts(files: _places.Files) -> Iterator[tuple[Cut, str]]:
    """A tar is a shard: it tells its rows only when it is read."""
    for number, (name, stamp) in enumerate(zip(files.names, files.stamps, strict=True)):
        yield Cut(f"{number:06d}", name, 0, -1), f"{cells.clean(name)} {stamp}"


class _Member(tarfile.TarInfo):
    """A member whose header must be whole: `tarfile` takes any damage behind the first member for the end, which would lose rows unseen."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> _Member:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # two blocks of zeros: a tar's own end
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"cut short or damaged: {error}") from error


class TarReader(Reader):
    """Reads tars, gzipped ones too, as streams. A row's id is the tar's name and the row's key: `00012.tar/000120003`."""

    def __init__(self, corpus: Columns, file_system: Any, base: str, catalogue: Path, columns: Sequence[str] | None):
        super().__init__(corpus, catalogue, columns)
        self.file_system, self.base = file_system, base
        self._half = ""

    def read(self, cut: Cut) -> Iterator[Found]:
        """The rows of one tar; one that is cut short ends with a row that says so, since how many are gone nobody can tell."""
        keys: set[str] = set()
        place = cells.clean(cut.place)
        self._types = {}
        try:
            with self.file_system.open(_places.within(self.base, cut.place), "rb") as handle:
                for key, fields in self._samples(handle):
                    unique, number = key, 2
                    while unique in keys:
                        unique, number = f"{key}~{number}", number + 1
                    keys.add(unique)
                    yield self._found(f"{place}/{unique}", fields)
        except (tarfile.TarError, EOFError, FileNotFoundError) as error:
            half = f"/{self._half}" if self._half else ""  # the row in which the damage is
            yield Found(place + half, fault=BROKEN, detail=f"after {len(keys)} rows: {error or type(error).__name__}")

    def _samples(self, handle: Any) -> Iterator[tuple[str, dict[str, bytes]]]:
        """(key, suffix -> bytes) of consecutive members of one base name."""
        self._half, fields = "", dict[str, bytes]()
        key = ""
        with tarfile.open(fileobj=handle, mode="r|*", tarinfo=_Member, errors="backslashreplace") as tar:
            for member in tar:
                folder, slash, name = member.name.rpartition("/")
                base, _, suffix = name.partition(".")
                if not base or not (member.isfile() or member.islnk() or member.issym()):
                    continue
                own = folder + slash + base
                if fields and (own != key or suffix.lower() in fields):
                    yield key, fields
                    fields = {}
                key = self._half = own
                data = (
                    tar.extractfile(member) if member.isfile() else None
                )  # a stream cannot follow a link: the row says that it has no bytes
                fields[suffix.lower()] = data.read() if data else b""
        if fields:
            yield key, fields

    def _found(self, identity: str, fields: dict[str, bytes]) -> Found:
        corpus = self.corpus
        image, suffix = self._image(fields)
        row: dict[str, Any] = {}
        fault, detail = "", ""
        for name, data in fields.items():
            if name == suffix:
                continue
            if name == "json":
                try:
                    row["json"] = json.loads(data)
                except ValueError as error:
                    fault, detail = "damaged_metadata", f"json: {error}"
            elif name in _TEXT:
                row[name] = data.decode("utf-8", "replace")
            elif _places.is_image(f"x.{name}"):
                row[name] = {"bytes": data}
        caption = _columns.caption(cells.value_at(row, corpus.caption)) if corpus.caption else None
        label = None
        try:
            label = _columns.label(cells.value_at(row, corpus.label), self.class_names) if corpus.label else None
        except LookupError as error:
            fault, detail = fault or "unknown_label", detail or str(error)
        if image is None:
            wanted = "that is an image" if corpus.image == "image" else repr(corpus.image)
            fault, detail = fault or "missing", detail or f"no field {wanted}; there are: {', '.join(fields)}; name one in corpus.image"
        return Found(identity, image, label, caption, self._passing(row), fault, detail)

    def _image(self, fields: dict[str, bytes]) -> tuple[bytes | None, str]:
        """The image's bytes and the field that holds them: the one that the recipe names, else the first that is an image."""
        wanted = self.corpus.image
        if wanted in fields:
            return fields[wanted], wanted
        plain = (name for name in fields if "." not in name and _places.is_image(f"x.{name}"))  # seg.png is a further image
        found = next(plain, None) if wanted == "image" else None
        return (None, "") if found is None else (fields[found], found)

    def _passing(self, row: dict[str, Any]) -> dict[str, Any]:
        """What passes through: text fields, further images, and the members of a JSON as columns of their own."""
        flat: dict[str, Any] = {}
        for name, value in row.items():
            if name not in (self.corpus.label, self.corpus.caption):
                flat.update(value if name == "json" and isinstance(value, dict) else {name: value})
        _columns.note(self._types, flat)
        return _columns.chosen(flat, self.columns)
