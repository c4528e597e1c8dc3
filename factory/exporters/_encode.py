"""Rows with their pixels encoded by a few threads, in order and only a little ahead of the writer."""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from PIL import Image

from factory import images

SUFFIX: dict[images.ImageFormat, str] = {"png": "png", "webp": "webp", "jpeg": "jpg"}
_ORIENTATION = 274  # the EXIF tag


def encoded(rows: Iterable[dict[str, Any]], format: images.ImageFormat, quality: int) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Each row with the bytes of its image, in the order of the rows; at most a few dozen images are in memory."""
    threads = min(8, os.cpu_count() or 1)
    waiting: deque[tuple[dict[str, Any], Future[bytes]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="factory-encode") as pool:
        try:
            for row in rows:
                waiting.append((row, pool.submit(_bytes, row, format, quality)))
                if len(waiting) > 4 * threads:
                    first, data = waiting.popleft()
                    yield first, data.result()
            while waiting:
                first, data = waiting.popleft()
                yield first, data.result()
        finally:
            for _, data in waiting:
                data.cancel()


def size(data: bytes) -> tuple[int, int]:
    """(height, width) of an encoded image, from its header."""
    picture = Image.open(io.BytesIO(data))
    return picture.height, picture.width


def _bytes(row: dict[str, Any], format: images.ImageFormat, quality: int) -> bytes:
    """The row's own file where it is one upright picture in this format, else its pixels encoded. Raises Undecodable."""
    own = row.get("bytes")
    if own is not None and _is_plain(own, format):
        return own
    image = row.get("image")
    return images.encode(images.decode(row["bytes"]) if image is None else image, format, quality)


def _is_plain(data: bytes, format: images.ImageFormat) -> bool:
    """Not animated and not turned by EXIF: readers that ignore either would see another image than the one that was scored."""
    try:
        picture = Image.open(io.BytesIO(data))
        upright = picture.getexif().get(_ORIENTATION, 1) == 1
        return picture.format == format.upper() and upright and getattr(picture, "n_frames", 1) == 1
    except Exception:  # whatever Pillow raises, these bytes are not for passing on; decoding them tells why
        return False
