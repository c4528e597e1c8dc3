"""Corpora that exist: image folders, Parquet, WebDataset tars, the Hub. Each is cut into shards that are read in sequence, undecoded."""

from __future__ import annotations

import re

from factory.corpora import _places
from factory.errors import UserError

_HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
_KINDS = {".parquet": "parquet", ".tar": "webdataset", ".tgz": "webdataset"}
_LOOK_AT = 2_000  # files; a folder shows what it is long before that


def infer(dataset: str) -> str:
    """Which kind of corpus a path, URL, glob or Hub id is. Raises UserError for a place where nothing is, or no images are."""
    named = next((kind for suffix, kind in _KINDS.items() if dataset.lower().removesuffix(".gz").endswith(suffix)), None)
    if named is not None:
        return named
    if not _places.exists(dataset):
        if "://" not in dataset and _HUB_ID.fullmatch(dataset):
            return "hub"
        raise _places.missing(dataset)
    names = _places.some_names(dataset, _LOOK_AT)
    if names & {"state.json", "dataset_dict.json", "dataset_info.json"}:
        return "hub"
    for suffix, kind in _KINDS.items():
        if any(name.endswith(suffix) and not name.startswith("metadata.") for name in names):
            return kind
    if any(_places.is_image(name) for name in names):
        return "folder"
    raise UserError(f"corpus.dataset: {dataset} holds no images, *.parquet or *.tar among its first {_LOOK_AT:,} files; say `kind:`")
