"""Text templates in filters' keys, checked before any model is loaded."""

from __future__ import annotations

import string


def placeholders(template: str) -> frozenset[str]:
    """The names in braces. Raises ValueError for an unbalanced brace."""
    return frozenset(name for _, name, _, _ in string.Formatter().parse(template) if name is not None)


def check(template: str, allowed: frozenset[str], required: frozenset[str] = frozenset()) -> str:
    """The template itself. Raises ValueError for a placeholder that nothing fills or a required one that is missing."""
    found = placeholders(template)
    if found - allowed:
        use = " or ".join(f"{{{name}}}" for name in sorted(allowed))
        raise ValueError(f"nothing fills {{{sorted(found - allowed)[0]}}} in {template!r}; use {use}")
    if required - found:
        raise ValueError(f"{template!r} must contain {{{sorted(required - found)[0]}}}")
    return template
