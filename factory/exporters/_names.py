"""Class names and ids as names of files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

FILES_PER_FOLDER = 10_000  # file systems and the Hub grow slow beyond
_SPLIT_WORD = re.compile(
    r"(?:(?<=^)|(?<=[-._ 0-9]))(?=(train|training|validation|valid|dev|val|test|testing|eval|evaluation)([-._ 0-9]|$))", re.IGNORECASE
)


def safe_names(names: Sequence[str]) -> list[str]:
    """Class names as folder names: distinct on every file system, and never one that `datasets` takes for a split.

    "T-shirt/top" -> "T-shirt-top"; "train" -> "=train"; a name that is taken already gets a number.
    """
    safe: list[str] = []
    taken = {"", "images"}
    for name in names:
        plain = _SPLIT_WORD.sub("=", _plain(name))
        unique, number = plain, 2
        while unique.casefold() in taken:
            unique, number = f"{plain}~{number}", number + 1
        taken.add(unique.casefold())
        safe.append(unique)
    return safe


def key(row_id: str) -> str:
    """A row's id as a file name without its suffix: the id itself, or, where that is no name, one that no other id has.

    Without dots, since readers of tars take what follows the first one for the kind of file.
    """
    plain = _plain(row_id).replace(".", "_")
    return plain if plain == row_id else f"{plain}~{hashlib.sha256(row_id.encode()).hexdigest()[:12]}"


def within(place: str, count: int) -> str:
    """The folder of the file that `count` others of its place go before: the place itself, later a numbered folder in it."""
    block = count // FILES_PER_FOLDER
    return place if block == 0 else f"{place}/{block:04d}"


def _plain(name: str) -> str:
    """Without what Windows, a shell's glob or a URL would take for something else; never hidden, at most 120 characters."""
    plain = re.sub(r'[\x00-\x1f/\\:*?"<>|\[\]{}#%]+', "-", name).strip(" .")[:120].rstrip(" .")
    return "_" + plain.lstrip("_") if plain.startswith("__") or not plain else plain
