"""From stored cells to bytes, digests, masks and boxes."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from factory.errors import Undecodable
from factory.records import Annotations

HASH_FILES_UP_TO = 50_000  # beyond this, reading every file at open costs more than it proves
_READERS = 8


def stored_bytes(cell: Any) -> bytes:
    """The file bytes of an image cell ({bytes, path}, bytes or a path). Raises Undecodable when there are none."""
    if isinstance(cell, bytes):
        return cell
    path = cell.get("path") if isinstance(cell, dict) else cell
    if isinstance(cell, dict) and cell.get("bytes") is not None:
        return cell["bytes"]
    if not isinstance(path, str):
        raise Undecodable("the row has no image")
    try:
        if "://" in path:  # a member of an archive, or a file on the Hub
            from datasets.utils.file_utils import xopen

            with xopen(path, "rb") as file:
                return file.read()
        return Path(path).read_bytes()
    except (
        FileNotFoundError,
        IsADirectoryError,
        NotADirectoryError,
        PermissionError,
    ) as error:  # any other failure may pass, and must not change a dataset
        raise Undecodable(f"cannot read the file: {error}") from error


def placed(cell: Any, root: Path | None) -> Any:
    """A cell whose relative path is found below a folder, as the path there; any other cell as it is."""
    path = None if root is None else file_path(cell)
    if root is None or path is None or os.path.isabs(path) or not (root / path).exists():
        return cell
    return str(root / path)


def digests(cells: Sequence[Any]) -> list[str]:
    """The sha256 of each cell's bytes; 'missing' where there are none. Files are read by a few threads."""
    if any(file_path(cell) for cell in cells[:1]):
        with ThreadPoolExecutor(_READERS) as pool:
            return list(pool.map(_digest, cells))
    return [_digest(cell) for cell in cells]


def _digest(cell: Any) -> str:
    try:
        return hashlib.sha256(stored_bytes(cell)).hexdigest()
    except Undecodable:
        return "missing"


def file_path(cell: Any) -> str | None:
    """The path of a cell that is a file on this disk, else None."""
    path = cell if isinstance(cell, str) else cell.get("path") if isinstance(cell, dict) and cell.get("bytes") is None else None
    return path if path is not None and "://" not in path else None


def sizes(paths: Sequence[str]) -> list[str]:
    """'relative name, size' of each file, relative to the folder that holds them all; a missing file has size -1."""
    base = os.path.commonpath([os.path.dirname(path) for path in paths if path])
    return [f"{Path(os.path.relpath(path, base)).as_posix()}\x1f{_size(path)}" if path else "missing" for path in paths]


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def mask(cell: Any, shape: tuple[int, int]) -> np.ndarray:
    """A mask cell (image bytes, or nested lists) -> int32 [H, W]. Values are kept: palette indices, 8 or 16-bit ids.

    Raises Undecodable when it is coloured, not as large as its image, or has ids that a 16-bit PNG cannot hold.
    """
    values = np.asarray(cell) if isinstance(cell, list) else _picture(stored_bytes(cell))
    if values.ndim == 3:
        if (values[..., :3] != values[..., :1]).any():
            raise Undecodable("the mask is a colour image; store class or instance numbers in one channel")
        values = values[..., 0]
    if values.shape != shape:
        raise Undecodable(f"the mask is {values.shape}, its image {shape}")
    if values.size and not 0 <= values.min() <= values.max() <= 65_535:
        raise Undecodable(f"mask ids lie in 0 to 65535, not {values.min()} to {values.max()}; renumber them")
    return values.astype(np.int32)


def _picture(data: bytes) -> np.ndarray:
    from PIL import Image

    try:
        return np.asarray(Image.open(io.BytesIO(data)))
    except Exception as error:  # as for images: whatever Pillow raises, the mask cannot be read
        raise Undecodable(f"mask: {type(error).__name__}: {error}") from error


def boxes(cell: Any, format: str) -> np.ndarray:
    """A list of boxes -> float32 [K, 4] as x0 y0 x1 y1. Raises Undecodable for another shape."""
    values = np.asarray(cell if cell is not None else [], np.float32).reshape(-1, 4) if _is_boxes(cell) else None
    if values is None:
        raise Undecodable("boxes must be a list of four numbers each")
    if format == "xywh":
        values = np.concatenate([values[:, :2], values[:, :2] + values[:, 2:]], axis=1)
    return values


def _is_boxes(cell: Any) -> bool:
    return cell is None or (isinstance(cell, list) and all(isinstance(box, list | tuple) and len(box) == 4 for box in cell))


def notes(mask_: np.ndarray | None, boxes_: np.ndarray | None, box_labels: Any) -> Annotations | None:
    """What is known about places, or None when nothing is. Raises Undecodable when boxes and their labels differ in number."""
    if mask_ is None and boxes_ is None:
        return None
    numbers = None if box_labels is None else np.asarray(box_labels, np.int64)
    if numbers is not None and (boxes_ is None or len(numbers) != len(boxes_)):
        raise Undecodable(f"{len(numbers)} box labels for {0 if boxes_ is None else len(boxes_)} boxes")
    return Annotations(boxes=boxes_, box_labels=numbers, mask=mask_)
