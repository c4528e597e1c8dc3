"""WebDataset tars: files of one base name are the fields of one row."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from factory.errors import UserError
from factory.sources import _files
from factory.sources._table import TableSource


class WebDataset(TableSource):
    """Tar files. Columns are named by their extensions (jpg, cls, txt); fields of a JSON are reached with a dot (json.caption)."""

    image: str = Field(
        "image",
        description="Extension of the image; where there is no `image`, that stands for the only one that is an image (jpg, png, …).",
    )
    label: str | None = Field("cls", description="Extension of the class (cls), or a JSON field (json.label); null for unlabelled images.")

    def _load(self) -> Any:
        data = _files.load_files("webdataset", self.dataset, self.split, ".tar")
        if self.image != "image" or "image" in data.features:  # a stored recipe names the default too
            return data
        found = [name for name, feature in data.features.items() if type(feature).__name__ == "Image"]
        if len(found) != 1:
            names = ", ".join(found or data.features)
            raise UserError(f"source.image: {self.dataset!r} has {len(found)} image fields; name one of: {names}")
        return data.rename_column(found[0], "image")
