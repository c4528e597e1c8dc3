"""`factory evaluate`: does the synthetic data help?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from factory.commands._options import AsJson, Device


def command(
    run: Annotated[Path, typer.Argument(help="A finished run folder, such as runs/quickstart.", show_default=False)],
    real: Annotated[
        str,
        typer.Option(
            "--real", help="All real training images: a path, or a source such as {dataset: …, split: train}.", show_default=False
        ),
    ],
    test: Annotated[
        str, typer.Option("--test", help="Real held-out images, used for nothing but the last figure; as --real.", show_default=False)
    ],
    recipe_file: Annotated[Path | None, typer.Option("--recipe", help="A YAML file with settings; every key has a default.")] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="Override a setting: seeds=10, protocol=few_shot or 'shots=[1,4]'. May be repeated.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="utility, fidelity or memorisation alone. May be repeated.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer steps and images: minutes on a small CPU; still five seeds.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check for leaks and list the trainings; train and write nothing.")] = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure whether a run's images help, how real and varied they are, and whether they copy; run it again to resume.

    Example: factory evaluate runs/quickstart --real data/fashion-mnist --test data/fashion-mnist --quick

    A leak (a synthetic image in the test, a parent outside the shots, a copy of a test image, a generator that saw the test) is an error.
    """
    from factory.evaluate import settings as asking
    from factory.evaluate import story

    asked = [*(sets or []), *([f"sections=[{', '.join(only)}]"] if only else [])]
    settings = asking.load(recipe_file, asked, quick)
    result = story.run(run, real, test, settings, device, dry_run)
    if as_json:
        print(json.dumps(result))
    else:
        print(story.dry_summary(result) if dry_run else story.summary(result, run))
