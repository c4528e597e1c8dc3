"""Keeping, decided from score columns: pure numpy, no model, a million rows in seconds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from factory.neighbours import greedy

KEPT = ""
OVER_QUOTA = "over_quota"


@dataclass(frozen=True)
class Rule:
    """One filter's rule over its stored columns.

    score: float32 [N], NaN where there is no answer (refused).  low, high: the closed interval to keep.
    top: (amount, is a share) of the rows still kept, ranked by score within each class or overall; None for all.
    neighbours: for whole-dataset rules, what `neighbours.earlier_neighbours` found; a row goes when an earlier row that stays is more
    similar than `high`.  embeddings: reads what the neighbours were found from.
    scored: bool [N] in a cascade, rows that the filter has seen; None for all.  A row that reaches the rule unseen is refused as
    `unscored_<reason>`: neither kept nor judged, until it is scored.
    unanswered: the reason for a row whose score is NaN (no caption, no answer); `reason` itself without one.
    """

    reason: str
    score: np.ndarray | None = None
    low: float = -np.inf
    high: float = np.inf
    top: tuple[float, bool] | None = None
    per_class: bool = True
    neighbours: tuple[np.ndarray, np.ndarray] | None = None
    embeddings: Callable[[], np.ndarray] | None = None
    scored: np.ndarray | None = None
    unanswered: str | None = None


@dataclass(frozen=True)
class Selection:
    """keep: bool [N].  reason: index into `reasons` [N], 0 (the empty slug) for kept rows."""

    keep: np.ndarray
    reason: np.ndarray
    reasons: list[str]

    def refused(self) -> dict[str, int]:
        """Rows refused, by reason, every reason named."""
        counts = np.bincount(self.reason, minlength=len(self.reasons))
        return {slug: int(n) for slug, n in zip(self.reasons[1:], counts[1:], strict=True)}


def digest(keep: np.ndarray) -> str:
    """Names a selection: 16 hex digits of which rows of a run were kept, bool [N]."""
    return hashlib.sha256(len(keep).to_bytes(8, "little") + np.packbits(np.asarray(keep, bool)).tobytes()).hexdigest()[:16]


def decide(
    labels: np.ndarray,
    rules: Sequence[Rule],
    quota: dict[int, int] | None = None,
    ordinals: np.ndarray | None = None,
    faults: tuple[np.ndarray, Sequence[str]] | None = None,
) -> Selection:
    """Apply rules in order to rows in plan order; a row's reason is the first rule that refuses it.

    labels: int32 [N].  quota: class -> rows to keep at most; later rows of a full class are refused as `over_quota`.
    ordinals: int32 [N], what "later" means there; the order of the rows without them.
    faults: (int [N], slugs) rows that could not be read: 0, or 1 + the place of the row's slug; they are refused before any rule.
    """
    own = list(dict.fromkeys(rule.reason for rule in rules))
    reasons = [KEPT, *(slug for slug in (faults[1] if faults else ()) if slug not in own), *own, OVER_QUOTA]
    reason = np.zeros(len(labels), np.int16)
    if faults is not None:
        reason[:] = np.array([0, *(reasons.index(slug) for slug in faults[1])], np.int16)[faults[0]]
    for rule in rules:
        _apply(rule, labels, reason, reasons)
    if quota is not None:
        rows = np.flatnonzero(reason == 0)
        early = None if ordinals is None else -ordinals[rows]
        reason[_beyond(rows, labels[rows], lambda names, _: np.array([quota.get(int(c), 0) for c in names]), early)] = reasons.index(
            OVER_QUOTA
        )
    return Selection(reason == 0, reason, reasons)


def _apply(rule: Rule, labels: np.ndarray, reason: np.ndarray, reasons: list[str]) -> None:
    """Refuse by one rule, in place."""
    if rule.scored is not None:
        _refuse(reason, reasons, (reason == 0) & ~rule.scored, f"unscored_{rule.reason}")
    if rule.unanswered is not None and rule.score is not None:
        _refuse(reason, reasons, (reason == 0) & np.isnan(rule.score), rule.unanswered)
    refused = _refused(rule, labels, reason == 0)
    reason[refused & (reason == 0)] = reasons.index(rule.reason)


def _refuse(reason: np.ndarray, reasons: list[str], rows: np.ndarray, slug: str) -> None:
    """Give rows a reason that is told only where it occurs."""
    if rows.any():
        if slug not in reasons:
            reasons.append(slug)
        reason[rows] = reasons.index(slug)


def _refused(rule: Rule, labels: np.ndarray, kept: np.ndarray) -> np.ndarray:
    if rule.neighbours is not None:
        return greedy(*rule.neighbours, kept, rule.high, rule.embeddings)
    assert rule.score is not None
    with np.errstate(invalid="ignore"):
        refused = ~((rule.score >= rule.low) & (rule.score <= rule.high))  # a NaN is refused
    if rule.top is None:
        return refused
    rows = np.flatnonzero(kept & ~refused)
    groups = labels[rows] if rule.per_class else np.zeros(len(rows), np.int32)
    amount, share = rule.top

    def limit(names: np.ndarray, size: np.ndarray) -> np.ndarray:
        return np.ceil(size * amount - 1e-9) if share else np.full(len(size), amount)

    refused[_beyond(rows, groups, limit, rule.score[rows])] = True
    return refused


def _beyond(
    rows: np.ndarray, groups: np.ndarray, limit: Callable[[np.ndarray, np.ndarray], np.ndarray], score: np.ndarray | None = None
) -> np.ndarray:
    """The rows past their group's limit, by falling score (ties go to the earlier row), or in order without one.

    limit(names, sizes) says how many of each group stay.
    """
    names, group = np.unique(groups, return_inverse=True)
    order = np.lexsort((rows, group) if score is None else (rows, -score, group))
    most = limit(names, np.bincount(group, minlength=len(names)))
    return rows[order[_rank_within(group[order]) >= most[group[order]]]]


def _rank_within(groups: np.ndarray) -> np.ndarray:
    """0, 1, 2, … within each stretch of equal, sorted groups."""
    if not len(groups):
        return np.zeros(0, np.int64)
    starts = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]])
    return np.arange(len(groups)) - np.repeat(starts, np.diff(np.r_[starts, len(groups)]))
