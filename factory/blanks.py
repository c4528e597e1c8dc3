"""Texts with blanks, such as {label}, checked before anything is loaded."""

from __future__ import annotations

import string
from collections.abc import Collection

from pydantic import AfterValidator


def names(text: str) -> frozenset[str]:
    """The names in braces. Raises ValueError for braces that do not match."""
    try:
        return frozenset(name for _, name, _, _ in string.Formatter().parse(text) if name is not None)
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}; write {{{{ and }}}} for plain braces") from None


def check(text: str, allowed: Collection[str], required: Collection[str] = ()) -> str:
    """The text itself. Raises ValueError for a blank that nothing fills, one that text does not fit, or a required one that is missing."""
    found = names(text)
    if unknown := sorted(found - set(allowed)):
        raise ValueError(f"nothing fills {{{unknown[0]}}} in {text!r}; use {' or '.join(f'{{{name}}}' for name in sorted(allowed))}")
    if missing := sorted(set(required) - found):
        raise ValueError(f"{text!r} must contain {{{missing[0]}}}")
    try:
        text.format(**dict.fromkeys(found, "words"))
    except ValueError as error:
        raise ValueError(
            f"{text!r}: {error}; blanks are filled with text, so {{{min(found)}:.77}} is a way to write one and {{{min(found)}:d}} is not"
        ) from None
    return text


def of(*allowed: str) -> AfterValidator:
    """For the type of a field: a text that may have these blanks and no other."""
    return AfterValidator(lambda text: check(text, allowed))
