"""Numbers of an evaluation as the page draws them: points in drawing units, ticks, and rows of words."""

from __future__ import annotations

from typing import Any

import numpy as np

ARMS = {
    "real": "real images",
    "real_strong": "real, strong augmentation",
    "real_synthetic": "real + synthetic",
    "synthetic": "synthetic alone",
}
FLAT = ("real", "real_strong")  # arms without synthetic images: one value whatever the ratio
GROUPS = ("many", "medium", "few")  # of classes, by their number of real images
MOST_CHARTS = 4
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 560, 310, 46, 16, 14, 52


def accuracy(utility: dict[str, Any]) -> list[dict[str, Any]]:
    """One chart for each number of labels a class: accuracy against the ratio of synthetic to real images, of the main classifier.

    From the sweep on validation images where there is one: the other rows are of test images, and hold the chosen ratio alone.
    """
    rows = [row for row in utility.get("sweep") or utility.get("rows", []) if row.get("accuracy_mean") is not None]
    main = utility.get("classifier")
    own = [row for row in rows if row.get("classifier", main) == main] or rows
    amounts = list(dict.fromkeys(row.get("labels") for row in own))[:MOST_CHARTS]
    return [_chart(amount, [row for row in own if row.get("labels") == amount]) for amount in amounts]


def _chart(amount: int | None, rows: list[dict[str, Any]]) -> dict[str, Any]:
    ratios = sorted({float(row.get("ratio") or 0) for row in rows if row["arm"] not in FLAT}) or [0.0]
    ends = [100 * (row["accuracy_mean"] + side * (row.get("ci95") or 0)) for row in rows for side in (-1, 1)]
    ticks = _ticks(max(0.0, min(ends)), min(100.0, max(ends)))
    low, high = ticks[0], ticks[-1]

    def x(ratio: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (ratios.index(ratio) + 0.5) / len(ratios)

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (float(np.clip(value, low, high)) - low) / (high - low))

    series = []
    for arm, label in ARMS.items():
        points = []
        for row in sorted((row for row in rows if row["arm"] == arm), key=lambda row: float(row.get("ratio") or 0)):
            mean, half = 100 * row["accuracy_mean"], 100 * (row.get("ci95") or 0)
            place = x(float(row.get("ratio") or 0)) if arm not in FLAT else 0.0
            points.append({"x": place, "y": y(mean), "top": y(mean + half), "bottom": y(mean - half), "text": _value(row)})
        if points:
            series.append({"arm": arm, "label": label, "flat": arm in FLAT, "points": points})
    return {
        "labels": amount,
        "series": series,
        "x_ticks": [{"at": x(ratio), "text": f"{ratio:g}"} for ratio in ratios],
        "y_ticks": [{"at": y(value), "text": f"{value:g}"} for value in ticks],
    }


def _value(row: dict[str, Any]) -> str:
    half = row.get("ci95")
    return f"{100 * row['accuracy_mean']:.1f}" + (f" ± {100 * half:.1f}" if half is not None else "")


def _ticks(low: float, high: float) -> list[float]:
    """Two to eight round values in [0, 100] that enclose [low, high]."""
    span = max(high - low, 1.0)
    magnitude = 10 ** np.floor(np.log10(span / 4))
    step = float(next(m * magnitude for m in (1, 2, 2.5, 5, 10) if span / (m * magnitude) <= 6))
    first, last = np.floor(low / step), np.ceil(high / step - 1e-9)
    if last <= first:
        first, last = max(0, first - 1), min(100 / step, first + 1)
    return [round(float(i * step), 6) for i in np.arange(first, last + 1)]


