"""Templates: every cell once, and balanced from the start."""

import math

import numpy as np
import pytest
from pydantic import ValidationError

from factory import kinds
from factory.contracts import Prompts
from factory.errors import UserError
from factory.prompts._template import balanced
from factory.prompts.template import Template
from tests.conftest import wordless


@pytest.mark.parametrize("sizes", [(1,), (2, 2), (2, 3), (4, 6), (2, 4, 8), (3, 3, 3), (6, 4, 9), (1, 5, 1, 5)])
def test_each_cell_once_and_every_prefix_balanced(sizes):
    cells = balanced(sizes, 10_000)
    assert len({tuple(cell) for cell in cells}) == len(cells) == math.prod(sizes)
    for axis, size in enumerate(sizes):
        counts = np.cumsum(cells[:, axis, None] == np.arange(size), axis=0)
        assert (counts.max(axis=1) - counts.min(axis=1)).max() <= 1


def test_a_cut_grid_is_a_prefix_of_the_whole_even_when_the_whole_is_too_large_to_count():
    assert np.array_equal(balanced((4, 6, 5), 17), balanced((4, 6, 5), 10_000)[:17])
    huge = balanced([1000] * 12, 500)
    assert len({tuple(cell) for cell in huge}) == 500


def test_texts_fill_label_and_axes():
    kind = Template(text=["a {label} {place}", "{place}: {label}"], axes={"place": ["here", "there"]})
    (cats,) = kind.texts(wordless(["cat"], 1))
    assert sorted(cats) == sorted(["a cat here", "a cat there", "here: cat", "there: cat"])
    assert kind.texts(wordless(["dog", "cat"], 1))[1] == cats


def test_classes_have_their_own_order():
    kind = Template(text="a {label} {n}", axes={"n": [str(n) for n in range(50)]})
    first, second = kind.texts(wordless(["a", "b"], 0))
    assert [text.replace("a b", "a a") for text in second] != first
    assert kind.texts(wordless(["a"], 1))[0] != first


def test_limit_and_doubles():
    kind = Template(text=["{label}", "{label} {n}"], axes={"n": ["1", "2", "3"]}, limit=100)
    (texts,) = kind.texts(wordless(["x"], 0))
    assert sorted(texts) == ["x", "x 1", "x 2", "x 3"]
    assert len(Template(text="{n}", axes={"n": list("abc")}, limit=2).texts(wordless([""], 0))[0]) == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text": "a {lable}"}, r"unknown blank \{lable\}; there are: \{label\}"),
        ({"text": "a {label}", "axes": {"place": ["x"]}}, r"no text mentions \{place\}"),
        ({"text": "a {label"}, "plain braces"),
        ({"text": "a {label.__class__}"}, "unknown blank"),
        ({"text": "a {label!r}"}, "plain name"),
        ({"text": "{label}{p}", "axes": {"p": []}}, "at least one value"),
        ({"text": "{label}{p}", "axes": {"p": ["x", "x"]}}, "each once"),
        ({"text": []}, "at least one sentence"),
        ({"text": "{label}", "axes": {"label": ["x"]}}, "cannot be an axis"),
    ],
)
def test_recipe_errors_say_what_exists(fields, message):
    with pytest.raises(ValidationError, match=message):
        Template(**fields)


def test_unlabelled_source():
    assert Template(text="a texture").texts(wordless([""], 0)) == [["a texture"]]
    with pytest.raises(UserError, match="no labels"):
        Template().texts(wordless([""], 0))


def test_found_by_name():
    assert kinds.find("prompts", "template", Prompts) is Template
