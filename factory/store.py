"""A run on disk. A file is written under a temporary name, synced and renamed; a shard's mark is written last.

run.json  recipe.json          what made this folder
rounds/00.json                 which stretch of every class's sequence a round asked for
shards/00-00003.parquet        images and provenance        marks/00-00003.json   the shard is whole
scores/<filter>/00-00003.parquet                            one folder per filter identity
scores/<filter>/all.parquet    the same, joined when the build is complete, so that selecting reads one file
rows.parquet  selection.parquet  report.json  contact_sheet.png  refused.png  dataset/
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from factory import locks, tables
from factory.contracts import Filter
from factory.errors import UserError
from factory.files import create_once, is_full, sync_folder, sync_tree, write_json

FORMAT = 1
POLL_SECONDS = 0.5
OWNER_SECONDS = 30.0  # how long a worker waits for its launch's first worker to write the recipe
STALE_SECONDS = 3600.0
PARTIAL = "scored"  # bool column of a filter that has not seen every row of a shard (a cascade)


@dataclass(frozen=True)
class Shards:
    """Whole shards in plan order. digest: of their names and content, so that nothing computed from them outlives them."""

    names: tuple[str, ...]
    digest: str


class Store:
    """One run folder. Any number of processes may use it at once; none of them needs another to be alive."""

    def __init__(self, folder: Path):
        self.folder = folder

    @classmethod
    def open(cls, folder: Path, plan_id: str, identity: dict[str, Any], settings: dict[str, Any], owner: bool = True) -> Store:
        """Open or create. The owner of a launch writes the recipe down; its other workers must bring the same one.

        Raises UserError for a folder that another plan made, that is not a run folder, or that is being built with other settings.
        """
        store = cls(folder)
        if not (folder / "run.json").exists():
            strange = (
                [p for p in folder.iterdir() if not p.name.startswith(".") and p.name not in ("owner.lock", "run.json")]
                if folder.exists()
                else []
            )
            if strange and not (folder / "run.json").exists():  # looked at again: a neighbour may have created it meanwhile
                raise UserError(f"{folder} is not empty and holds no run; choose another --out")
            create_once(folder / "run.json", {"format": FORMAT, "plan": plan_id, "identity": identity})
        run = store.run()
        if ("corpus" in run["identity"]) != ("corpus" in identity):
            command = "filter" if "corpus" in run["identity"] else "build"
            raise UserError(f"{folder} holds a run of `factory {command}`; choose another --out")
        if run["plan"] != plan_id:
            changes = "; ".join(differences(run["identity"], identity)) or "the plan"
            raise UserError(f"{folder} was made by another plan ({changes}); choose another --out, or undo the change")
        if owner:
            write_json(folder / "recipe.json", settings)
        else:
            store._await_recipe(settings)
        return store

    def _await_recipe(self, settings: dict[str, Any]) -> None:
        """Wait until the launch's owner has written this very recipe. Raises UserError when it keeps being another."""
        end = time.monotonic() + OWNER_SECONDS
        while True:
            found: Any = None
            with contextlib.suppress(FileNotFoundError):
                found = json.loads((self.folder / "recipe.json").read_text(encoding="utf-8"))
            if found == json.loads(json.dumps(settings)):
                return
            if time.monotonic() > end:
                changes = "; ".join(differences(found or {}, settings))
                raise UserError(f"{self.folder} is being built with other settings ({changes}); join it with the same recipe")
            time.sleep(0.2)

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

    def command(self) -> str:
        """The command that made this run, for messages."""
        return "`factory filter`" if self.is_filtered() else "`factory build`"

    def is_filtered(self) -> bool:
        """Whether this run read a corpus that exists, and made no image."""
        return "corpus" in self.run()["identity"]

    @contextlib.contextmanager
    def owned(self) -> Iterator[None]:
        """Hold the folder for one launch. Raises UserError when another launch holds it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"{self.folder} is not a folder; choose another --out") from None
        lock = locks.take(self.folder / "owner.lock")
        if lock is None:
            raise UserError(f"{self.folder} is in use by another run; wait for it, choose another --out, or add a worker to it with --join")
        try:
            self._sweep()
            yield
        finally:
            lock.release()

    def in_use(self) -> bool:
        """Whether a launch holds the folder at this moment."""
        lock = locks.take(self.folder / "owner.lock")
        if lock is not None:
            lock.release()
        return lock is None

    def _sweep(self) -> None:
        """Remove what killed processes left behind, old enough to be nobody's."""
        for path in self.folder.rglob(".*.tmp"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()

    def claim(self, name: str) -> locks.Lock | None:
        """A lock on one shard or decision, or None when a living process holds it; the kernel frees a dead process's lock.

        Where a file system has no locks two workers may make the same shard, to the same bytes: wasteful, never wrong.
        """
        path = self.folder / "locks" / f"{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        return locks.take(path)

    def pin_generator(self, number: int, described: dict[str, Any]) -> None:
        """Write down what makes this run's images. Raises UserError when other weights made those that are here."""
        pinned = create_once(self.folder / f"generator-{number}.json", described)
        old, new = ({key: d.get(key) for key in ("weights", "commit")} for d in (pinned, described))
        changes = differences(old, new)
        if changes:
            raise UserError(
                f"{self.folder}: the generator's weights changed since this run began ({'; '.join(changes)}); choose another --out"
            )

    def pin_source(self, fingerprint: str) -> None:
        """Write down the real images that a filter run compares with. Raises UserError when the scores that are here belong to others."""
        if create_once(self.folder / "source.json", {"fingerprint": fingerprint})["fingerprint"] != fingerprint:
            raise UserError(f"{self.folder}: the real images of `source` changed since this run began; undo that, or choose another --out")

    def generators(self) -> list[dict[str, Any]]:
        """What made the images: those of the recipe's generators that have been loaded so far, in the recipe's order."""
        paths = sorted(self.folder.glob("generator-*.json"), key=lambda path: int(path.stem.rpartition("-")[2]))
        return [json.loads(path.read_text(encoding="utf-8")) for path in paths]

    # ---- rounds

    def rounds(self) -> list[dict[str, list[int]]]:
        """The recorded rounds, in order: {start, count}, one number per asked class."""
        paths = sorted((self.folder / "rounds").glob("[0-9]*.json"), key=lambda path: int(path.stem))
        return [json.loads(path.read_text(encoding="utf-8")) for path in paths]

    def record_round(self, number: int, start: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A round's (start, count), int64 [classes]: these, unless another worker recorded the round first."""
        value = create_once(self.folder / "rounds" / f"{number:02d}.json", {"start": start.tolist(), "count": count.tolist()})
        return np.array(value["start"], np.int64), np.array(value["count"], np.int64)

    def next_round(self, number: int, rules: Any, decide: Callable[[], np.ndarray]) -> np.ndarray:
        """What round `number` asks for under these rules, int64 [classes]: decided by one worker, read by all others."""
        digest = hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:12]
        path = self.folder / "rounds" / f"next-{number:02d}-{digest}.json"
        while not path.exists():
            claim = self.claim(path.stem)
            if claim is None:
                time.sleep(POLL_SECONDS)
                continue
            try:
                if not path.exists():
                    create_once(path, decide().tolist())
            finally:
                claim.release()
        return np.array(json.loads(path.read_text(encoding="utf-8")), np.int64)

    # ---- shards

    def marked(self) -> set[str]:
        """Names of the shards that have a mark, at the cost of listing one folder."""
        folder = self.folder / "marks"
        return {entry.name[:-5] for entry in os.scandir(folder) if entry.name.endswith(".json")} if folder.is_dir() else set()

    def is_made(self, shard: str, rows: int | None) -> bool:
        """Whether one shard is whole, and of that many rows where they are known beforehand."""
        try:
            mark = self.mark(shard)
            size = (self.folder / "shards" / f"{shard}.parquet").stat().st_size
        except (FileNotFoundError, json.JSONDecodeError):
            return False  # never made, or the mark promised a file that is gone
        return size == mark["bytes"] and rows in (None, mark["rows"])

    def mark(self, shard: str) -> dict[str, Any]:
        """A shard's done-mark: rows, bytes, sha256, seconds, quarantined parents."""
        mark: dict[str, Any] = json.loads((self.folder / "marks" / f"{shard}.json").read_text(encoding="utf-8"))
        return mark

    def spans(self, shards: Iterable[str]) -> Iterator[tuple[str, slice]]:
        """Each of these whole shards with the place of its rows among the rows of all."""
        at = 0
        for shard in shards:
            rows = self.mark(shard)["rows"]
            yield shard, slice(at, at + rows)
            at += rows

    def write_shard(self, shard: str, table: pa.Table, notes: dict[str, Any]) -> None:
        """Images and provenance, then the mark."""
        path = self.folder / "shards" / f"{shard}.parquet"
        tables.write(path, table)
        data = path.read_bytes()
        mark = {"rows": table.num_rows, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), **notes}
        write_json(self.folder / "marks" / f"{shard}.json", mark)

    def read_shard(self, shard: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A whole shard's rows."""
        return pq.read_table(self.folder / "shards" / f"{shard}.parquet", columns=columns)

    def records(self, shards: Iterable[str], rows: np.ndarray, columns: Sequence[str]) -> dict[int, dict[str, Any]]:
        """Some rows by their place among the rows of these shards; shards without any are not read."""
        found: dict[int, dict[str, Any]] = {}
        for shard, span in self.spans(shards):
            own = rows[(rows >= span.start) & (rows < span.stop)]
            if len(own):
                found |= zip(own.tolist(), self.read_shard(shard, columns).take(own - span.start).to_pylist(), strict=True)
        return found

    def columns(self, shard: str) -> list[str]:
        """The names of a whole shard's columns."""
        names: list[str] = pq.read_schema(self.folder / "shards" / f"{shard}.parquet").names
        return names

    # ---- scores

    def has_scores(self, shard: str, identity: str) -> bool:
        """Whether one filter has scored one shard."""
        return (self.folder / "scores" / identity / f"{shard}.parquet").exists()

    def is_partial(self, shard: str, identity: str) -> bool:
        """Whether one filter has left rows of one shard unscored, by the file's schema alone."""
        return PARTIAL in pq.read_schema(self.folder / "scores" / identity / f"{shard}.parquet").names

    def write_scores(self, shard: str, identity: str, columns: dict[str, np.ndarray]) -> None:
        """One filter's columns [N] or [N, D] for one shard."""
        (self.folder / "scores" / identity / "all.parquet").unlink(missing_ok=True)  # it does not know these
        tables.write(self.folder / "scores" / identity / f"{shard}.parquet", tables.of_columns(columns))

    def shard_scores(self, shard: str, filters: Sequence[Filter]) -> dict[str, dict[str, np.ndarray]]:
        """The columns of one shard by filter identity, for those filters that have scored it."""
        found = {}
        for identity in {f.identity() for f in filters}:
            if self.has_scores(shard, identity):
                found[identity] = tables.to_columns(pq.read_table(self.folder / "scores" / identity / f"{shard}.parquet"))
        return found

    def read_scores(self, shards: Shards, identity: str, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """One filter's columns over shards in order, from the joined file when it covers just these; only those of `names` that it has."""
        joined = self._joined(shards, identity)
        if joined is not None:
            return tables.to_columns(tables.read(joined, names))
        return tables.to_columns(self._concatenated(shards, identity, names))

    def join_scores(self, shards: Shards, identity: str) -> None:
        """Write one filter's scores as one file."""
        if self._joined(shards, identity) is None:
            table = self._concatenated(shards, identity).replace_schema_metadata({"shards": shards.digest})
            tables.write(self.folder / "scores" / identity / "all.parquet", table)

    def _joined(self, shards: Shards, identity: str) -> Path | None:
        path = self.folder / "scores" / identity / "all.parquet"
        fits = path.exists() and (pq.read_schema(path).metadata or {}).get(b"shards", b"").decode() == shards.digest
        return path if fits else None

    def _concatenated(self, shards: Shards, identity: str, names: Sequence[str] | None = None) -> pa.Table:
        missing = sum(not self.has_scores(shard, identity) for shard in shards.names)
        if missing:
            raise UserError(
                f"{self.folder}: {missing} of {len(shards.names)} shards have no scores for a filter of this recipe; "
                f"run {self.command()} to score them"
            )
        paths = [self.folder / "scores" / identity / f"{shard}.parquet" for shard in shards.names]
        return pa.concat_tables([tables.read(path, names) for path in paths], promote_options="default")

    def drop_scores(self, shard: str) -> None:
        """Forget all scores of a shard that is about to be made again."""
        for path in (self.folder / "scores").glob(f"*/{shard}.parquet"):
            path.unlink(missing_ok=True)

    def shards(self, names: Sequence[str]) -> Shards:
        """These whole shards, with a digest of their content."""
        content = "\n".join(f"{name} {self.mark(name)['sha256']}" for name in names)
        return Shards(tuple(names), hashlib.sha256(content.encode()).hexdigest()[:16])

    def write_rows(self, shards: Shards, columns: dict[str, np.ndarray], notes: dict[str, Any] | None = None) -> None:
        """What selecting needs of every row: label, ordinal, and which shards hold them. notes: JSON values that explain the columns."""
        metadata = {"shards": json.dumps(shards.names), "digest": shards.digest, "notes": json.dumps(notes or {})}
        table = tables.of_columns(columns).replace_schema_metadata(metadata)
        tables.write(self.folder / "rows.parquet", table)

    def read_rows(self) -> tuple[Shards, dict[str, np.ndarray]]:
        """(shards, columns). Raises UserError before the build is complete."""
        if not (self.folder / "rows.parquet").exists():
            raise UserError(f"{self.folder}: the run is not finished; run {self.command()} with the same --out to finish it")
        table = pq.read_table(self.folder / "rows.parquet")
        metadata = table.schema.metadata
        return Shards(tuple(json.loads(metadata[b"shards"])), metadata[b"digest"].decode()), tables.to_columns(table)

    def row_notes(self) -> dict[str, Any]:
        """What `write_rows` was told about the columns."""
        notes: dict[str, Any] = json.loads((pq.read_schema(self.folder / "rows.parquet").metadata or {}).get(b"notes", b"{}"))
        return notes

    def cached(self, name: str, shards: Shards, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Columns over the whole run that are worth keeping (neighbours), computed once for each set of shards."""
        path = self.folder / "scores" / f"{name}-{shards.digest}.parquet"
        if path.exists():
            return tables.to_columns(pq.read_table(path))
        columns = compute()
        tables.write(path, tables.of_columns(columns))
        return columns

    def replace_folder(self, name: str, fill: Callable[[Path], None]) -> Path:
        """Build `name` beside the old one and swap: readers see the old or the new, never half. Raises UserError on a full disk."""
        final, fresh, old = self.folder / name, self.folder / f".{name}.new", self.folder / f".{name}.old"
        if old.exists() and not final.exists():  # killed between the two renames below
            old.rename(final)
        for stale in (fresh, old):
            shutil.rmtree(stale, ignore_errors=True)
        fresh.mkdir(parents=True)
        try:
            fill(fresh)
            sync_tree(fresh)
        except OSError as error:
            shutil.rmtree(fresh, ignore_errors=True)
            if is_full(error):
                raise UserError(f"{final}: the disk is full; free some space and run the same command again") from error
            raise
        if final.exists():
            final.rename(old)
        fresh.rename(final)
        sync_folder(self.folder)
        shutil.rmtree(old, ignore_errors=True)
        return final


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """`generator.steps: 16 → 20`, one for each leaf that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [line for key in sorted({*old, *new}) for line in differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new) and any(isinstance(item, dict) for item in old):
        return [line for i in range(len(old)) for line in differences(old[i], new[i], f"{path}[{i}]")]
    if old == new:
        return []
    shown = [text if len(text := str(value)) <= 40 else text[:37] + "…" for value in (old, new)]
    return [f"{path}: {shown[0]} → {shown[1]}"]
