"""`factory sweep`: what a threshold costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from factory.commands._options import AsJson


def command(
    run: Annotated[Path, typer.Argument(help="A finished run, such as runs/filter or runs/quickstart.", show_default=False)],
    filter: Annotated[str, typer.Argument(help="The filter, by the name of its score column.", show_default=False)],
    at: Annotated[
        list[float] | None,
        typer.Option(help="A threshold to look at; may be repeated. Default: quantiles of the scores.", show_default=False),
    ] = None,
    points: Annotated[int, typer.Option(min=2, help="How many quantiles.")] = 21,
    picture: Annotated[Path | None, typer.Option(help="Draw it as a PNG, SVG or PDF; needs matplotlib.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Show yield, balance of classes and diversity against one filter's threshold, from the stored scores.

    Example: factory sweep runs/filter zero_shot --picture runs/filter/sweep.png

    factory select RUN --set 'filters[1].min=0.6' then applies one.
    """
    from factory import sweep

    result = sweep.run(run, filter, at or [], points)
    if picture is not None:
        sweep.draw(result, picture)
    print(json.dumps(result) if as_json else sweep.table(result))
