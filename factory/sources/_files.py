"""Paths, splits and the calls into `datasets`, with its errors turned into sentences."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from glob import has_magic
from pathlib import Path
from typing import Any

from factory.errors import OFFLINE, UserError
from factory.images import IMAGE_SUFFIXES

_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def absolute(dataset: str) -> Path:
    """The absolute path of a dataset name, with ~ expanded; it may not exist."""
    return Path(os.path.abspath(os.path.expanduser(dataset)))


def missing(dataset: str) -> UserError:
    """The error for a local path that is not there, naming the absolute path."""
    return UserError(f"source.dataset: there is nothing at {absolute(dataset)}; check the path, which is relative to the current folder")


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars from `datasets` meanwhile; the caller's own setting comes back afterwards."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            enable_progress_bars()


def call(where: str, load: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call a loader of `datasets`. Raises UserError with the cause, since its own top line often says only 'an error occurred'."""
    try:
        with quiet():
            return load(*args, **options)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, NotImplementedError) as error:  # DatasetsError lies outside these
        raise UserError(f"{where}: {_reason(error)}") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("datasets", "huggingface_hub", "pyarrow", "httpx"):
            raise
        raise UserError(f"{where}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    if isinstance(error, ConnectionError) and "on the Hub" in text:
        return text + OFFLINE
    return f"{text or type(error).__name__} ({type(error).__name__})" if len(text) < 600 else text[:600] + " …"


def load_files(builder: str, dataset: str, split: str, suffix: str) -> Any:
    """Open files with a packaged builder of `datasets`: one file or a glob is taken whole, a folder is split by its file names.

    Split names may carry a slice as `datasets` writes it (`train[:10%]`). suffix: of these files.
    """
    from datasets import load_dataset

    where = f"source.dataset {dataset!r}"
    if "://" not in dataset and absolute(dataset).is_dir():
        mixed = _beside_images(absolute(dataset), suffix)
        if mixed is not None:
            return call(where, load_dataset, builder, data_files=mixed, split=split)
        return call(where, load_dataset, builder, data_dir=str(absolute(dataset)), split=split)
    files = [dataset] if "://" in dataset else sorted(glob.glob(str(absolute(dataset)), recursive=True))
    if not files:
        raise missing(dataset)
    return call(where, load_dataset, builder, data_files={split.partition("[")[0]: files}, split=split)


def _beside_images(base: Path, suffix: str) -> dict[str, list[str]] | None:
    """Split -> the folder's files with a suffix, by the first word of their names that is a split's, else train.

    None where no image files lie beside them, so that `datasets` can tell the splits by itself.
    """
    found, pictures = list[str](), False
    for folder, inner, names in os.walk(base):
        inner[:] = [name for name in inner if not name.startswith(".")]
        suffixes = {name: os.path.splitext(name)[1].lower() for name in names}
        found += [os.path.join(folder, name) for name in names if suffixes[name] == suffix and not name.startswith(".")]
        pictures = pictures or not IMAGE_SUFFIXES.isdisjoint(suffixes.values())
    if not pictures:
        return None
    splits: dict[str, list[str]] = {}
    for path in sorted(found):
        words = (canonical(word) for word in re.split(r"[^a-z]+", Path(path).stem.lower()))
        splits.setdefault(next((word for word in words if word in _SPLITS), "train"), []).append(path)
    return splits


def folder_of(dataset: str) -> Path:
    """The folder that relative paths inside a folder's, file's or glob's rows may be counted from."""
    path = absolute(dataset)
    while has_magic(str(path)):
        path = path.parent
    return path if path.is_dir() else path.parent


def split_folder(base: Path, split: str) -> Path:
    """The folder of one split: `base/train` where every sub-folder is named like a split, else `base` itself, which is the train split.

    Deciding here keeps a class that happens to be called "train" or "test tube" from being taken for a split.
    """
    name = canonical(split)
    folders = [entry.name for entry in sorted(base.iterdir()) if entry.is_dir() and not entry.name.startswith((".", "__"))]
    splits = {canonical(folder): folder for folder in folders}
    if not folders or not set(splits) <= set(_SPLITS):
        if name == "train":
            return base
        raise UserError(f"source.split: {base} has no split folders, so that it is one split, train; {split!r} is not there")
    if name not in splits:
        raise UserError(f"source.split: {base} has no split {split!r}; there are: {', '.join(folders)}")
    return base / splits[name]


def canonical(split: str) -> str:
    """The usual name of a split, without a slice: val -> validation; unknown names are returned as they are."""
    plain = re.sub(r"\[.*", "", split).lower()
    return next((name for name, words in _SPLITS.items() if plain in words), plain)
