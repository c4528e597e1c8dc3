"""How every bench ends: readable lines, and with --json one JSON object as the last line."""

from __future__ import annotations

import argparse
import json
import resource
from typing import Any


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser that knows --json and explains itself with the bench's own docstring."""
    options = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--json", action="store_true", help="end with one JSON object on the last line")
    return options


def emit(result: dict[str, Any], as_json: bool) -> None:
    """Print a bench's figures."""
    print(json.dumps(result) if as_json else "\n".join(f"{key}: {value}" for key, value in result.items()))


def peak_mb() -> float:
    """Peak resident memory of this process, in MB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
