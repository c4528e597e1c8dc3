"""What a threshold costs: yield, balance of classes and diversity against one filter's threshold, from stored scores; no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from factory import finished, select
from factory.diversity import mean_cosine_distance, vendi_score
from factory.errors import UserError
from factory.finished import Run

POINTS = 21
DIVERSITY_ROWS = 20_000  # kept rows that diversity is measured on, evenly spread; exact below


def run(folder: Path, name: str, thresholds: Sequence[float], points: int = POINTS) -> dict[str, Any]:
    """Decide every row again at each threshold of one filter, the other rules as they are. Raises UserError.

    thresholds: without any, quantiles of the scores that reach the filter. The result is {filter, bound, now, rows, points: [{threshold, kept, share, classes,
    balance, per_class, diversity, vendi}]}; balance is the entropy of the kept classes over that of equal ones, in [0, 1]; diversity the mean
    cosine distance of pairs in [0, 2] and vendi the Vendi score (Friedman and Dieng 2023, linear kernel), null without stored embeddings.
    """
    loaded = finished.read(folder)
    names = [name for name, _ in loaded.filters]
    if name not in names:
        raise UserError(f"{folder}: no filter {name!r}; there are: {', '.join(names)}")
    at = names.index(name)
    chosen = loaded.recipe.filters[at]
    bound = "max" if chosen.whole or (chosen.bounds()[1] < np.inf and chosen.bounds()[0] == -np.inf) else "min"
    values = list(thresholds) or _thresholds(loaded, at, getattr(chosen, "floor", 0.0), points)
    low, high = chosen.bounds()
    embeddings = _embeddings(loaded)
    return {
        "filter": name,
        "bound": bound,
        "now": _finite(high if bound == "max" else low),
        "rows": len(loaded.labels),
        "points": [_point(loaded, at, bound, value, embeddings) for value in sorted(values)],
    }


def _embeddings(loaded: Run) -> np.ndarray | None:
    """[N, D] of the first filter that stored some."""
    for f in loaded.recipe.filters:
        columns = loaded.store.read_scores(loaded.shards, f.identity(), ("embedding",)) if f.whole else {}
        if "embedding" in columns:
            return columns["embedding"]
    return None


def _thresholds(loaded: Run, at: int, floor: float, points: int) -> list[float]:
    """Even quantiles of the scores that reach a filter; of a filter that compares rows, even steps from its floor to 1."""
    own = loaded.rules[at]
    if own.score is None:
        return np.linspace(floor, 1, points).tolist()
    before = select.decide(loaded.labels, loaded.rules[:at], faults=loaded.faults).keep
    scores = own.score[before & ~np.isnan(own.score)]
    if not len(scores):
        raise UserError(f"no row reaches {own.reason} with a score; loosen the filters before it")
    return sorted(set(np.quantile(scores, np.linspace(0, 1, points)).tolist()))


def _point(loaded: Run, at: int, bound: str, value: float, embeddings: np.ndarray | None) -> dict[str, Any]:
    own = loaded.rules[at]
    changed = replace(own, high=value) if bound == "max" else replace(own, low=value)
    keep = select.decide(loaded.labels, [*loaded.rules[:at], changed, *loaded.rules[at + 1 :]], faults=loaded.faults).keep
    counts = np.bincount(loaded.labels[keep & (loaded.labels >= 0)], minlength=len(loaded.class_names))
    return {
        "threshold": round(float(value), 6),
        "kept": int(keep.sum()),
        "share": round(float(keep.mean()), 6) if len(keep) else 0.0,
        "classes": int((counts > 0).sum()),
        "balance": balance(counts),
        "per_class": dict(zip(loaded.class_names, counts.tolist(), strict=True)),
        **diversity(embeddings, np.flatnonzero(keep)),
    }


def balance(counts: np.ndarray) -> float | None:
    """Entropy of the classes' shares over that of equal shares: 1 is even, 0 is a single class; None with fewer than two classes."""
    if len(counts) < 2 or not counts.sum():
        return None
    shares = counts[counts > 0] / counts.sum()
    return round(float(-(shares * np.log(shares)).sum() / np.log(len(counts))) + 0.0, 6)


def diversity(embeddings: np.ndarray | None, rows: np.ndarray) -> dict[str, float | None]:
    """Mean cosine distance of pairs, and the Vendi score, of those of embeddings [N, D] that hold no NaN."""
    if embeddings is not None and len(rows) > DIVERSITY_ROWS:
        rows = rows[np.linspace(0, len(rows) - 1, DIVERSITY_ROWS).astype(int)]
    found = np.zeros((0, 1)) if embeddings is None else embeddings[rows].astype(np.float64)
    found = found[~np.isnan(found).any(axis=1)]
    if len(found) < 2:
        return {"diversity": None, "vendi": None}
    return {"diversity": round(mean_cosine_distance(found), 6), "vendi": round(vendi_score(found), 4)}


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def table(result: dict[str, Any]) -> str:
    """A sweep as lines for a terminal."""
    sign = "≤" if result["bound"] == "max" else "≥"
    now = "no bound" if result["now"] is None else f"{sign} {result['now']:g}"
    lines = [f"{result['filter']} (now {now}), {result['rows']} rows", ""]
    lines.append(f"{'keep ' + sign:>12} {'kept':>10} {'share':>7} {'classes':>8} {'balance':>8} {'diversity':>10} {'vendi':>8}")
    for point in result["points"]:
        cells = [f"{point['threshold']:>12.4g}", f"{point['kept']:>10}", f"{point['share']:>7.1%}", f"{point['classes']:>8}"]
        cells += [
            f"{'-' if point[key] is None else format(point[key], '.3f'):>{width}}"
            for key, width in (("balance", 8), ("diversity", 10), ("vendi", 8))
        ]
        lines.append(" ".join(cells))
    if all(point["diversity"] is None for point in result["points"]):
        lines += ["", "diversity is measured on stored embeddings: add near_duplicate to the filters and run again"]
    return "\n".join(lines)


def draw(result: dict[str, Any], path: Path) -> None:
    """A sweep as a picture: yield, balance of classes, diversity. Raises UserError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError(
            "the picture needs matplotlib: pip install 'synthetic-dataset-factory[plot]'; the table and --json do not"
        ) from None
    points = result["points"]
    figure = Figure(figsize=(7, 7.5), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    at = [point["threshold"] for point in points]
    axes[0].plot(at, [100 * point["share"] for point in points], marker=".", color="#1f5fa8")
    axes[0].set(
        ylabel="kept, % of all rows", ylim=(0, None), title=f"{result['filter']}: what a {result['bound']} costs, {result['rows']:,} rows"
    )
    names = list(points[0]["per_class"])
    for name in names:
        axes[1].plot(at, [point["per_class"][name] for point in points], linewidth=1, label=name)
    axes[1].set(ylabel="kept, by class", ylim=(0, None))
    if 0 < len(names) <= 12:
        axes[1].legend(fontsize=7, ncols=2)
    for key, color in (("diversity", "#1f5fa8"), ("balance", "#b8651b")):
        axes[2].plot(at, [np.nan if point[key] is None else point[key] for point in points], marker=".", color=color, label=key)
    axes[2].set(xlabel=f"{result['bound']} of {result['filter']}", ylabel="0 to 1", ylim=(0, None))
    axes[2].legend(fontsize=8)
    for axis in axes:
        axis.grid(alpha=0.3)
        if result["now"] is not None:
            axis.axvline(result["now"], color="black", linewidth=0.8, linestyle="--")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
