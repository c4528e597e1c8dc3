"""What `factory evaluate` leaves in a run, evaluation.json, as all who read it do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from factory.errors import UserError
from factory.files import read_object

NAME = "evaluation.json"
VERSION = 1  # of its layout; a file of another one is refused. Keys that came later (`images`, and `rival` of a row) may be absent.


def read(run: Path) -> dict[str, Any] | None:
    """evaluation.json of a run, None where nobody has evaluated it. Raises UserError for a damaged file and one of another version."""
    path = run / NAME
    found = read_object(path, "run `factory evaluate` again")
    if found is None:
        return None
    if found.get("version") != VERSION:
        raise UserError(f"{path} has version {found.get('version')}, expected {VERSION}; run `factory evaluate` again")
    return found


def interval_over(utility: dict[str, Any]) -> str:
    """What the intervals of a utility section are over, in words; "" where it does not say."""
    vary = (utility.get("protocol") or {}).get("seeds_vary")
    if vary is None:
        return ""
    return "trainings and images, for this one draw of real images" if vary == "training" else "draws of real images, trainings and images"


def measured(found: dict[str, Any], selection: str | None) -> bool:
    """Whether an evaluation is of the images with this `select.digest`; where either does not say which ones, it is not."""
    return selection is not None and found.get("selection") == selection
