"""Sentences with blanks, filled evenly."""

from __future__ import annotations

from factory.prompts._template import Filled


class Template(Filled):
    """Each text is filled with {label} and one value of each axis, in an order whose every beginning is balanced."""
