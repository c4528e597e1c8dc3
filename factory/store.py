"""A run on disk. A file is written under a temporary name, synced and renamed; a shard's mark is written last.

run.json  recipe.json          what made this folder
rounds/00.json                 which stretch of every class's sequence a round asked for
shards/00-00003.parquet        images and provenance        marks/00-00003.json   the shard is whole
scores/<filter>/00-00003.parquet                            one folder per filter identity
scores/<filter>/all.parquet    the same, joined once a round is complete, so that selecting reads one file
rows.parquet  selection.parquet  report.json  contact_sheet.png  dataset/
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from factory.errors import UserError

FORMAT = 1


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` on a temporary neighbour, sync it, rename it into place. Raises UserError on a full disk."""
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
            raise UserError(
                f"{path.parent}: the disk is full; free some space and run the same command again, finished shards are kept"
            ) from error
        raise
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder; its rename is durable enough
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """One JSON file, whole or absent."""
    write_atomically(path, lambda p: _write_text(p, json.dumps(value, indent=1, ensure_ascii=False) + "\n"))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def write_table(path: Path, table: pa.Table) -> None:
    """One Parquet file, whole or absent; images are not compressed twice."""
    codec = {name: "none" if name == "image" else "zstd" for name in table.column_names}
    write_atomically(path, lambda p: pq.write_table(table, p, compression=codec))


