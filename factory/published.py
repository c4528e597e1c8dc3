"""One image of a run, a dataset folder or a dataset on the Hub, with what its recipe and plan say of it."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from factory import plan as planning
from factory import provenance, seeds
from factory.errors import UserError
from factory.store import FORMAT, Store

_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*(@[\w./-]+)?")


@dataclass(frozen=True)
class Stored:
    """One stored image. data: its file's bytes.  row: its columns.  recipe: as written.  plan: see provenance.plan_of."""

    data: bytes
    row: dict[str, Any]
    recipe: dict[str, Any]
    plan: dict[str, Any]


def find(dataset: str, row_id: str, plan: str = "") -> Stored:
    """An image by its id, in a run folder, a dataset folder, any fsspec URL or a dataset on the Hub (owner/name, owner/name@revision).

    plan: the beginning of a plan's name, for a dataset of several, each of which may have an image of this id; else the first is taken.
    Raises UserError where there is no such image, or no such plan beside it that asked for it.
    """
    if (Path(dataset) / "run.json").is_file():
        store = Store.existing(Path(dataset))
        _require_made(store.run(), dataset)
        return _of_run(store, row_id)
    is_hub = "://" not in dataset and not Path(dataset).exists() and _HUB_ID.fullmatch(dataset)
    files, root = fsspec.url_to_fs(f"hf://datasets/{dataset}" if is_hub else dataset)
    try:
        names = sorted(files.find(root))
        plans = _plans(files, [name for name in names if name.endswith("/plan.json")], dataset)
        for read in (_in_folder, _in_parquet, _in_tars):
            for row, data in read(files, names, row_id):
                for recipe, own in plans:
                    if own["plan"].startswith(plan) and _asked(own, row):
                        return Stored(data, row, recipe, own)
    except (OSError, ValueError, YAMLError) as error:
        what = "there is no such folder here, and on the Hub it cannot be read" if is_hub else "cannot be read"
        raise UserError(f"{dataset}: {what}: {type(error).__name__}: {error}") from error
    known = ", ".join(own["plan"] for _, own in plans)
    raise UserError(
        f"{dataset}: there is no image with the id {row_id!r} of plan {plan or known}; the column `id` has them, its plans are {known}"
    )


def _asked(plan: dict[str, Any], row: dict[str, Any]) -> bool:
    """Whether this row is of this plan: a dataset may hold images of several, whose ids may be the same and whose seeds are not."""
    label, _, ordinal = str(row["id"]).partition("-")
    number = planning.UNLABELLED if label == "u" else int(label)
    seed = seeds.per_request(plan["identity"]["seed"], np.array([number]), np.array([int(ordinal)]))
    return row.get("seed") in (None, int(seed[0]))


def _plans(files: Any, names: list[str], dataset: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(recipe, plan) of each plan in a dataset. Raises UserError where there is none, or a newer version wrote it."""
    found = []
    for name in names:
        plan = json.loads(files.cat_file(name))
        if plan.get("format") != FORMAT:
            raise UserError(f"{name} has format {plan.get('format')}, this version reads {FORMAT}; use the version that wrote it")
        _require_made(plan, dataset)
        found.append((YAML(typ="safe", pure=True).load(files.cat_file(f"{name.rpartition('/')[0]}/recipe.yaml").decode()), plan))
    if not found:
        raise UserError(
            f"{dataset}: there is no run and no dataset with its plan (provenance/…/plan.json); check the name, export again with "
            "`factory select RUN --export`, or replay from the run's folder"
        )
    return found


def _require_made(plan: dict[str, Any], dataset: str) -> None:
    if "corpus" in plan["identity"]:
        raise UserError(f"{dataset}: its images were filtered out of a corpus, not made here, so there is nothing to make again")


def _of_run(store: Store, row_id: str) -> Stored:
    for shard in sorted(store.marked()):
        at = pc.index(store.read_shard(shard, ["id"])["id"], row_id).as_py()
        if at >= 0:
            row = store.read_shard(shard).slice(at, 1).to_pylist()[0]
            return Stored(row.pop("image"), row, provenance.recipe_of(store), provenance.plan_of(store))
    raise UserError(f"{store.folder}: no image with the id {row_id!r} was made here; ids look like 3-000012, the class and its number")


Rows = Iterator[tuple[dict[str, Any], bytes]]


def _in_folder(files: Any, names: list[str], row_id: str) -> Rows:
    """Folders of images, COCO and YOLO: a line of metadata.jsonl names the file."""
    for name in names:
        if name.endswith("/metadata.jsonl"):
            with files.open(name, "rb") as lines:
                for line in lines:
                    row = json.loads(line)
                    if row.get("id") == row_id:
                        yield row, files.cat_file(f"{name.rpartition('/')[0]}/{row['file_name']}")


def _in_parquet(files: Any, names: list[str], row_id: str) -> Rows:
    """Reads the column of ids, and of the images only one row group."""
    for name in names:
        if name.endswith(".parquet"):
            with files.open(name, "rb") as file:
                table = pq.ParquetFile(file)
                if not {"id", "image"} <= set(table.schema_arrow.names):
                    continue
                for group in range(table.num_row_groups):
                    at = pc.index(table.read_row_group(group, columns=["id"])["id"], row_id).as_py()
                    if at >= 0:
                        row = table.read_row_group(group).slice(at, 1).to_pylist()[0]
                        yield row, row.pop("image")["bytes"]


def _in_tars(files: Any, names: list[str], row_id: str) -> Rows:
    """WebDataset: the members of one base name, read in sequence; the image's is the name that its json gives."""
    for name in names:
        if name.endswith(".tar"):
            with files.open(name, "rb") as file, tarfile.open(fileobj=file, mode="r|") as tar:
                last: dict[str, bytes] = {}
                for member in tar:
                    data = (tar.extractfile(member) or io.BytesIO()).read()
                    base = member.name.partition(".")[0]
                    last = {key: value for key, value in last.items() if key.partition(".")[0] == base} | {member.name: data}
                    if member.name.endswith(".json"):
                        row = json.loads(data)
                        if row.get("id") == row_id:
                            yield row, last[row["file_name"]]
