"""What `factory evaluate` found (evaluation.json), as the card tells it; every section may be absent."""

from __future__ import annotations

from typing import Any

from factory.publish.markdown import number, percent, table


def text(evaluation: dict[str, Any] | None, accepted: str) -> str:
    """Verdict first, then the tables it rests on."""
    warning = [f"**Published although {accepted}**\n"] if accepted else []
    if not evaluation:
        return "\n".join(
            [*warning, "Not measured. `factory evaluate` compares training with and without these images, on real test images.\n"]
        )
    parts = list(warning)
    verdict = evaluation.get("verdict")
    if verdict:
        parts.append(f"**{verdict['text'].strip()}**\n")
        parts.append(f"Gain in accuracy: {100 * verdict['gain']:+.1f} ± {100 * verdict['ci95']:.1f} points (95% interval).\n")
    utility = evaluation.get("utility", {}).get("rows")
    if utility:
        head = ("trained on", "synthetic : real", "labels a class", "accuracy, %", "95% interval, ±")
        parts.append("Accuracy on real test images:\n")
        parts.append(
            table(
                head,
                [
                    (row["arm"], number(row.get("ratio")), number(row.get("labels")), percent(row["accuracy_mean"]), percent(row["ci95"]))
                    for row in utility
                ],
            )
        )
    fidelity = evaluation.get("fidelity")
    if fidelity and fidelity.get("rows"):
        names = ("frechet", "frechet_real", "precision", "recall", "density", "coverage")
        parts.append(
            f"Fidelity and diversity in the features of `{fidelity.get('backbone', 'unknown')}`; `frechet_real` is the distance of real from real:\n"
        )
        parts.append(
            table(("class", *names), [(row.get("class") or "all", *(number(row.get(name)) for name in names)) for row in fidelity["rows"]])
        )
    gate = evaluation.get("memorisation", {}).get("gate")
    if gate:
        parts.append(f"Memorisation: {'passed' if gate['passed'] else '**not passed**'}. {gate.get('text', '').strip()}\n")
    return "\n".join(parts) if parts else "Nothing was measured.\n"