class Store:
    """One run folder. Any number of processes may use it at once; none of them needs another to be alive."""

    def __init__(self, folder: Path):
        self.folder = folder

    @classmethod
    def open(cls, folder: Path, plan_id: str, identity: dict[str, Any], settings: dict[str, Any]) -> Store:
        """Open or create. Raises UserError for a folder that another plan made or that is not a run folder."""
        store = cls(folder)
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file; choose another --out")
        if (folder / "run.json").exists():
            run = store.run()
            if run["plan"] != plan_id:
                changes = "; ".join(_differences(run["identity"], identity)) or "the plan"
                raise UserError(f"{folder} was made by another plan ({changes}); choose another --out, or undo the change")
        elif folder.exists() and any(p.name != "owner.lock" for p in folder.iterdir()):
            raise UserError(f"{folder} is not empty and holds no run; choose another --out")
        else:
            write_json(folder / "run.json", {"format": FORMAT, "plan": plan_id, "identity": identity})
        write_json(folder / "recipe.json", settings)
        return store

    @classmethod
    def existing(cls, folder: Path) -> Store:
        """A run that is already there. Raises UserError."""
        if not (folder / "run.json").exists():
            raise UserError(f"{folder.absolute()} holds no run (no run.json); name the folder that `factory build --out` wrote")
        return cls(folder)

    def run(self) -> dict[str, Any]:
        """run.json. Raises UserError when a newer version wrote it."""
        run: dict[str, Any] = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
        if run.get("format") != FORMAT:
            raise UserError(
                f"{self.folder}/run.json has format {run.get('format')}, this version reads {FORMAT}; use the version that wrote it"
            )
        return run

    @contextlib.contextmanager
    def owned(self) -> Iterator[None]:
        """Hold the folder for one launch. Raises UserError when another launch holds it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.folder / "owner.lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise UserError(
                f"{self.folder} is in use by another run; wait for it, choose another --out, or add a worker to it with --join"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def claim(self, shard: str) -> filelock.BaseFileLock | None:
        """A lock on one shard, or None when a living process holds it; the kernel frees a dead process's lock.

        Where a file system has no locks two workers may make the same shard, to the same bytes: wasteful, never wrong.
        """
        path = self.folder / "locks" / f"{shard}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path, thread_local=False)  # released by the thread that finishes the shard
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            return None
        return lock

    # ---- rounds

    def rounds(self) -> list[dict[str, list[int]]]:
        """The recorded rounds, in order: {start, count}, one number per asked class."""
        paths = sorted((self.folder / "rounds").glob("*.json"))
        return [json.loads(path.read_text(encoding="utf-8")) for path in paths]

    def record_round(self, number: int, start: np.ndarray, count: np.ndarray) -> None:
        """Write a round's stretch; every worker computes the same one."""
        write_json(self.folder / "rounds" / f"{number:02d}.json", {"start": start.tolist(), "count": count.tolist()})

    # ---- shards

    def made(self) -> set[str]:
        """Names of the shards that are whole: marked, and of the marked size."""
        folder = self.folder / "marks"
        names = {entry.name[:-5] for entry in os.scandir(folder) if entry.name.endswith(".json")} if folder.is_dir() else set()
        return {name for name in names if self._is_whole(name)}

    def _is_whole(self, shard: str) -> bool:
        try:
            return (self.folder / "shards" / f"{shard}.parquet").stat().st_size == self.mark(shard)["bytes"]
        except (FileNotFoundError, json.JSONDecodeError, KeyError):
            return False  # made again: the mark promised a file that is gone or cut

    def is_made(self, shard: str) -> bool:
        """Whether one shard is whole."""
        return (self.folder / "marks" / f"{shard}.json").exists() and self._is_whole(shard)

    def mark(self, shard: str) -> dict[str, Any]:
        """A shard's done-mark: rows, bytes, sha256, seconds, quarantined parents."""
        mark: dict[str, Any] = json.loads((self.folder / "marks" / f"{shard}.json").read_text(encoding="utf-8"))
        return mark

    def write_shard(self, shard: str, table: pa.Table, notes: dict[str, Any]) -> None:
        """Images and provenance, then the mark."""
        path = self.folder / "shards" / f"{shard}.parquet"
        write_table(path, table)
        data = path.read_bytes()
        mark = {"rows": table.num_rows, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), **notes}
        write_json(self.folder / "marks" / f"{shard}.json", mark)

    def read_shard(self, shard: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A whole shard's rows."""
        return pq.read_table(self.folder / "shards" / f"{shard}.parquet", columns=columns)

    def columns(self, shard: str) -> list[str]:
        """The names of a whole shard's columns."""
        names: list[str] = pq.read_schema(self.folder / "shards" / f"{shard}.parquet").names
        return names

    # ---- scores

    def has_scores(self, shard: str, identity: str) -> bool:
        """Whether one filter has scored one shard."""
        return (self.folder / "scores" / identity / f"{shard}.parquet").exists()

    def write_scores(self, shard: str, identity: str, columns: dict[str, np.ndarray]) -> None:
        """One filter's columns [N] or [N, D] for one shard."""
        write_table(self.folder / "scores" / identity / f"{shard}.parquet", _to_table(columns))

    def read_scores(self, shards: Sequence[str], identity: str) -> dict[str, np.ndarray]:
        """One filter's columns over shards in order, from the joined file when it covers just these."""
        folder = self.folder / "scores" / identity
        joined = folder / "all.parquet"
        digest = _digest(shards)
        if joined.exists():
            table = pq.read_table(joined)
            if (table.schema.metadata or {}).get(b"shards", b"").decode() == digest:
                return _to_columns(table)
        missing = [shard for shard in shards if not self.has_scores(shard, identity)]
        if missing:
            raise UserError(
                f"{self.folder}: {len(missing)} of {len(shards)} shards have no scores for a filter of this recipe; run `factory build` to score them"
            )
        table = pa.concat_tables([pq.read_table(folder / f"{shard}.parquet") for shard in shards])
        write_table(joined, table.replace_schema_metadata({"shards": digest}))
        return _to_columns(table)

    def write_rows(self, shards: Sequence[str], columns: dict[str, np.ndarray]) -> None:
        """What selecting needs of every row: label, ordinal, and which shard holds it."""
        table = _to_table(columns).replace_schema_metadata({"shards": json.dumps(list(shards))})
        write_table(self.folder / "rows.parquet", table)

    def read_rows(self) -> tuple[list[str], dict[str, np.ndarray]]:
        """(shard names, columns). Raises UserError before the first round is complete."""
        if not (self.folder / "rows.parquet").exists():
            raise UserError(f"{self.folder}: the run is not finished; run `factory build` with the same --out to finish it")
        table = pq.read_table(self.folder / "rows.parquet")
        return json.loads(table.schema.metadata[b"shards"]), _to_columns(table)

    def cached(self, name: str, shards: Sequence[str], compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Columns over the whole run that are worth keeping (neighbours), computed once for each set of shards."""
        path = self.folder / "scores" / f"{name}-{_digest(shards)}.parquet"
        if path.exists():
            return _to_columns(pq.read_table(path))
        columns = compute()
        write_table(path, _to_table(columns))
        return columns

    def replace_folder(self, name: str, fill: Callable[[Path], None]) -> Path:
        """Build `name` beside the old one and swap: readers see the old or the new, never half."""
        final, fresh, old = self.folder / name, self.folder / f".{name}.new", self.folder / f".{name}.old"
        for stale in (fresh, old):
            shutil.rmtree(stale, ignore_errors=True)
        fresh.mkdir(parents=True)
        try:
            fill(fresh)
        except OSError as error:
            shutil.rmtree(fresh, ignore_errors=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
                raise UserError(f"{final}: the disk is full; free some space and run the same command again") from error
            raise
        if final.exists():
            final.rename(old)
        fresh.rename(final)
        shutil.rmtree(old, ignore_errors=True)
        return final


def _digest(shards: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(shards).encode()).hexdigest()[:16]


def _to_table(columns: dict[str, np.ndarray]) -> pa.Table:
    arrays = {
        name: pa.array(values) if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
        for name, values in columns.items()
    }
    return pa.table(arrays)


def _to_columns(table: pa.Table) -> dict[str, np.ndarray]:
    columns = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type.field(0).type)
        if pa.types.is_fixed_size_list(column.type):
            columns[name] = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)
        else:
            columns[name] = column.to_numpy(zero_copy_only=False)
    return columns


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    """`generator.steps: 16 → 20`, one for each leaf that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [line for key in sorted({*old, *new}) for line in _differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))]
    if old == new:
        return []
    shown = [text if len(text := str(value)) <= 40 else text[:37] + "…" for value in (old, new)]
    return [f"{path}: {shown[0]} → {shown[1]}"]
