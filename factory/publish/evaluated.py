"""What `factory evaluate` found (evaluation.json), as the card tells it; every section may be absent."""

from __future__ import annotations

from typing import Any

from factory import evaluation_file
from factory.publish.markdown import number, percent, table

_FIDELITY = ("frechet", "frechet_real", "precision", "recall", "density", "coverage")


def text(evaluation: dict[str, Any] | None, accepted: str) -> str:
    """Verdict first, then the tables that it rests on. accepted: why a gate was overruled, "" where none was."""
    warning = [f"**Published although {accepted}.**\n"] if accepted else []
    if not evaluation:
        return "\n".join(
            [*warning, "Not measured. `factory evaluate` compares training with and without these images, on real test images.\n"]
        )
    told = [
        _verdict(evaluation.get("verdict"), evaluation.get("utility") or {}),
        _utility(evaluation.get("utility")),
        _fidelity(evaluation.get("fidelity")),
    ]
    told.append(_memorisation(evaluation.get("memorisation")))
    return "\n".join([*warning, *(part for part in told if part)]) or "Nothing was measured.\n"


def _verdict(verdict: dict[str, Any] | None, utility: dict[str, Any]) -> str:
    if not verdict:
        return ""
    gain, half = verdict.get("gain"), verdict.get("ci95")
    said = f"**{str(verdict.get('text') or 'No verdict').strip()}**\n"
    if gain is None or half is None:
        return said
    over = evaluation_file.interval_over(utility)
    return f"{said}\nGain in accuracy: {100 * gain:+.1f} ± {100 * half:.1f} points (95% interval{' over ' if over else ''}{over}).\n"


def _utility(utility: dict[str, Any] | None) -> str:
    if not utility or not utility.get("rows"):
        return ""
    several = len({row.get("classifier") for row in utility["rows"]}) > 1
    rows = [
        (
            row["arm"],
            *([f"`{row.get('classifier')}`"] if several else []),
            number(row.get("ratio")),
            number(row.get("labels")),
            percent(row["accuracy_mean"]),
            "" if row["ci95"] is None else percent(row["ci95"]),
        )
        for row in utility["rows"]
    ]
    head = ("trained on", *(["classifier"] if several else []), "synthetic : real", "labels a class", "accuracy, %", "95% interval, ±")
    return f"Accuracy on real test images:\n\n{table(head, rows)}"


def _fidelity(fidelity: dict[str, Any] | None) -> str:
    if not fidelity or not fidelity.get("rows"):
        return ""
    rows = [(row.get("class") or "all", *(number(row.get(name)) for name in _FIDELITY)) for row in fidelity["rows"]]
    backbone = fidelity.get("backbone", "an unnamed backbone")
    head = f"Fidelity and diversity in the features of `{backbone}`; `frechet_real` is the distance of real from real:"
    return f"{head}\n\n{table(('class', *_FIDELITY), rows)}"


def _memorisation(memorisation: dict[str, Any] | None) -> str:
    gate = (memorisation or {}).get("gate")
    return f"Memorisation: {'passed' if gate['passed'] else '**not passed**'}. {gate.get('text', '').strip()}\n" if gate else ""
