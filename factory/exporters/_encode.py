"""Rows with their pixels encoded by a few threads, in order and only a little ahead of the writer."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from factory import images

SUFFIX: dict[images.ImageFormat, str] = {"png": "png", "webp": "webp", "jpeg": "jpg"}


def encoded(rows: Iterable[dict[str, Any]], format: images.ImageFormat, quality: int) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Each row with the bytes of its image, in the order of the rows; at most a few dozen images are in memory."""
    threads = min(8, os.cpu_count() or 1)
    waiting: deque[tuple[dict[str, Any], Future[bytes]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="factory-encode") as pool:
        try:
            for row in rows:
                waiting.append((row, pool.submit(images.encode, row["image"], format, quality)))
                if len(waiting) > 4 * threads:
                    first, data = waiting.popleft()
                    yield first, data.result()
            while waiting:
                first, data = waiting.popleft()
                yield first, data.result()
        finally:
            for _, data in waiting:
                data.cancel()
