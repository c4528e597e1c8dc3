"""WebDataset tars: files of one base name are the fields of one row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import Field

from factory.corpora import _places, _tars
from factory.corpora._corpus import Columns, write_names
from factory.records import Cut


class WebDataset(Columns):
    """Tar files, read as streams. Columns are named by their extensions (txt, cls, json); a tar is a shard."""

    image: str = Field("image", description="Extension of the image; left out, it is the first that is an image (jpg, png, webp, …).")
    label: str | None = Field(None, description="Extension of the class (cls), or a JSON field (json.label); null: unlabelled.")
    caption: str | None = Field(None, description="Extension of the caption (txt), or a JSON field (json.caption); null: none.")

    def cut(self, rows: int, catalogue: Path) -> Iterator[tuple[Cut, str]]:
        """One shard for each tar, whatever `rows` says: a tar has no index to cut at."""
        write_names(catalogue, self.class_names)
        yield from _tars.cuts(_places.files(self.dataset, (".tar", ".tar.gz", ".tgz")))

    def open(self, catalogue: Path, columns: Sequence[str] | None) -> _tars.TarReader:
        file_system, base = _places.base_of(self.dataset)
        return _tars.TarReader(self, file_system, base, catalogue, columns)
