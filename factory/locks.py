"""Locks that die with their holder."""

from __future__ import annotations

import errno
import inspect
from pathlib import Path
from typing import Any, Protocol

import filelock


class Lock(Protocol):
    def release(self) -> None: ...


class _NoLock:
    """Stands for a lock where the file system has none."""

    def release(self) -> None:
        pass


def take(path: Path) -> Lock | None:
    """The lock of this file, or None while a living process holds it; the kernel frees a dead one's. A file system without locks gives it to all."""
    options: dict[str, Any] = {"thread_local": False}  # a claim is released by the thread that finishes the shard
    if "fallback_to_soft" in inspect.signature(filelock.FileLock).parameters:
        options["fallback_to_soft"] = False  # a marker file would outlive a dead holder
    lock = filelock.FileLock(path, **options)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        return _NoLock()
    return lock
