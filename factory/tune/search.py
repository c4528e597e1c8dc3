"""The story of `factory tune`: Bayesian optimisation over a recipe's knobs, in a folder from which it goes on."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from pathlib import Path
from typing import Any

from factory import recipe as recipes
from factory.errors import UserError
from factory.evaluate.utility import Arm
from factory.files import write_json
from factory.tune import space, worth
from factory.tune.space import Knob, Setting
from factory.tune.worth import LOWER, OBJECTIVES, UNLABELLED, Judge, Objective, Worth

log = logging.getLogger("factory")
RANDOM = 8  # settings drawn at random before the model of the search is trusted


def run(
    path: Path, overrides: list[str], real: str, split: str, out: Path, objective: Objective, trials: int, minutes: float | None,
    seed: int, per_class: int, backbone: str, networks: int, steps: int, device: str, test: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Search until `trials` settings were measured in all, or `minutes` have passed in this launch. Returns what search.json holds.

    The next setting depends on the seed and on what was measured before, so a search that was interrupted ends like one that was not.
    Raises UserError.
    """
    if objective not in OBJECTIVES:
        raise UserError(f"--objective {objective}: there are {', '.join(OBJECTIVES)}")
    recipe = recipes.load(path, overrides)
    table = recipe.source.open()
    if not table.class_names and objective not in UNLABELLED:
        raise UserError(
            f"--objective {objective}: the recipe's source has no labels, which it is measured with; choose {' or '.join(UNLABELLED)}"
        )
    images = worth.validation(recipe, table, real, split, per_class, test)
    judge = Judge(
        path, (*overrides, *space.opened(path, overrides)), recipe, table, images, out / "runs", objective, backbone, networks, steps, device
    )  # fmt: skip
    if not judge.knobs:
        raise UserError(f"{path}: there is nothing to search; give a filter a bound, the condition a strength or the generator a guidance")
    if objective in UNLABELLED and len(images.labels) < worth.LEAST:
        raise UserError(f"--real {real}: {len(images.labels)} images are too few for a distance; give at least {worth.LEAST}")
    measured = [backbone] if objective != "accuracy" else [networks, steps]
    seen = [recipe.settings(), table.fingerprint, images.fingerprint]
    identity = [*seen, objective, seed, per_class, measured, [knob.values for knob in judge.knobs]]
    study = _study(out, objective, hashlib.sha256(json.dumps(identity, default=str).encode()).hexdigest())
    _search(study, judge, seed, trials, minutes)
    return _write_down(study, judge, out)


def _study(out: Path, objective: Objective, identity: str) -> Any:
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
    except ImportError as error:
        raise UserError("a search needs optuna; run `pip install synthetic-dataset-factory[tune]`") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    out.mkdir(parents=True, exist_ok=True)
    file = str(out / "search.journal")
    storage = optuna.storages.JournalStorage(JournalFileBackend(file, lock_obj=JournalFileOpenLock(file)))
    direction: Any = "minimize" if objective in LOWER else "maximize"
    study = optuna.create_study(storage=storage, study_name="tune", direction=direction, load_if_exists=True)
    if study.user_attrs.get("identity", identity) != identity:
        raise UserError(f"{out} holds a search of another recipe, source, validation set or objective; choose another --out")
    study.set_user_attr("identity", identity)
    for trial in study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # an earlier launch was killed over it
    return study


