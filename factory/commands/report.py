"""`factory report`: a run as one page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from factory.commands._options import AsJson


def command(
    run: Annotated[Path, typer.Argument(help="A run folder, such as runs/quickstart.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="The page; default RUN/report.html.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Write one self-contained HTML page about a run: verdict, pictures, movable thresholds, balance, cost.

    Example: factory report runs/quickstart --out quickstart.html
    """
    from factory.page import render

    result = render.write(run, out or run / "report.html")
    print(json.dumps(result) if as_json else render.summary(result))
