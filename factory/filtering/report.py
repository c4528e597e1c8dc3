"""What a filter run tells people: report.json, and a few lines of it for a terminal."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from factory import report as build_report
from factory import select
from factory.files import write_json
from factory.filtering import sheets
from factory.filtering.progress import Progress
from factory.filtering.recipe import FilterRecipe
from factory.filtering.rows import Rows
from factory.select import Selection
from factory.store import Store

EXAMPLES = 3  # ids told for each reason


def counts(rows: Rows, selection: Selection) -> dict[str, Any]:
    """rows = kept + refused by reason, and kept by class."""
    kept = Counter(rows.label[selection.keep].tolist())
    classes = [*enumerate(rows.class_names), *([(-1, "(unlabelled)")] if kept[-1] or not rows.class_names else [])]
    refused = {slug: n for slug, n in selection.refused().items() if slug != select.OVER_QUOTA}
    return {
        "rows": len(rows.label),
        "kept": int(selection.keep.sum()),
        "refused": refused,
        "per_class": {name: kept[c] for c, name in classes},
    }


def write(recipe: FilterRecipe, store: Store, rows: Rows, selection: Selection, progress: Progress) -> dict[str, Any]:
    """report.json. Returns the report."""
    seconds = progress.seconds()
    read = Counter(rows.label.tolist())
    told = counts(rows, selection)
    names = dict(enumerate(rows.class_names))
    value = {
        "name": recipe.name,
        "plan": store.run()["plan"],
        "read": told["rows"],
        "kept": told["kept"],
        "refused": told["refused"],
        "per_class": {name: {"read": read[c], "kept": told["per_class"][name]} for c, name in names.items()},
        "examples": _examples(store, rows, selection),
        "shards": len(rows.shards.names),
        "this_launch": {"rows": progress.rows, "seconds": round(seconds, 2), "images_per_s": round(progress.rows / max(seconds, 1e-6), 2)},
        "worker_seconds": round(sum(store.mark(shard)["seconds"] for shard in rows.shards.names), 2),
        "threads": recipe.threads,
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    write_json(store.folder / "report.json", value)
    return value


def _examples(store: Store, rows: Rows, selection: Selection) -> dict[str, list[dict[str, str]]]:
    """For each reason the first few rows that have it, with what was wrong where a row could not be read."""
    wanted = {slug: np.flatnonzero(selection.reason == code)[:EXAMPLES] for code, slug in enumerate(selection.reasons) if code}
    every = np.concatenate([np.zeros(0, int), *wanted.values()])
    known = store.records(rows.shards.names, every, ["id", "detail"])
    told = {number: {key: value for key, value in row.items() if value} for number, row in known.items()}
    return {slug: [told[number] for number in some.tolist()] for slug, some in wanted.items() if len(some)}


def summary(value: dict[str, Any], recipe: FilterRecipe, out: Path) -> str:
    """A report in a few lines for a terminal."""
    lines = [f"read       {value['read']}", f"kept       {value['kept']}", f"refused    {value['read'] - value['kept']}"]
    for slug, count in value["refused"].items():
        if count:
            first = value["examples"][slug][0]
            lines.append(f"           {slug}: {count}   such as {first['id']}{' (' + first['detail'] + ')' if 'detail' in first else ''}")
    lines += unscored_lines(value["refused"])
    if value["this_launch"]["rows"]:
        lines.append(f"rate       {value['this_launch']['images_per_s']} images/s")
    if recipe.keep in ("index", "both"):
        lines.append(f"index      {out / 'kept.parquet'}")
    if recipe.keep in ("dataset", "both"):
        lines.append(build_report.dataset_line(out, value["kept"]))
    pictures = [str(out / name) for name in (sheets.KEPT, sheets.REFUSED) if (out / name).exists()]
    lines += [f"pictures   {', '.join(pictures)}"] if pictures else []
    return "\n".join([*lines, f"numbers    {out / 'report.json'}"])


def unscored_lines(refused: dict[str, int]) -> list[str]:
    """What to do about rows that a cascade has not scored and the rules now ask for."""
    waiting = {slug.removeprefix("unscored_"): count for slug, count in refused.items() if slug.startswith("unscored_") and count}
    return [
        f"unscored   {count} rows have reached {name} by these rules and were never scored by it; "
        "run `factory filter` with these rules and the same --out to score them"
        for name, count in waiting.items()
    ]
