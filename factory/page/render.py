"""The story of `factory report`: facts, pictures and scores of a run into one HTML file that needs nothing else."""

from __future__ import annotations

import datetime
import time
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from factory import __version__, evaluation_file, finished, publish
from factory.files import write_atomically, write_text
from factory.finished import Run
from factory.page import charts, pictures, scores
from factory.recipe import Recipe


def write(folder: Path, out: Path) -> dict[str, Any]:
    """Write the page of a finished run. Returns {page, bytes, rows, rows_in_page}. Raises UserError."""
    run = finished.read(folder)
    rows = scores.sample(run)
    shown = str(folder) if not folder.is_absolute() else folder.name
    page = html(run, rows, shown, pictures.album(run, rows))
    write_atomically(out, lambda path: write_text(path, page))
    return {"page": str(out), "bytes": out.stat().st_size, "rows": len(run.labels), "rows_in_page": len(rows)}


def summary(result: dict[str, Any]) -> str:
    """What was written, in a few lines for a terminal."""
    lines = [f"page   {result['page']}   {result['bytes'] / 1e6:.1f} MB, opens in any browser, offline"]
    if result["rows_in_page"] < result["rows"]:
        lines.append(f"rows   an even sample of {result['rows_in_page']} of {result['rows']}: counts move approximately")
    return "\n".join(lines)


def html(run: Run, rows: np.ndarray, name: str, album: pictures.Album) -> str:
    """The page. Every text of the run (prompts, class names, an evaluation's words) is escaped.

    rows: which rows' scores it carries.  name: the run folder as commands name it.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("factory.page", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["short"] = charts.short
    evaluation = run.evaluation or {}
    utility, memorisation = evaluation.get("utility"), evaluation.get("memorisation")
    return environment.get_template("page.html.j2").render(
        run=run,
        report=run.report,
        command=name,
        payload=scores.payload(run, rows, f"factory select {name}"),
        album=album,
        families_have_parents=any(child.parents for child in album.families),
        position={int(row): i for i, row in enumerate(rows)},
        tiles=_tiles(run),
        verdict=_verdict(run),
        evaluation=evaluation,
        charts=charts.accuracy(utility) if utility else [],
        arms=charts.arms(utility) if utility else [],
        interval_over=(evaluation_file.interval_over(utility) if utility else "") or "seeds and images",
        shot_groups=charts.shot_groups(utility) if utility else [],
        fidelity=charts.fidelity(evaluation["fidelity"]) if evaluation.get("fidelity") else None,
        pairs=pictures.pairs(run.store.folder, memorisation) if memorisation else [],
        accuracy_names=charts.per_class_names(utility) if utility else None,
        balance=_balance(run, charts.per_class(utility) if utility else {}),
        prompts=_prompts(run.report.get("prompts") or {}),
        made_by=_made_by(run),
        cost=_cost(run),
        size=(charts.WIDTH, charts.HEIGHT, charts.LEFT, charts.RIGHT, charts.TOP, charts.BOTTOM),
        version=__version__,
        today=datetime.date.fromtimestamp(time.time()).isoformat(),
    )


def _verdict(run: Run) -> dict[str, Any]:
    """tone: yes, no, unsure or unmeasured.  headline, text: the evaluation's words.  numbers: (what, value)."""
    if run.quota is None:
        text = "A corpus that was filtered. Whether images help a classifier is measured on runs of factory build."
        return {"tone": "unmeasured", "headline": f"{_kept_share(run)} kept", "text": text, "numbers": []}
    verdict = (run.evaluation or {}).get("verdict")
    if not verdict:
        text = "No classifier has been trained with these images yet, so nobody knows whether they help."
        return {"tone": "unmeasured", "headline": "Not measured yet", "text": text, "numbers": []}
    use = verdict.get("use")
    tone, headline = {True: ("yes", "Use it"), False: ("no", "Do not use it")}.get(use, ("unsure", "Undecided"))
    numbers = []
    if verdict.get("gain") is not None:
        half = verdict.get("ci95")
        numbers.append(("gain in points", f"{100 * verdict['gain']:+.1f}" + (f" ± {100 * half:.1f}" if half is not None else "")))
    if use and verdict.get("ratio") is not None:
        numbers.append(("synthetic : real", f"{verdict['ratio']:g} : 1"))
    text = _after(headline, verdict.get("text") or "")
    if run.outdated:
        text = f"Another selection was measured than the one that is kept now; run factory evaluate again. It said: {headline}. {text}"
        return {"tone": "unsure", "headline": "Out of date", "text": text, "numbers": numbers}
    return {"tone": tone, "headline": headline, "text": text, "numbers": numbers}


