"""Rules over score columns, against a slow and obvious reading of the same rules."""

from __future__ import annotations

import numpy as np
import pytest

from factory.neighbours import greedy
from factory.select import Rule, decide

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1], np.int32)
SCORE = np.array([0.1, 0.5, 0.9, np.nan, 0.4, 0.4, 0.8, 0.2], np.float32)


def reasons(*rules: Rule, quota: dict[int, int] | None = None) -> list[str]:
    selection = decide(LABELS, rules, quota)
    assert (selection.keep == (selection.reason == 0)).all()
    assert sum(selection.refused().values()) + selection.keep.sum() == len(LABELS)
    return [selection.reasons[i] for i in selection.reason]


def test_bounds_are_closed_and_nan_is_refused() -> None:
    assert reasons(Rule("clip", SCORE, low=0.4)) == ["clip", "", "", "clip", "", "", "", "clip"]
    assert reasons(Rule("band", SCORE, low=0.2, high=0.5)) == ["band", "", "band", "band", "", "", "band", ""]


def test_the_first_rule_that_refuses_is_the_reason() -> None:
    assert reasons(Rule("a", SCORE, low=0.3), Rule("b", SCORE, high=0.5))[:4] == ["a", "", "b", "a"]


@pytest.mark.parametrize(
    ("top", "per_class", "kept"),
    [
        ((0.5, True), True, [1, 2, 4, 6]),
        ((2, False), True, [1, 2, 4, 6]),
        ((3, False), False, [1, 2, 6]),
        ((1.0, True), False, [0, 1, 2, 4, 5, 6, 7]),
    ],
)
def test_keep_top(top: tuple[float, bool], per_class: bool, kept: list[int]) -> None:
    selection = decide(LABELS, [Rule("top", SCORE, top=top, per_class=per_class)])
    assert np.flatnonzero(selection.keep).tolist() == kept


def test_keep_top_ranks_what_earlier_rules_left() -> None:
    selection = decide(LABELS, [Rule("a", SCORE, high=0.6), Rule("top", SCORE, top=(1, False))])
    assert np.flatnonzero(selection.keep).tolist() == [1, 4]


def test_quota_keeps_the_first_of_each_class() -> None:
    assert reasons(Rule("a", SCORE, low=0.0), quota={0: 1, 1: 3}) == ["", "over_quota", "over_quota", "a", "", "", "", "over_quota"]


def test_a_duplicate_of_a_refused_row_stays() -> None:
    index = np.array([[-1, -1], [0, -1], [1, -1]], np.int32)
    similarity = np.array([[-1, -1], [0.99, -1], [0.99, -1]], np.float32)
    assert greedy(index, similarity, np.ones(3, bool), 0.9).tolist() == [False, True, False]
    assert greedy(index, similarity, np.array([False, True, True]), 0.9).tolist() == [False, False, True]


def test_keep_top_matches_a_slow_reading() -> None:
    draw = np.random.default_rng(1)
    labels = draw.integers(0, 7, 500).astype(np.int32)
    score = draw.integers(0, 40, 500).astype(np.float32)  # many ties
    fast = decide(labels, [Rule("top", score, top=(0.3, True))]).keep
    slow = np.zeros(500, bool)
    for c in range(7):
        own = sorted(np.flatnonzero(labels == c), key=lambda i: (-score[i], i))
        slow[own[: int(np.ceil(len(own) * 0.3 - 1e-9))]] = True
    assert (fast == slow).all()


def test_no_rows_is_no_error() -> None:
    empty = np.zeros(0, np.float32)
    assert decide(np.zeros(0, np.int32), [Rule("a", empty, low=1, top=(0.5, True))], {0: 1}).keep.size == 0