def _finished(study: Any) -> list[Any]:
    """Measured trials, and those that left too few images to measure."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.name in ("COMPLETE", "PRUNED")]


def _search(study: Any, judge: Judge, seed: int, trials: int, minutes: float | None) -> None:
    import optuna

    started = time.monotonic()
    while len(done := _finished(study)) < trials and (minutes is None or time.monotonic() - started < 60 * minutes):
        own = int.from_bytes(hashlib.sha256(f"{seed} {len(done)}".encode()).digest()[:4], "little")
        study.sampler = optuna.samplers.TPESampler(seed=own, n_startup_trials=RANDOM)
        if not done:
            study.enqueue_trial(_to_params(judge.knobs, {knob.name: knob.start for knob in judge.knobs}), skip_if_exists=True)
        trial = study.ask()
        setting = {knob.name: _ask(trial, knob) for knob in judge.knobs}
        began = time.monotonic()
        known = next((other for other in done if other.user_attrs.get("setting") == setting), None)
        result = Worth(**known.user_attrs["worth"]) if known is not None else judge.worth(setting)
        for name, value in (("setting", setting), ("worth", vars(result)), ("seconds", round(time.monotonic() - began, 1))):
            trial.set_user_attr(name, value)
        state = optuna.trial.TrialState.PRUNED if result.value is None else optuna.trial.TrialState.COMPLETE
        study.tell(trial, result.value, state=state)
        log.info("trial %d of %d: %s %s, %d images kept", len(done) + 1, trials, judge.objective, _shown(result.value), result.kept)


def _ask(trial: Any, knob: Knob) -> Any:
    if knob.ordered:
        return knob.values[trial.suggest_int(knob.name, 0, len(knob.values) - 1)]
    return trial.suggest_categorical(knob.name, knob.values)


def _to_params(knobs: list[Knob], setting: Setting) -> dict[str, Any]:
    """A setting as the search stores it: places in the list of values where these are ordered."""
    return {k.name: k.values.index(setting[k.name]) if k.ordered else setting[k.name] for k in knobs}


def _write_down(study: Any, judge: Judge, out: Path) -> dict[str, Any]:
    """best.yaml and search.json. Raises UserError when nothing was measured."""
    done = _finished(study)
    measured = [trial for trial in done if trial.value is not None]
    if not measured:
        raise UserError(f"{out}: no setting was measured ({len(done)} left too few images); give more trials, minutes or images")
    best = min(measured, key=lambda t: (t.value if judge.objective in LOWER else -t.value, t.number))
    first, reference = done[0].value, _real_alone(study, judge)
    found = f"{_shown(best.value)}; as it was written: {_shown(first)}" + (f"; real images alone: {_shown(reference)}" if reference else "")
    header = [
        f"factory build {out / 'best.yaml'}",
        "",
        f"The best of {len(done)} settings by {judge.objective} on {len(judge.validation.labels)} real validation images: {found}",
        "The best of many is flattered by chance: measure it on test images with `factory evaluate` before you believe it.",
    ]
    space.write(judge.path, judge.overrides, best.user_attrs["worth"]["keys"], out / "best.yaml", header)
    rows = [
        {"trial": i, judge.objective: trial.value, "kept": trial.user_attrs["worth"]["kept"], "seconds": trial.user_attrs["seconds"]}
        | {"setting": trial.user_attrs["setting"], "keys": trial.user_attrs["worth"]["keys"]}
        for i, trial in enumerate(done)
    ]
    result = {
        "objective": judge.objective,
        "best": {"trial": done.index(best), "value": best.value, "keys": best.user_attrs["worth"]["keys"]},
        "as_written": first,
        "real_alone": reference,
        "validation_images": len(judge.validation.labels),
        "knobs": {knob.name: list(knob.values) for knob in judge.knobs},
        "recipe": str(out / "best.yaml"),
        "rows": rows,
    }
    write_json(out / "search.json", result)
    return result


def _real_alone(study: Any, judge: Judge) -> float | None:
    """The better accuracy without synthetic images, as they are or strongly augmented, each measured once; None for another objective."""
    if judge.objective != "accuracy":
        return None
    arms: tuple[Arm, ...] = ("real_strong", "real")
    for arm in arms:
        if arm not in study.user_attrs:
            study.set_user_attr(arm, judge.accuracy(arm, None))
    return max(float(study.user_attrs[arm]) for arm in arms)


def summary(result: dict[str, Any], out: Path) -> str:
    """A search in a few lines for a terminal."""
    best, name = result["best"], result["objective"]
    lines = [f"searched   {len(result['rows'])} settings, {name} on {result['validation_images']} real validation images"]
    lines += [f"as written {_shown(result['as_written'])}", f"best       {_shown(best['value'])}, trial {best['trial']}"]
    if result["real_alone"] is not None:
        lines.append(f"real only  {_shown(result['real_alone'])}" + _judged(best["value"], result["real_alone"]))
    lines += [f"           {key}: {value}" for key, value in best["keys"].items()]
    return "\n".join([*lines, f"recipe     {result['recipe']}", f"table      {out / 'search.json'}"])


def _judged(best: float, reference: float) -> str:
    return "" if best > reference else "   no setting does better than real images alone: do not use synthetic ones here"


def _shown(value: float | None) -> str:
    return "too few images" if value is None else f"{value:.4g}"