def arms(utility: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the utility table in words; accuracies in percent."""
    rows = [row for row in utility.get("rows", []) if row.get("accuracy_mean") is not None]
    return [
        {
            "arm": ARMS.get(row["arm"], row["arm"]),
            "classifier": row.get("classifier") or utility.get("classifier") or "",
            "labels": "" if row.get("labels") is None else str(row["labels"]),
            "ratio": "–" if row["arm"] in FLAT else f"{row.get('ratio') or 0:g}",
            "accuracy": _value(row),
            **{name: "" if row.get(name) is None else f"{100 * row[name]:.1f}" for name in GROUPS},
        }
        for row in rows
    ]


def shot_groups(utility: dict[str, Any]) -> list[str]:
    """Those of GROUPS that have classes; none where all classes are of one group, whose accuracy is that of all."""
    held = [name for name in GROUPS if any(row.get(name) is not None for row in utility.get("rows", []))]
    return held if len(held) > 1 else []


def _compared(utility: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The rows (without, with synthetic images) whose classes are compared: of the main classifier and its best ratio.

    Without: the arm of real images alone that the gain is over.
    """
    rows = [row for row in utility.get("rows", []) if row.get("per_class") and row.get("accuracy_mean") is not None]
    main = utility.get("classifier")
    rows = [row for row in rows if row.get("classifier", main) == main]
    helped = max((row for row in rows if row["arm"] == "real_synthetic"), key=lambda row: row["accuracy_mean"], default=None)
    if helped is None:
        return None
    key = (helped.get("rival") or _rival(utility, helped.get("labels")), helped.get("labels"))
    plain = next((row for row in rows if (row["arm"], row.get("labels")) == key), None)
    return (plain, helped) if plain and len(plain["per_class"]) == len(helped["per_class"]) else None


def _rival(utility: dict[str, Any], labels: int | None) -> str:
    """The better arm of real images alone on validation images, of an evaluation whose rows do not name it."""
    main = utility.get("classifier")
    flat = [row for row in utility.get("sweep") or () if row["arm"] in FLAT and row.get("labels") == labels]
    flat = [row for row in flat if row.get("classifier", main) == main and row.get("accuracy_mean") is not None]
    return max(flat, key=lambda row: (row["accuracy_mean"], row["arm"] == "real_strong"), default={"arm": "real_strong"})["arm"]  # type: ignore[no-any-return]


def per_class_names(utility: dict[str, Any]) -> tuple[str, str] | None:
    """The two columns of `per_class`, None where nothing can be compared."""
    pair = _compared(utility)
    return None if pair is None else ("without", f"with, {pair[1].get('ratio') or 0:g} : 1")


def per_class(utility: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Class -> accuracy (without, with) synthetic images in percent; empty where nothing can be compared.

    By name: the classes of the evaluation are those of all real images, which may be more than the run's, or in another order.
    """
    pair, names = _compared(utility), utility.get("protocol", {}).get("classes")
    if pair is None or names is None:
        return {}
    texts = [["" if value is None else f"{100 * value:.1f}" for value in row["per_class"]] for row in pair]
    return dict(zip(names, zip(*texts, strict=True), strict=True))


FIDELITY = {
    "frechet": "Fréchet ↓", "kernel": "kernel ↓", "cmmd": "CMMD ↓", "precision": "precision ↑", "recall": "recall ↑", "density": "density ↑",
    "coverage": "coverage ↑", "vendi": "Vendi ↑", "clip_score": "CLIP score ↑",
}  # fmt: skip


def fidelity(section: dict[str, Any]) -> dict[str, Any]:
    """The fidelity table: its columns that hold anything, and rows of (class, [(value, the same between real images)])."""
    rows = section.get("rows", [])
    columns = [name for name in FIDELITY if any(row.get(name) is not None for row in rows)]
    lines = [(row.get("class") or "all", [(short(row.get(c)), short(row.get(f"{c}_real"))) for c in columns]) for row in rows]
    return {"columns": [FIDELITY[name] for name in columns], "rows": lines}


def short(value: Any) -> str:
    """A number in at most four digits, other values as they are; nothing for None."""
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 1000 else f"{value:,.0f}" if isinstance(value, float) else str(value)
