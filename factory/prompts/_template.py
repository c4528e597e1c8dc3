"""Sentences with blanks: every text with every combination of the axes, in an order whose every beginning is balanced."""

from __future__ import annotations

import ast
import importlib.util
import math
import string
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from factory import blanks, seeds
from factory.contracts import Context, Prompts
from factory.errors import UserError


class Filled(Prompts):
    """Each text is filled with {label} and one value of each axis."""

    text: str | list[str] = Field("a photo of a {label}", description="One or several sentences; {label} is the class, others are axes.")
    axes: dict[str, list[str]] = Field({}, description="Values for the other blanks, e.g. place: [in a forest, at the shore].")
    set: Literal["clip_80"] | None = Field(
        None, description="A named set in place of text: clip_80, the 80 ImageNet templates of CLIP (Radford et al. 2021)."
    )
    limit: int = Field(10_000, ge=1, description="At most this many prompts per class.")

    @model_validator(mode="after")
    def _blanks_match_axes(self) -> Filled:
        if self.set is not None and self.text != type(self).model_fields["text"].default:
            raise ValueError("text and set exclude each other; write one of them")
        if not self._texts():
            raise ValueError("text needs at least one sentence")
        used = set().union(*(_blanks(text) for text in self._texts()))
        known = {"label", *self.axes}
        if "label" in self.axes:
            raise ValueError("axes: label is the class name and cannot be an axis")
        if unknown := sorted(used - known):
            raise ValueError(f"text: unknown blank {{{unknown[0]}}}; there are: {', '.join(f'{{{name}}}' for name in sorted(known))}")
        if unused := sorted(set(self.axes) - used):
            raise ValueError(f"axes: no text mentions {{{unused[0]}}}; write it into a text or drop the axis")
        for name, values in self.axes.items():
            if not values or len(set(values)) < len(values):
                raise ValueError(f"axes: {name} must have at least one value, each once")
        return self

    def texts(self, context: Context) -> list[list[str]]:
        """For each class every text × axes cell once, up to `limit`; the order is drawn for each class by name and seed.

        In every prefix of length m each value of an axis of size n, and each text, occurs m/n times, rounded down or up (see
        `balanced`). Texts that skip an axis give equal sentences for several cells: the first stays, so for them the balance is
        approximate. A class named "" is an unlabelled source: UserError when a text wants its {label}.
        """
        texts = self._texts()
        class_names = context.class_names or [""]
        if "" in class_names and any("label" in _blanks(text) for text in texts):
            raise UserError("prompts.text uses {label}, but the source has no labels; write a text without it")
        cells = balanced([len(texts), *map(len, self.axes.values())], self.limit)
        return [self._of_class(name, cells, context.seed) for name in class_names]

    def _texts(self) -> list[str]:
        if self.set is not None:
            own = ", ".join(f"{{{name}}}" for name in self.axes)
            return [f"{text}, {own}" if own else text for text in clip_templates()]
        return [self.text] if isinstance(self.text, str) else self.text

    def coverage(self, texts: Sequence[Sequence[str]], class_names: Sequence[str]) -> dict[str, Any]:
        """The design is a full grid of texts and axes, walked in a balanced order. cells: its size (up to `limit`); filled: how many of
        them a class's prompts cover, the mean and the fewest over the classes; share: filled_mean / cells."""
        choices = [self._texts(), *self.axes.values()]
        grid = balanced([len(values) for values in choices], self.limit).tolist()
        filled = []
        for label, used in zip(class_names or [""], texts, strict=True):
            present = set(used)
            filled.append(sum(self._fill([v[i] for v, i in zip(choices, cell, strict=True)], label) in present for cell in grid))
        mean = sum(filled) / max(len(filled), 1)
        return {
            "cells": len(grid),
            "filled_mean": round(mean, 2),
            "filled_least": min(filled, default=0),
            "share": round(mean / len(grid), 4),
        }

    def _fill(self, cell: Sequence[str], label: str) -> str:
        return cell[0].format(label=label, **dict(zip(self.axes, cell[1:], strict=True)))

    def _of_class(self, label: str, cells: np.ndarray, seed: int) -> list[str]:
        choices = [self._texts(), *self.axes.values()]
        names = ["text", *self.axes]
        shuffled = []
        for name, values in zip(names, choices, strict=True):  # renaming values keeps the balance and gives each class its own order
            order = seeds.rng(seed, "template", label, name).permutation(len(values))
            shuffled.append([values[place] for place in order])
        made: dict[str, None] = {}
        for cell in cells.tolist():
            made[self._fill([shuffled[axis][value] for axis, value in enumerate(cell)], label)] = None
        return list(made)


def balanced(sizes: Sequence[int], limit: int) -> np.ndarray:
    """The first `limit` cells of a grid, int64 [min(limit, product of sizes), axes], each once, balanced along every axis.

    A Latin-square order by induction: with the first axes joined into one of period a, the next axis of size n takes
    (k + ⌊k / lcm(a, n)⌋) mod n at step k of a·n. Steps within one lcm visit distinct cells by the Chinese remainder theorem, and the
    shift moves to the next coset, so each cell comes once; blocks of n steps hold each value once, so each prefix is balanced to ±1.
    """
    step = np.arange(min(limit, math.prod(sizes)))
    columns, joined = [], 1
    for size in sizes:
        inside = step % (joined * size) if joined * size <= len(step) else step  # Python integers: the product may exceed 64 bits
        turn = math.lcm(joined, size)
        columns.append((inside + (inside // turn if turn <= len(step) else 0)) % size)
        joined *= size
    return np.stack(columns, axis=1)


def _blanks(text: str) -> set[str]:
    """The names between braces. Raises ValueError for braces that do not match."""
    found = blanks.names(text)
    if any(spec or conversion for _, _, spec, conversion in string.Formatter().parse(text)):
        raise ValueError(f"text: {text!r}: a blank is a plain name in braces, such as {{label}}")
    return set(found)


@cache
def clip_templates() -> list[str]:
    """CLIP's 80 templates with {label}, read from open_clip's source: importing it would load torch."""
    spec = importlib.util.find_spec("open_clip")
    assert spec is not None and spec.origin is not None
    tree = ast.parse((Path(spec.origin).parent / "zero_shot_metadata.py").read_text(encoding="utf-8"))
    values = {
        node.targets[0].id: node.value for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    lambdas = [node for node in ast.walk(values["OPENAI_IMAGENET_TEMPLATES"]) if isinstance(node, ast.Lambda)]
    return [
        "".join(str(part.value) if isinstance(part, ast.Constant) else "{label}" for part in one.body.values)
        for one in lambdas
        if isinstance(one.body, ast.JoinedStr)
    ]
