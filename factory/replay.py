"""The story of `factory replay`: one image made again from its recipe, its plan and the real images, and compared with the stored one."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image
from ruamel.yaml import YAML

from factory import images, published, runtime, wording
from factory import plan as planning
from factory import recipe as recipes
from factory.contracts import OpenGenerator, Table
from factory.errors import UserError
from factory.files import write_atomically
from factory.plan import Plan
from factory.prepare import Batch, Preparer
from factory.publish import names
from factory.published import Stored
from factory.recipe import Recipe
from factory.records import Request
from factory.store import differences

LOSSY_TOLERANCE = 8  # of 255: what codecs of different builds may make of the same pixels
_MADE_BY = ("hardware", "torch", "diffusers", "numpy", "factory", "pipeline", "scheduler", "dtype", "weights", "commit")


@dataclass(frozen=True)
class Place:
    """Where a plan makes one image. requests: its batch.  at: its place in the batch."""

    shard: str
    requests: list[Request]
    at: int

    @property
    def request(self) -> Request:
        return self.requests[self.at]


def run(
    dataset: str,
    row_id: str,
    source: str | None = None,
    sets: list[str] | None = None,
    out: Path | None = None,
    device: str = "auto",
    alone: bool = False,
    tolerance: int | None = None,
    plan_id: str = "",
) -> dict[str, Any]:
    """Make one image of a dataset again, in its plan's batch or `alone`, and say how it compares; `out` is for the picture.

    tolerance: the largest difference of a channel, of 255, that counts as the same; None is 0, and LOSSY_TOLERANCE for lossy files.
    plan_id: the beginning of the plan's name, for a dataset of several.
    Raises UserError when it cannot be made: the real images or the models are elsewhere or others.
    """
    stored = published.find(dataset, row_id, plan_id)
    recipe = _recipe(stored, source, sets or [])
    table = _table(recipe, stored, source)
    plan = planning.make(recipe, table, _wording(stored))
    place = locate(plan, stored.plan["rounds"], row_id)
    runtime.fix_numerics(recipe.threads)
    chosen = runtime.device(runtime.worker(), device)
    with TemporaryDirectory(prefix="factory-") as cache:
        preparer = Preparer(recipe, plan, table, chosen, Path(cache))
        batch = preparer.prepare([place.request] if alone else place.requests)
    at = 0 if alone else place.at
    _check(stored.row, batch, at)
    generator = _opened(recipe, place.request.generator, chosen)
    generator.check(recipe.needs(), plan.class_names)
    remade = generator.generate(batch.seeds, batch.inputs)[at]
    if out is not None:
        data = images.encode(remade)
        write_atomically(out, lambda path: _write(path, data))
    compared = compare(remade, stored.data, stored.recipe.get("export") or {}, tolerance)
    record = json.dumps(batch.inputs[at].record, sort_keys=True)
    made_by = {**generator.describe(), **runtime.describe(chosen)}
    return {
        "id": row_id,
        "plan": stored.plan["plan"],
        **compared,
        "seed": place.request.seed,
        "prompt": batch.prompts[at],
        "parents": [parent.key for parent in batch.parents[at]],
        "batch": {"shard": place.shard, "size": len(batch.requests), "place": at, "planned": len(place.requests)},
        "unlike": _unlike(stored, plan, place, record, made_by, alone),
        "picture": None if out is None else str(out),
    }


def _recipe(stored: Stored, source: str | None, sets: list[str]) -> Recipe:
    """The recipe that travelled, without its filters, which make no pixels, and with what the caller names anew."""
    written = {key: value for key, value in stored.recipe.items() if key not in ("filters", "export")}
    own = written["source"]
    if source is not None:  # patches name the large images in a source of their own
        (own["images"] if isinstance(own.get("images"), dict) else own)["dataset"] = source
    with TemporaryDirectory(prefix="factory-") as folder:
        path = Path(folder) / "recipe.yaml"
        with path.open("w", encoding="utf-8") as file:
            YAML().dump(written, file)
        return recipes.load(path, sets, environ={})


def _table(recipe: Recipe, stored: Stored, source: str | None) -> Table:
    """The opened source. Raises UserError unless it holds the very real images that the plan was made over."""
    wanted = stored.plan["identity"]["source"]["fingerprint"]
    hint = "name the folder, file or Hub id where the real images are now with --source PATH"
    try:
        table = recipe.source.open()
    except UserError as error:
        raise UserError(f"the real images that this dataset was made from are not found: {error}; {hint}") from error
    if table.fingerprint != wanted:
        where = source or "the source that the recipe names"
        raise UserError(
            f"{where} holds other real images than this dataset was made from: {len(table)} images with fingerprint {table.fingerprint[:12]}, "
            f"wanted is {wanted[:12]} (content, labels and captions count, names and places do not); {hint}"
        )
    return table


def _wording(stored: Stored) -> wording.Worded | None:
    """The prompts as they were, so that no language model is asked again; None for a run that did not write them down."""
    prompts, places = (stored.plan.get(key) for key in ("prompts", "class_prompts"))
    return None if prompts is None or places is None else wording.Worded([[prompts[i] for i in group] for group in places], {})


def _opened(recipe: Recipe, number: int, device: str) -> OpenGenerator:
    try:
        return recipe.generator[number].open(device)
    except UserError as error:
        raise UserError(f"{error}; a model that was a local folder is named with --set generator[{number}].model=PATH") from error


def locate(plan: Plan, rounds: list[dict[str, list[int]]], row_id: str) -> Place:
    """Where a plan makes the image of this id, given its recorded rounds. Raises UserError when no round asked for it."""
    for number, stretch in enumerate(rounds):
        start, count = (np.array(stretch[key], np.int64) for key in ("start", "count"))
        if len(start) != len(plan.classes):
            break
        requests = plan.requests(start, count)
        ids = (planning.request_id(label, k) for label, k in zip(requests.label.tolist(), requests.ordinal.tolist(), strict=True))
        at = next((i for i, found in enumerate(ids) if found == row_id), None)
        if at is None:
            continue
        shard = next(shard for shard in plan.shards(number, requests) if shard.start <= at < shard.stop)
        batches = list(plan.batches(requests.slice(shard.start, shard.stop)))
        which, place = divmod(at - shard.start, plan.batch_sizes[shard.generator])
        return Place(shard.name, batches[which], place)
    raise UserError(f"the plan has no image with the id {row_id!r}; does the dataset's plan.json belong to it?")


def _check(row: dict[str, Any], batch: Batch, at: int) -> None:
    """Raise UserError when this is not what the stored image was asked to be; a comparison would then mean nothing."""
    parents = [parent.key for parent in batch.parents[at]]
    for name, here in (("seed", batch.requests[at].seed), ("prompt", batch.prompts[at]), ("parents", parents)):
        if name in row and row[name] != here:
            raise UserError(
                f"the plan gives image {row['id']} another {name} than is stored with it: {here!r}, not {row[name]!r}; "
                f"the recipe, the plan and the image are not of one run, or a --set changed it"
            )


def compare(remade: np.ndarray, data: bytes, export: dict[str, Any], tolerance: int | None) -> dict[str, Any]:
    """How pixels, uint8 [H, W, 3], compare with a stored file. For a lossy one they are first encoded as the export did.

    Differences are of a channel, of 255, over all pixels.
    """
    format = str(Image.open(io.BytesIO(data)).format).lower()
    quality = int(export.get("quality", 95))
    lossless = format == "png" or (format == "webp" and b"VP8L" in data[:4096])
    stored = images.decode(data)
    mine = remade
    if not lossless and format in ("webp", "jpeg"):
        mine = images.decode(images.encode(remade, "webp" if format == "webp" else "jpeg", quality))
    limit = tolerance if tolerance is not None else 0 if lossless else LOSSY_TOLERANCE
    about = {"format": format, "lossless": lossless, "tolerance": limit, "size": [stored.shape[1], stored.shape[0]]}
    if mine.shape != stored.shape:
        return {"match": False, "identical": False, "max_difference": None, "mean_difference": None, **about}
    difference = np.abs(mine.astype(np.int16) - stored)
    most = int(difference.max(initial=0))
    return {
        "match": most <= limit,
        "identical": most == 0,
        "max_difference": most,
        "mean_difference": round(float(difference.mean()), 4),
        **about,
    }


def _unlike(stored: Stored, plan: Plan, place: Place, record: str, made_by: dict[str, Any], alone: bool) -> list[str]:
    """What is known to be unlike the making of the stored image, one line each: reasons for pixels to differ."""
    generators = stored.plan["generators"]
    then = generators[place.request.generator] if len(generators) == len(plan.shares) else {}
    known = [key for key in _MADE_BY if key in then]
    here = _public(made_by)
    lines = differences({key: _public(then[key]) for key in known}, {key: here.get(key) for key in known})
    if alone and len(place.requests) > 1:
        lines.append(f"batch: {len(place.requests)} → 1 (float sums depend on a batch's shape; leave out --alone)")
    if "conditioning" in stored.row and stored.row["conditioning"] != record:
        lines.append(f"conditioning: {stored.row['conditioning']} → {record}")
    identities = (_public(json.loads(json.dumps(identity))) for identity in (stored.plan["identity"], plan.identity))
    return lines + differences(*identities)


def _public(value: Any) -> Any:
    """The same place is another path for everyone: only names are compared."""
    return names.public(value)[0]


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def summary(result: dict[str, Any]) -> str:
    """The result in a few lines, the verdict first."""
    kind = "pixels" if result["lossless"] else f"pixels after {result['format']} encoding"
    if result["identical"]:
        verdict = f"identical: {result['id']} was made again, all {kind} are equal"
    elif result["max_difference"] is None:
        verdict = f"different: {result['id']} was made again in another size than the stored {result['size'][0]}×{result['size'][1]}"
    else:
        word = "matches" if result["match"] else "different"
        verdict = (
            f"{word}: {result['id']} was made again; {kind} differ by {result['max_difference']} of 255 at most, "
            f"{result['mean_difference']:g} on average (tolerance {result['tolerance']})"
        )
    batch = result["batch"]
    lines = [verdict, f"batch      {batch['size']} image(s), place {batch['place']}, shard {batch['shard']}"]
    if result["unlike"]:
        lines += [f"{'unlike' if i == 0 else '':<10} {line}" for i, line in enumerate(result["unlike"])]
    elif not result["identical"]:
        lines.append("unlike     nothing that was recorded: same versions, hardware, weights and batch")
    return "\n".join(lines + ([f"written    {result['picture']}"] if result["picture"] else []))
