"""What stops a dataset from being published: images that repeat training images, and broken guards of its evaluation."""

from __future__ import annotations

import json
import logging
from typing import Any

from factory import evaluation_file
from factory.errors import UserError

log = logging.getLogger("factory")
SHOWN = 10  # ids or checks that a message names


def of_these(found: dict[str, Any] | None, facts: dict[str, Any]) -> dict[str, Any] | None:
    """The evaluation, where it measured the very images of the dataset with these facts; None where it measured others."""
    if found is None or evaluation_file.measured(found, facts.get("selection")):
        return found
    log.warning(
        "the card will not say what evaluation.json found: it measured another selection of the run's images than the dataset holds. "
        "Run `factory evaluate` again; or, to push the images that it measured, `factory select` with their rules and --export"
    )
    return None


def faults(found: dict[str, Any] | None) -> list[str]:
    """Why this evaluation forbids publishing, one sentence each; empty where nothing does or nobody has evaluated."""
    said = []
    memorisation = (found or {}).get("memorisation", {})
    if memorisation.get("gate", {}).get("passed") is False:
        pairs = [f"{pair['id']} at {pair['distance']:.4g}" for pair in memorisation.get("pairs", [])]
        said.append(_sentence("the gate on memorisation did not pass", memorisation["gate"].get("text", ""), "nearest pairs", pairs))
    guards = (found or {}).get("guards", {})
    if guards.get("passed") is False:
        broken = [_check(check) for check in guards.get("checks", []) if not (isinstance(check, dict) and check.get("passed"))]
        said.append(_sentence("a guard of the evaluation did not pass", guards.get("text", ""), "checks", broken))
    return said


def check(found: dict[str, Any] | None, accept: bool) -> str:
    """What was accepted, "" where nothing had to be. Raises UserError with the ids and figures."""
    said = faults(found)
    if said and not accept:
        raise UserError(
            f"not pushed: {'; '.join(said)}. Leave these images out (a stricter filter, `factory select --export`) and evaluate again, "
            "or publish all the same with --accept-memorisation, which the card will say"
        )
    return "; ".join(said)


def _sentence(what: str, text: str, name: str, items: list[str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    figures = f" ({name}: {', '.join(items[:SHOWN])}{more})" if items else ""
    return f"{what}{': ' + text.strip().rstrip('.') if text else ''}{figures}"


def _check(one: Any) -> str:
    """A check that did not pass, as it tells itself."""
    if not isinstance(one, dict):
        return str(one)
    ids = one.get("ids") or []
    some = f" [{', '.join(map(str, ids[:SHOWN]))}{', …' if len(ids) > SHOWN else ''}]" if ids else ""
    return f"{one.get('text') or one.get('name') or json.dumps(one)}{some}"
