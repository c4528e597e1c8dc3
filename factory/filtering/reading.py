"""From the rows of a corpus to batches of decoded images: files are fetched and decoded by threads, a bounded stretch ahead of the model."""

from __future__ import annotations

import errno
import queue
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from factory import images
from factory.errors import Undecodable
from factory.records import Found

AHEAD_BYTES = 256 << 20  # of decoded pixels, before the batch that is being scored
BATCH_BYTES = 256 << 20  # a batch of huge images is cut short
TRIES = 4
Item = TypeVar("Item")
FORBIDDEN = "no_permission"
_REFUSING = (401, 403)
_PASSING = (408, 425, 429)  # a server that is busy, or asks for a pause: no word about the file
_NO_NAME = (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)  # what stands there is no file's name
PATIENCE = 0.5  # seconds before the second try, and twice as many before each further one


@dataclass(frozen=True)
class Read:
    """One row, decoded as far as it can be. reason: a slug where it is refused before any filter sees it.

    shape: (height, width), also after the pixels are let go.
    """

    found: Found
    image: np.ndarray | None
    reason: str = ""
    detail: str = ""
    shape: tuple[int, int] | None = None


@dataclass
class Batch:
    """Consecutive rows of one shard."""

    rows: list[Read] = field(default_factory=list)
    bytes: int = 0


def batches(rows: Iterable[Found], pool: Executor, size: int) -> Iterator[Batch]:
    """Rows in order, decoded by the pool, in batches of `size` or less: how they are cut depends on the rows alone."""
    batch = Batch()
    for row in _decoded(rows, pool, 2 * size):
        weight = 0 if row.image is None else row.image.nbytes
        if batch.rows and batch.bytes + weight > BATCH_BYTES:
            yield batch
            batch = Batch()
        batch.rows.append(row)
        batch.bytes += weight
        if len(batch.rows) == size:
            yield batch
            batch = Batch()
    if batch.rows:
        yield batch


def _decoded(rows: Iterable[Found], pool: Executor, ahead: int) -> Iterator[Read]:
    """Rows in order; at most `ahead` of them, and about AHEAD_BYTES, are waiting."""
    waiting: deque[Future[Read]] = deque()
    mean = 0.0  # bytes of a decoded image, lately
    try:
        for found in rows:
            waiting.append(pool.submit(decoded, found))
            while len(waiting) >= ahead or (len(waiting) > 4 and len(waiting) * mean > AHEAD_BYTES):
                row = waiting.popleft().result()
                mean += ((0 if row.image is None else row.image.nbytes) - mean) / 8
                yield row
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def decoded(found: Found) -> Read:
    """Fetch and decode one row. Raises OSError where trying again later may help."""
    if found.fault:
        return Read(found, None, found.fault, found.detail)
    try:
        image = images.decode(stored(found.image))
        return Read(found, image, shape=(image.shape[0], image.shape[1]))
    except Undecodable as error:
        return Read(found, None, error.reason, str(error))


def stored(image: bytes | str | None) -> bytes:
    """A row's file bytes.

    Raises Undecodable: `missing` where there is no such file, `no_permission` where it may not be read; OSError where it cannot be read for now.
    """
    if image is None:
        raise Undecodable("the row has no image", "missing")
    if isinstance(image, bytes):
        return image
    for attempt in range(TRIES):
        try:
            return _fetched(image)
        except PermissionError as error:
            raise Undecodable(f"no permission to read the file: {error}", FORBIDDEN) from error
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError) as error:
            raise Undecodable(f"cannot read the file: {error}", "missing") from error
        except Exception as error:  # each file system has its own; what is not a plain refusal may pass
            status = getattr(error, "status", 0)
            if status in _REFUSING:
                raise Undecodable(f"no permission to read the file: {error}", FORBIDDEN) from error
            if getattr(error, "errno", None) in _NO_NAME or (400 <= status < 500 and status not in _PASSING):
                raise Undecodable(f"cannot read the file: {error}", "missing") from error
            if attempt == TRIES - 1:
                raise OSError(f"{image}: {type(error).__name__}: {error}") from error
            time.sleep(PATIENCE * 2**attempt)
    raise AssertionError("unreachable")


def _fetched(place: str) -> bytes:
    if "://" in place:
        import fsspec

        with fsspec.open(place, "rb") as file:
            return _all(file)
    with open(place, "rb") as file:
        return _all(file)


def _all(file: Any) -> bytes:
    data: bytes = file.read()
    return data


def in_background(items: Iterable[Item], size: int) -> Generator[Item, None, None]:
    """The same items, made by a thread of their own, at most `size` of them ahead; what it raises is raised here."""
    ready: queue.Queue[tuple[bool, Any]] = queue.Queue(size)
    stop = threading.Event()

    def put(entry: tuple[bool, Any]) -> None:
        while not stop.is_set():
            try:
                return ready.put(entry, timeout=0.1)
            except queue.Full:
                continue
        raise _Stopped

    def produce() -> None:
        try:
            for item in items:
                put((True, item))
            put((False, None))
        except _Stopped:
            pass
        except BaseException as error:
            if not stop.is_set():
                put((False, error))
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()

    thread = threading.Thread(target=produce, name="factory-reader", daemon=True)
    thread.start()
    try:
        while True:
            going, value = ready.get()
            if going:
                yield value
            elif value is None:
                return
            else:
                raise value
    finally:
        stop.set()
        thread.join()


class _Stopped(Exception):
    """Nobody waits for further items."""
