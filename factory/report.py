"""What a run tells people: progress while it works, a contact sheet, and report.json at the end."""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections import Counter
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from factory import contact_sheet, wording
from factory.contracts import Table
from factory.files import write_json
from factory.plan import Plan, Shard
from factory.recipe import Recipe
from factory.select import Selection
from factory.store import Store

log = logging.getLogger("factory")
LINE_SECONDS = 10.0
SHEET_SECONDS = 20.0


class Progress:
    """Images done of a round, rate, yield and time left: a bar on a terminal, log lines elsewhere."""

    def __init__(self, recipe: Recipe, store: Store, table: Table, show: bool):
        self.recipe, self.store, self.table, self.show = recipe, store, table, show
        self.made = 0  # images this worker generated or scored in this launch
        self.passed = 0
        self.started: float | None = None  # when the models were ready
        self.ended: float | None = None
        self._shards: list[Shard] = []
        self._before = self._own = 0
        self._line = self._sheet = time.perf_counter()
        self._bar: RichProgress | None = None

    def __enter__(self) -> Progress:
        console = Console(stderr=True)
        if self.show and console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
            )
            self._bar = RichProgress(*columns, console=console)
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.ended = time.perf_counter()
        if self._bar is not None:
            self._bar.stop()

    def begin(self, number: int, shards: list[Shard]) -> None:
        """A round starts."""
        self._shards, self._own, self._before = shards, 0, self._marked(shards)
        self._round_started = time.perf_counter()
        self._total = sum(map(len, shards))
        if self._bar is not None:
            for task in self._bar.task_ids:
                self._bar.remove_task(task)
            self._task = self._bar.add_task(f"round {number}", total=self._total, completed=self._before, note="")
        elif self.show:
            kept = f", {self._before} already there" if self._before else ""
            log.info("round %d: %d images in %d shard%s%s", number, self._total, len(shards), "s" * (len(shards) != 1), kept)
        self._number = number

    def ready(self) -> None:
        """The models are loaded: rates count from here."""
        if self.started is None:
            self.started = self._round_started = time.perf_counter()

    def add(self, count: int, columns: dict[str, dict[str, np.ndarray]]) -> None:
        """A batch is made and scored."""
        self.made += count
        self._own += count
        passing = np.ones(count, bool)
        for f in self.recipe.filters:
            scores = columns.get(f.identity(), {}).get("score")
            if scores is not None and not f.whole:
                low, high = f.bounds()
                passing &= (scores >= low) & (scores <= high)
        self.passed += int(passing.sum())
        self._show(self._before + self._own)

    def refresh(self) -> None:
        """A shard is finished, here or elsewhere."""
        if not self.show:
            return
        self._show(max(self._marked(self._shards), self._before + self._own))
        if time.perf_counter() - self._sheet > SHEET_SECONDS:
            self._sheet = time.perf_counter()
            made = (shard.name for shard in self._shards if self.store.is_made(shard.name, len(shard)))
            contact_sheet.of_run(self.store, self.table, list(itertools.islice(made, 2)))

    def seconds(self) -> float:
        """From models ready to the last shard written; 0 when nothing was made."""
        return 0.0 if self.started is None else (self.ended or time.perf_counter()) - self.started

    def _marked(self, shards: list[Shard]) -> int:
        names = self.store.marked()
        return sum(len(shard) for shard in shards if shard.name in names)

    def _show(self, done: int) -> None:
        seconds = max(time.perf_counter() - self._round_started, 1e-6)
        rate = max(done - self._before, 0) / seconds
        share = f"yield {self.passed / self.made:.0%}" if self.made else ""
        done = min(done, self._total)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, note=f"{rate:.1f} images/s  {share}")
        elif self.show and time.perf_counter() - self._line > LINE_SECONDS:
            self._line = time.perf_counter()
            left = (self._total - done) / rate if rate else 0
            log.info(
                "round %d: %d/%d images  %.1f/s  %s  %d:%02d left", self._number, done, self._total, rate, share, *divmod(int(left), 60)
            )


