"""`factory push`: a run's dataset onto the Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from factory.commands._options import AsJson


def command(
    run: Annotated[Path, typer.Argument(help="A run folder, such as runs/quickstart.", show_default=False)],
    repository: Annotated[str, typer.Argument(help="The dataset on the Hub: user/name.", show_default=False)],
    public: Annotated[bool, typer.Option("--public", help="Let everybody read it; a new repository is private without this.")] = False,
    append: Annotated[
        bool, typer.Option("--append", help="Add to the images of other plans that are there, and leave those untouched.")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Put these images in the place of other plans' images.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="While a build goes on: upload its shards as they are finished; commit at its end.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Only list the commit: files and bytes. Nothing is sent; without the Hub, as if the repository were new."
        ),
    ] = False,
    licence: Annotated[
        str | None, typer.Option("--license", help="The images' licence for the card, such as cc0-1.0.", show_default=False)
    ] = None,
    pictures: Annotated[
        bool, typer.Option(help="With the contact sheet: real parents beside their children, or kept images of a corpus.")
    ] = True,
    accept_memorisation: Annotated[
        bool, typer.Option("--accept-memorisation", help="Push although an evaluation's gate did not pass; the card will say so.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Publish a run's dataset with its card, recipe and plan, in one visible commit; run it again to resume.

    Example: factory push runs/quickstart ada/fashion-synthetic --license mit --dry-run
    """
    from factory.push import story

    options = story.Options(public, append, replace, dry_run, follow, pictures, licence, accept_memorisation)
    result = story.run(run, repository, options)
    print(json.dumps(result) if as_json else story.summary(result, dry_run))
