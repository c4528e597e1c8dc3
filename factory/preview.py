"""Before a build: what it would do, what it would cost, and its first images."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from factory import contact_sheet, images, runtime
from factory.contracts import Table
from factory.errors import Undecodable
from factory.files import write_atomically
from factory.plan import Plan
from factory.prepare import Preparer
from factory.recipe import Recipe
from factory.records import Example, Request


def facts(recipe: Recipe, plan: Plan, table: Table) -> dict[str, Any]:
    """What a plan holds, from the recipe and the source alone; no model is loaded."""
    slots = int(plan.wanted.sum())
    names = plan.class_names or ["(all)"]
    return {
        "name": recipe.name,
        "plan": plan.id,
        "slots": slots,
        "real_images": len(table),
        "prompts": len(plan.prompts),
        "wording": plan.wording,
        "sweep": len(plan.sweeps),
        "shards": len(plan.shards(0, plan.requests(np.zeros(len(plan.classes), np.int64), plan.wanted))),
        "shard_requests": plan.shard,
        "batch": plan.batch_sizes[0],
        "generators": [
            {"kind": g.kind, "model": getattr(g, "model", None), "share": round(float(share), 4)}
            for g, share in zip(recipe.generator, plan.shares, strict=True)
        ],
        "parents_per_image": plan.parent_count,
        "rounds_at_most": recipe.amount.rounds,
        "disk_mb": _disk_mb(recipe, table, slots),
        "classes": [
            {"name": name, "parents": len(pool), "wanted": int(n)} for name, pool, n in zip(names, plan.pools, plan.wanted, strict=True)
        ],
    }


def _disk_mb(recipe: Recipe, table: Table, slots: int) -> float:
    """Megabytes of images as PNG, at the generator's size where the recipe gives one, else at that of the first real images."""
    real: list[np.ndarray] = []
    for index in range(min(8, len(table))):
        with contextlib.suppress(Undecodable):
            real.append(table.read(index).image)
    pixels = sum(image.shape[0] * image.shape[1] for image in real)
    if not pixels:
        return 0.0
    per_pixel = sum(len(images.encode(image)) for image in real) / pixels
    side = [getattr(recipe.generator[0], name, None) or (pixels / len(real)) ** 0.5 for name in ("height", "width")]
    return round(slots * per_pixel * side[0] * side[1] / 1e6, 1)


def lines(facts: dict[str, Any]) -> list[str]:
    """The facts for a terminal."""
    text = [
        f"slots    {facts['slots']} images to keep, {facts['parents_per_image']} real parent(s) each, {facts['prompts']} distinct prompts",
        f"shards   {facts['shards']} of up to {facts['shard_requests']} requests, in batches of {facts['batch']}; up to {facts['rounds_at_most']} rounds",
    ]
    probe = facts.get("probe")
    if probe is None:
        return [*text, f"disk     about {facts['disk_mb']} MB if images are like the source's; --probe measures disk and time"]
    minutes = probe["seconds_total"] / 60
    return [
        *text,
        f"probe    {probe['images']} images in {probe['seconds']} s ({probe['images_per_s']}/s on {probe['device']}), {probe['size']}",
        f"time     about {minutes:.1f} minutes for one round with one worker; each further worker divides it",
        f"disk     about {probe['disk_mb']} MB of images before export",
    ]


def probe(recipe: Recipe, plan: Plan, table: Table, device: str) -> dict[str, Any]:
    """Make one full batch twice (the first warms up) and scale the second up to the plan."""
    slots = int(plan.wanted.sum())
    first = first_images(recipe, plan, table, min(plan.batch_sizes[0], slots), device, repeat=2)
    size = float(np.mean([len(images.encode(image)) for image in first.images]))
    rate = len(first.images) / first.seconds
    height, width = first.images[0].shape[:2]
    return {
        "images": len(first.images),
        "seconds": round(first.seconds, 3),
        "images_per_s": round(rate, 2),
        "device": first.device,
        "size": f"{width}×{height} px",
        "seconds_total": round(slots / rate, 1),
        "disk_mb": round(slots * size / 1e6, 1),
    }


class First:
    """The first images of a plan, their parents, and how long the last pass took."""

    def __init__(self, requests: list[Request], parents: list[tuple[Example, ...]], device: str):
        self.requests, self.parents, self.device = requests, parents, device
        self.images: list[np.ndarray] = []
        self.seconds = 0.0


def first_images(recipe: Recipe, plan: Plan, table: Table, n: int, device: str, repeat: int = 1) -> First:
    """Generate the first n requests of the plan, exactly as the build will. Raises UserError."""
    me = runtime.worker()
    runtime.fix_numerics(recipe.threads)
    chosen = runtime.device(me, device)
    rows = plan.requests(np.zeros(len(plan.classes), np.int64), np.minimum(plan.wanted, n))
    order = np.lexsort((rows.label, rows.ordinal))[:n]  # the first of each class, whichever generator makes them
    chosen_rows = rows.take(np.sort(order))
    with TemporaryDirectory(prefix="factory-") as cache:
        preparer = Preparer(recipe, plan, table, chosen, Path(cache))
        batches = [
            (shard.generator, b) for shard in plan.shards(0, chosen_rows) for b in plan.batches(chosen_rows.slice(shard.start, shard.stop))
        ]
        prepared = [(generator, preparer.prepare(batch)) for generator, batch in batches]
    first = First([r for _, b in prepared for r in b.requests], [p for _, b in prepared for p in b.parents], chosen)
    for number, kind in enumerate(recipe.generator):
        own = [batch for generator, batch in prepared if generator == number]
        if own:
            generator = kind.open(chosen)
            generator.check(recipe.needs(), plan.class_names)
            for last in range(repeat):
                started = time.perf_counter()
                made = [image for batch in own for image in generator.generate(batch.seeds, batch.inputs)]
                first.seconds += (time.perf_counter() - started) * (last + 1 == repeat)
            first.images += made
    return first


def make(recipe: Recipe, plan: Plan, table: Table, n: int, path: Path, device: str) -> str:
    """Write a picture of the first n images beside their parents. Returns what to tell the user."""
    first = first_images(recipe, plan, table, n, device)
    groups: dict[str, list[contact_sheet.Group]] = {}
    for request, parents, image in zip(first.requests, first.parents, first.images, strict=True):
        name = plan.class_names[request.label] if request.label >= 0 else ""
        groups.setdefault(name, []).append(([p.image for p in parents], image))
    picture = contact_sheet.draw(groups, recipe.name)
    write_atomically(path, lambda p: picture.save(p, "PNG"))
    prompts = "\n".join(f"  {r.id}  seed {r.seed}  {r.prompt!r}" for r in first.requests)
    return f"{prompts}\n{len(first.images)} images in {first.seconds:.1f} s, in {path}"