def _after(headline: str, text: str) -> str:
    """A verdict's words without the headline that they may begin with."""
    rest = text.removeprefix(f"{headline}: ")
    return rest[:1].upper() + rest[1:]


def _kept_share(run: Run) -> str:
    return f"{run.selection.keep.mean():.0%}" if len(run.labels) else "–"


def _tiles(run: Run) -> list[tuple[str, str]]:
    """(what, value): the numbers that come first."""
    made, kept = len(run.labels), int(run.selection.keep.sum())
    seconds = float(run.report.get("worker_seconds") or 0)
    lines = [("images kept", f"{kept:,}"), (run.verb, f"{made:,}"), ("yield", _kept_share(run))]
    lines += [("classes", f"{len(run.classes):,}"), ("worker time", duration(seconds))]
    return lines + ([("images per second", charts.short(made / seconds))] if seconds else [])


def _balance(run: Run, accuracy: dict[str, tuple[str, str]]) -> list[dict[str, Any]]:
    """For each class: real images it could be conditioned on, wanted, generated, kept, and (accuracy without, with) where measured."""
    real = run.source.get("real", [])
    lines = []
    for c in run.classes:
        own = run.labels == c
        lines.append(
            {
                "name": run.class_name(c),
                "real": real[c] if 0 <= c < len(real) else None,
                "goal": (run.quota or {}).get(c, 0),
                "made": int(own.sum()),
                "kept": int((own & run.selection.keep).sum()),
                "accuracy": accuracy.get(run.class_name(c), ("", "")),
            }
        )
    return lines


def _prompts(section: dict[str, Any]) -> list[tuple[str, str]]:
    """(what, value) of the prompts in use: how many, which cells of the axes they fill, how different they are."""
    facts = [("prompts made", section.get("made")), ("near-duplicates dropped", section.get("dropped")), ("in use", section.get("used"))]
    coverage, diversity = section.get("coverage") or {}, section.get("diversity") or {}
    if coverage.get("cells", 0) > 1:
        facts += [("cells of the axes", coverage.get("cells")), ("filled, mean of the classes", coverage.get("filled_mean"))]
        facts += [("filled, least class", coverage.get("filled_least"))]
    facts += [("effective number (Vendi)", diversity.get("vendi")), ("mean cosine distance", diversity.get("mean_cosine_distance"))]
    return [(what, charts.short(value)) for what, value in facts if value is not None]


def _made_by(run: Run) -> list[tuple[str, str]]:
    """(what, value): source, generators, condition, prompts; folders by their last part only."""
    recipe = run.recipe
    if isinstance(recipe, Recipe):
        lines = _generated_by(recipe)
    else:
        lines = [("corpus", publish.public_name(str(getattr(recipe.corpus, "dataset", recipe.corpus.kind))))]
    lines += [(name, f.asks()) for name, f in recipe.named_filters()]
    lines += [("plan", str(run.report.get("plan", "")))]
    lines += [(package, version) for package, version in (run.report.get("versions") or {}).items()]
    return lines


def _generated_by(recipe: Recipe) -> list[tuple[str, str]]:
    lines = [("source", publish.public_name(str(getattr(recipe.source, "dataset", recipe.source.kind))))]
    for generator, name in zip(recipe.generator, publish.generator_names(recipe), strict=True):
        settings = [f"{key} {getattr(generator, key)}" for key in ("steps", "guidance") if getattr(generator, key, None) is not None]
        lines.append(("generator", ", ".join([name, *settings])))
    lines.append(("condition", recipe.condition.kind))
    text = getattr(recipe.prompts, "text", None)
    lines.append(("prompts", f"{recipe.prompts.kind}: {text}" if text else recipe.prompts.kind))
    return lines + [(f"sweep {name}", ", ".join(f"{value:g}" for value in values)) for name, values in recipe.sweep.items()]


def _cost(run: Run) -> list[tuple[str, str]]:
    seconds = float(run.report.get("worker_seconds") or 0)
    made, kept = len(run.labels), int(run.selection.keep.sum())
    lines = [("worker time", duration(seconds))]
    if seconds:
        lines += [("images per second and worker", charts.short(made / seconds))]
    if seconds and kept:
        lines += [("seconds per kept image", charts.short(seconds / kept))]
    if run.report.get("threads"):
        lines += [("CPU threads per worker", str(run.report["threads"]))]
    measured = (run.evaluation or {}).get("seconds")
    return lines + ([("evaluation", duration(float(measured)))] if measured else [])


def duration(seconds: float) -> str:
    """In the two largest units: 45 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60) if seconds >= 3600 else int(seconds // 60)
    return f"{minutes // 60} h {minutes % 60} min" if seconds >= 3600 else f"{minutes} min {round(seconds % 60)} s"
