"""A dataset on the Hub, or what `datasets` saved on this disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from factory import cells
from factory.errors import UserError
from factory.sources import _files
from factory.sources._table import TableSource


class Hub(TableSource):
    """A dataset id, a folder written by `save_to_disk`, or a local copy of a dataset repository.

    No code of a repository is ever run: `datasets` 4 and later have no loading scripts.
    """

    subset: str | None = Field(None, description="Configuration of a dataset that has several.")
    revision: str | None = Field(None, description="Branch, tag or commit on the Hub; pin a commit for a dataset that must not change.")

    def _load(self) -> Any:
        from datasets import load_dataset

        path = _files.absolute(self.dataset)
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            return self._saved(path)
        if path.is_dir():
            return _files.call(f"source.dataset {self.dataset!r}", load_dataset, str(path), self.subset, split=self.split)
        where = f"source.dataset: no folder {path}, and as a dataset on the Hub {self.dataset!r} cannot be opened"
        return _files.call(where, load_dataset, self.dataset, self.subset, split=self.split, revision=self.revision)

    def _saved(self, path: Path) -> Any:
        from datasets import DatasetDict, load_from_disk

        data = _files.call(f"source.dataset {self.dataset!r}", load_from_disk, str(path))
        if not isinstance(data, DatasetDict):
            return data
        if self.split not in data:
            hint = f"{cells.near(self.split, data)}; there are: {', '.join(data)}"
            raise UserError(f"source.split: {path} has no split {self.split!r}{hint}")
        return data[self.split]
