"""The story of `factory evaluate`: guards, then utility, fidelity and memorisation, into RUN/evaluation.json."""

from __future__ import annotations

import contextlib
import logging
import platform
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from factory import evaluation_file, locks, runtime, select
from factory.errors import UserError
from factory.evaluate import draws as drawing
from factory.evaluate import evidence as gathering
from factory.evaluate import guards, likeness, memorisation, trials, verdict
from factory.evaluate.draws import Draws
from factory.evaluate.evidence import Evidence
from factory.evaluate.guards import Check
from factory.evaluate.settings import Settings
from factory.files import write_json
from factory.store import Store

log = logging.getLogger("factory")


def run(folder: Path, real: str, test: str, settings: Settings, device: str = "auto", dry_run: bool = False) -> dict[str, Any]:
    """Measure a run and write evaluation.json; returns it. dry_run: the guards and the list of trainings, and nothing is written.

    Raises UserError where a guard fails; evaluation.json then says so, and holds nothing else but a gate that was shut before.
    """
    with contextlib.nullcontext() if dry_run else _alone(folder):
        return _run(folder, real, test, settings, device, dry_run)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a run's evaluation. Raises UserError for no run, and while another process evaluates it."""
    own = Store.existing(folder).folder / "evaluation"
    own.mkdir(exist_ok=True)
    lock = locks.take(own / "evaluation.lock")
    if lock is None:
        raise UserError(f"{folder} is being evaluated by another process; wait for it, and run the same command again")
    try:
        yield
    finally:
        lock.release()


def _run(folder: Path, real: str, test: str, settings: Settings, device: str, dry_run: bool) -> dict[str, Any]:
    started = time.perf_counter()
    runtime.fix_numerics(settings.threads)
    evidence = gathering.gather(folder, real, test, settings, runtime.device(runtime.worker(), device))
    planned = drawing.make(evidence) if "utility" in settings.sections else Draws(evidence.own[:0], [], [])
    checks = [*evidence.checks(), *planned.checks]
    if not all(check.passed for check in checks):
        if not dry_run:
            unknown = verdict.unknown("Not evaluated: a guard found a leak.")
            _write(evidence, started, {"verdict": unknown, **_shut(_earlier(evidence)), "guards": _guards(checks)})
        guards.require(checks)
    if "memorisation" in settings.sections and not evidence.unseen:
        raise UserError("--test: all of its images are among those of --real, so none shows what an unseen image is like; name other ones")
    log.info("guards: all %d passed", len(checks))
    if dry_run:
        return _dry(evidence, planned, checks)
    sections: dict[str, Any] = {}
    if "utility" in settings.sections:
        sections |= _utility(evidence, planned, folder)
    if "fidelity" in settings.sections:
        made, eyes = evidence.made, evidence.eyes
        sections["fidelity"] = likeness.measure(
            made.images, evidence.real, eyes.backbone.name, evidence.class_names, made.prompts, eyes.clip
        )
    if "memorisation" in settings.sections:
        sections["memorisation"] = memorisation.measure(
            evidence.made.images, evidence.real, evidence.floor, evidence.eyes.backbone.name, settings.copy_ratio, settings.pairs, folder,
            len(evidence.real_table) if len(evidence.real_table) > settings.reference else None,
        )  # fmt: skip
    kept = _measured_before(evidence, sections)
    return _write(evidence, started, {**kept, **sections, "guards": _guards(checks)})


def _measured_before(evidence: Evidence, sections: dict[str, Any]) -> dict[str, Any]:
    """What an earlier evaluation has, and this one did not measure again: all of it where it compared with the same real images, a shut gate always."""
    found = _earlier(evidence)
    had = found if found.get("images") == _images(evidence) else _shut(found)
    kept: dict[str, Any] = {
        name: had[name] for name in ("verdict", "utility", "fidelity", "memorisation") if name in had and name not in sections
    }
    kept = {name: value for name, value in kept.items() if name != "verdict" or "utility" in kept}  # one of a guard is measured again
    if kept:
        log.info("kept of the earlier evaluation: %s", ", ".join(kept))
    return kept


def _earlier(evidence: Evidence) -> dict[str, Any]:
    """The earlier evaluation of the same synthetic images; empty where there is none that can be read."""
    try:
        found = evaluation_file.read(evidence.run.store.folder)
    except UserError as error:
        log.warning("nothing of the earlier evaluation is kept: %s", error)
        return {}
    return found if found is not None and evaluation_file.measured(found, select.digest(evidence.run.keep)) else {}


def _shut(found: dict[str, Any]) -> dict[str, Any]:
    """The memorisation of an evaluation where its gate did not pass: it stays shut until it is tried again, whatever images are named meanwhile."""
    memorisation = found.get("memorisation", {})
    return {"memorisation": memorisation} if memorisation.get("gate", {}).get("passed") is False else {}


def _images(evidence: Evidence) -> dict[str, str]:
    """Fingerprints of the real images that an evaluation compares with."""
    return {"real": evidence.real_table.fingerprint, "test": evidence.test_table.fingerprint}