def write(recipe: Recipe, plan: Plan, table: Table, store: Store, selection: Selection, progress: Progress) -> dict[str, Any]:
    """report.json and the contact sheet of what was kept. Returns the report."""
    shards, rows = store.read_rows()
    labels = rows["label"]
    contact_sheet.of_run(store, table, list(shards.names), labels, selection.keep)
    marks = [store.mark(name) for name in shards.names]
    seconds = progress.seconds()
    kept = Counter(labels[selection.keep].tolist())
    asked = Counter(labels.tolist())
    name_of = dict(zip(plan.classes.tolist(), plan.class_names or ["(all)"], strict=True))
    per_class = {
        name_of[c]: {"wanted": int(w), "generated": asked[c], "kept": kept[c]}
        for c, w in zip(plan.classes.tolist(), plan.wanted, strict=True)
    }
    report = {
        "name": recipe.name,
        "plan": plan.id,
        "rounds": len(store.rounds()),
        "requested": int(plan.wanted.sum()),
        "generated": len(labels),
        "kept": int(selection.keep.sum()),
        "refused": selection.refused(),
        "per_class": per_class,
        "short": _short(per_class),
        "quarantined_parents": {row: why for mark in marks for row, why in mark["quarantined"].items()},
        "this_launch": {
            "images": progress.made,
            "seconds": round(seconds, 2),
            "images_per_s": round(progress.made / max(seconds, 1e-6), 2),
        },
        "worker_seconds": round(sum(mark["seconds"] for mark in marks), 2),
        "threads": recipe.threads,
        "prompts": _prompts(recipe, plan, asked),
        "generators": store.generators(),
        "versions": {
            package: metadata.version(package) for package in ("torch", "diffusers", "transformers", "open_clip_torch", "datasets")
        },
    }
    write_json(store.folder / "report.json", report)
    return report


def _prompts(recipe: Recipe, plan: Plan, asked: Counter[int]) -> dict[str, Any]:
    """How many prompts there were, what the ones in use cover, and how different they are."""
    used = [[plan.prompts[p] for p in own[: asked[c]].tolist()] for c, own in zip(plan.classes.tolist(), plan.class_prompts, strict=True)]
    distinct = list(dict.fromkeys(text for group in used for text in group))
    return {
        **plan.wording,
        "used": len(distinct),
        "coverage": recipe.prompts.coverage(used, plan.class_names),
        "diversity": wording.measure(distinct, recipe.prompts.sentences),
    }


def _short(per_class: dict[str, dict[str, int]]) -> dict[str, int]:
    """How many images each class lacks, for the classes that lack any."""
    return {name: row["wanted"] - row["kept"] for name, row in per_class.items() if row["kept"] < row["wanted"]}


def update(store: Store, result: dict[str, Any], quota: dict[int, int]) -> None:
    """Bring report.json up to a later selection that was exported."""
    report = json.loads((store.folder / "report.json").read_text(encoding="utf-8"))
    for (name, kept), wanted in zip(result["per_class"].items(), quota.values(), strict=True):
        report["per_class"][name] |= {"kept": kept, "wanted": wanted}
    report |= {"requested": sum(quota.values()), "kept": result["kept"], "refused": result["refused"], "short": _short(report["per_class"])}
    write_json(store.folder / "report.json", report)


def dataset_line(out: Path, kept: int) -> str:
    """Where the dataset is and how to open it; `datasets` cannot open one without rows."""
    if not kept:
        return f"dataset    {out / 'dataset'}   has no row; see which filter refused them, and try `factory sweep {out} FILTER`"
    return f"dataset    {out / 'dataset'}   open it: datasets.load_dataset({str(out / 'dataset')!r})"


def summary(report: dict[str, Any], out: Path) -> str:
    """A report in a few lines for a terminal."""
    refused = ", ".join(f"{slug} {n}" for slug, n in report["refused"].items() if n) or "none"
    launch = report["this_launch"]
    lines = [
        f"requested  {report['requested']}",
        f"generated  {report['generated']} in {report['rounds']} round{'s' if report['rounds'] != 1 else ''}",
        f"kept       {report['kept']}",
        f"refused    {report['generated'] - report['kept']}  ({refused})",
        f"speed      {launch['images_per_s']} images/s: {launch['images']} images in {launch['seconds']} s by this worker, with scoring and writing"
        if launch["images"]
        else "speed      nothing to make, all images were there",
    ]
    if report["quarantined_parents"]:
        lines.append(f"quarantine {len(report['quarantined_parents'])} real images could not be decoded; see {out / 'report.json'}")
    for name, missing in report["short"].items():
        lines.append(f"short      {name}: {missing} images under its quota after the last round; loosen a filter or raise amount.rounds")
    lines += [
        dataset_line(out, report["kept"]),
        f"pictures   {out / 'contact_sheet.png'}",
        f"numbers    {out / 'report.json'}",
    ]
    return "\n".join(lines)
