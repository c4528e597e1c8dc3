"""Files that are whole or absent: written under a temporary name, synced, renamed."""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.errors import UserError

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger("factory")


def is_full(error: Exception) -> bool:
    """Whether a disk or a quota is full; Arrow and safetensors sometimes say it in words alone."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` on a temporary neighbour, sync it, rename it into place. Raises UserError on a full disk."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if is_full(error):
            raise UserError(
                f"{path.parent}: the disk is full; free some space and run the same command again, what is finished is kept"
            ) from error
        raise
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def create_once(path: Path, value: Any) -> Any:
    """Write a JSON file unless it is there; returns what it says now, whoever wrote it. Raises UserError on a full disk."""
    if not path.exists():
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        write_json(draft, value)
        try:
            os.link(draft, path)  # fails where the file exists: the first writer's word stands
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            if not path.exists():
                os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    return json.loads(path.read_text(encoding="utf-8"))


def array_once(path: Path, shape: tuple[int, ...], compute: Callable[[], np.ndarray]) -> np.ndarray:
    """The float32 array in a cache file; computed and written where there is none of this shape. Raises UserError on a full disk."""
    import numpy as np

    try:
        found: np.ndarray = np.load(path, allow_pickle=False)
        if found.shape == shape and found.dtype == np.float32:
            return found
    except FileNotFoundError:
        pass
    except (OSError, ValueError, EOFError) as error:
        log.warning("%s is damaged and is computed again: %s", path, error)
    array = compute()

    def write(scratch: Path) -> None:
        with scratch.open("wb") as file:
            np.save(file, array)

    write_atomically(path, write)
    return array


def sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder; its rename is durable enough
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """One JSON file, whole or absent."""
    write_atomically(path, lambda p: write_text(p, json.dumps(value, indent=1, ensure_ascii=False) + "\n"))


def read_object(path: Path, cure: str) -> dict[str, Any] | None:
    """The JSON object in a file, None where there is no file. cure: what to do about a damaged one. Raises UserError for that."""
    if not path.exists():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not JSON ({error}); {cure}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(value).__name__}; {cure}")
    return value


def write_text(path: Path, text: str) -> None:
    """UTF-8, as `write_atomically` calls it."""
    path.write_text(text, encoding="utf-8")


def sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_dir():
            sync_folder(path)
        else:
            with open(path, "rb") as file:
                os.fsync(file.fileno())


def cache_folder() -> Path:
    """Where slow results that any run may use again are kept: $FACTORY_CACHE, else the user's cache folder. Safe to delete."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("FACTORY_CACHE") or Path(base) / "synthetic-dataset-factory")