def _write(evidence: Evidence, started: float, sections: dict[str, Any]) -> dict[str, Any]:
    head = {"version": evaluation_file.VERSION, "created": datetime.now(timezone.utc).isoformat(timespec="seconds")}
    head |= {"seconds": round(time.perf_counter() - started, 1), "machine": f"{platform.system()} {platform.machine()}"}
    result = {**head, "selection": select.digest(evidence.run.keep), "images": _images(evidence), **sections}
    write_json(evidence.run.store.folder / evaluation_file.NAME, result)
    return result


def _guards(checks: list[Check]) -> dict[str, Any]:
    rows = [{"name": check.name, "passed": check.passed, "ids": check.ids} for check in checks]
    return {"passed": all(check.passed for check in checks), "checks": rows}


def _utility(evidence: Evidence, planned: Draws, folder: Path) -> dict[str, Any]:
    settings = evidence.settings
    lacking = drawing.lacking(evidence, planned.draws)
    if lacking:
        log.warning(
            "there is no synthetic image of %s to train with, so at that point no ratio can be tried", ", ".join(lacking[: guards.NAMED])
        )
    rows = trials.run(evidence, planned, trials.plan(evidence, planned), folder / "evaluation" / "trials.jsonl")
    choices: dict[str, Any] = {classifier: verdict.choose(rows, classifier) for classifier in settings.classifiers}
    first = settings.classifiers[0]
    protocol: dict[str, Any] = {
        "name": settings.protocol,
        "classes": evidence.class_names,
        "untested": evidence.untested,
        "training_images": sorted({len(draw.real) for draw in planned.draws}),
        "validation_images": len(planned.validation),
        "test_images": len(evidence.test),
        "chosen_on": "validation images cut from the real training set",
        "seeds_vary": "training" if settings.protocol == "run" else "drawn images and training",
        "settings": settings.model_dump(mode="json", exclude={"sections", "pairs", "clip"}),
    }
    body = {"protocol": protocol, "metric": "balanced_accuracy", "classifier": first, "seeds": settings.seeds}
    found = verdict.verdict(rows, first, lacking)
    log.info("verdict: %s", found["text"])
    return {"verdict": found, "utility": {**body, "rows": verdict.table(rows, choices), "sweep": verdict.sweep(rows)}}


def _dry(evidence: Evidence, planned: Draws, checks: list[Check]) -> dict[str, Any]:
    planned_trials = trials.plan(evidence, planned) if planned.draws else []
    return {
        "synthetic": len(evidence.made.images),
        "real": len(evidence.real),
        "own": len(evidence.own),
        "validation": len(planned.validation),
        "test": len(evidence.test),
        "sections": list(evidence.settings.sections),
        "trainings": len(planned_trials),
        "arms": list(dict.fromkeys(f"{t.arm} {t.ratio:g}" if t.ratio else t.arm for t in planned_trials)),
        "guards": _guards(checks),
    }


def summary(result: dict[str, Any], folder: Path) -> str:
    """An evaluation in a few lines for a terminal; the verdict first."""
    lines = [f"verdict       {result['verdict']['text']}"] if "verdict" in result else []
    for row in result.get("utility", {}).get("rows", []):
        name = row["arm"] + (f" {row['ratio']:g}:1" if row["ratio"] else "")
        labels = f"{row['labels']} labels  " if row["labels"] is not None else ""
        half = "" if row["ci95"] is None else f" ± {100 * row['ci95']:.1f}"
        lines.append(f"utility       {labels}{row['classifier']:<14} {name:<22} {100 * row['accuracy_mean']:.1f}{half}")
    if "fidelity" in result:
        row, name = result["fidelity"]["rows"][0], result["fidelity"]["backbone"]
        for key in ("frechet", "kernel", "cmmd", "precision", "recall", "density", "coverage", "vendi"):
            if row[key] is not None:
                lines.append(
                    f"fidelity      {key:<10} {row[key]:.4g}   (real: {row[f'{key}_real']:.4g})   {name if key == 'frechet' else ''}".rstrip()
                )
    if "memorisation" in result:
        lines.append(
            f"memorisation  {'passed' if result['memorisation']['gate']['passed'] else 'FAILED'}: {result['memorisation']['gate']['text']}"
        )
    lines.append(f"guards        {len(result['guards']['checks'])} passed")
    return "\n".join([*lines, f"written       {folder / 'evaluation.json'}"])


def dry_summary(facts: dict[str, Any]) -> str:
    """What an evaluation would do, in a few lines."""
    counts = ", ".join(f"{facts[key]} {name}" for key, name in (("synthetic", "synthetic"), ("real", "real training"), ("test", "test")))
    lines = [f"images     {counts}; {facts['own']} real ones made the run, {facts['validation']} choose the ratio"]
    lines += [f"sections   {', '.join(facts['sections'])}", f"trainings  {facts['trainings']}  ({', '.join(facts['arms'])})"]
    return "\n".join([*lines, f"guards     {len(facts['guards']['checks'])} passed", "nothing was trained or written (--dry-run)"])
