"""What `factory evaluate` leaves in a run, evaluation.json, as all who read it do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from factory.errors import UserError

NAME = "evaluation.json"
VERSION = 1  # of its layout; a file of another one is refused


def read(run: Path) -> dict[str, Any] | None:
    """evaluation.json of a run, None where nobody has evaluated it. Raises UserError for a damaged file and one of another version."""
    path = run / NAME
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not JSON ({error}); run `factory evaluate` again") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(found).__name__}; run `factory evaluate` again")
    if found.get("version") != VERSION:
        raise UserError(f"{path} has version {found.get('version')}, expected {VERSION}; run `factory evaluate` again")
    return found


def measured(found: dict[str, Any], selection: str | None) -> bool:
    """Whether an evaluation is of the images with this `select.digest`; where either does not say which ones, it is not."""
    return selection is not None and found.get("selection") == selection
