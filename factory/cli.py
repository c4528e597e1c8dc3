"""The command line: parse, call, print. Exit 0 done, 1 failed, 2 the user can mend it."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table as RichTable

from factory import __version__
from factory import recipe as recipes
from factory.errors import UserError
from factory.files import is_full

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Build synthetic image datasets from recipes.\n\nStart with: [bold]factory build recipes/quickstart.yaml[/bold]",
)

RecipeFile = Annotated[Path, typer.Argument(help="A recipe, such as recipes/quickstart.yaml.", show_default=False)]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Override a key: amount.per_class=50 or 'filters[1].min=0.3'. May be repeated. FACTORY__AMOUNT__PER_CLASS=50 in the environment does the same.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, or auto for the fastest there is.")]


def _opened(path: Path, sets: list[str] | None) -> tuple[recipes.Recipe, Any, Any]:
    """(recipe, table, plan): everything that is decided before a model is loaded."""
    from factory import honour
    from factory import plan as planning

    recipe = recipes.load(path, sets or [])
    table = recipe.source.open()
    planned = planning.make(recipe, table)
    honour.check(recipe)
    return recipe, table, planned


def _out(recipe: recipes.Recipe, out: Path | None) -> Path:
    return out or Path("runs") / recipe.name


@app.command()
def build(
    recipe_file: RecipeFile,
    out: Annotated[Path | None, typer.Option(help="The run folder; default runs/<recipe name>.", show_default=False)] = None,
    sets: Sets = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes on this machine, one per GPU where there are GPUs.")] = 1,
    device: Device = "auto",
    join: Annotated[bool, typer.Option("--join", help="Add this worker to a run that another launch holds.")] = False,
    as_json: AsJson = False,
) -> None:
    """Generate, filter and export a dataset; run it again to resume.

    Example: factory build recipes/quickstart.yaml --out runs/quickstart --set amount.per_class=50

    On many machines: accelerate launch --multi_gpu --num_processes 16 --num_machines 2 … -m factory build recipes/quickstart.yaml
    """
    recipe, table, plan = _opened(recipe_file, sets)
    folder = _out(recipe, out)
    from factory import runtime

    if workers > 1 and runtime.worker().world == 1:
        raise typer.Exit(runtime.launch(workers, sys.argv[1:]))
    from factory import build as story
    from factory import report

    result = story.run(recipe, plan, table, folder, device, join)
    if result is not None:
        print(json.dumps(result) if as_json else report.summary(result, folder))


@app.command()
def check(recipe_file: RecipeFile, sets: Sets = None, as_json: AsJson = False) -> None:
    """Check a recipe and its source, and name every fault at once.

    Example: factory check recipes/quickstart.yaml
    """
    recipe, table, plan = _opened(recipe_file, sets)
    if as_json:
        print(json.dumps({"ok": True, "name": recipe.name, "plan": plan.id, "recipe": recipe.settings()}))
    else:
        print(
            f"{recipe_file}: ok. {int(plan.wanted.sum())} images of {len(plan.classes)} classes from {len(table)} real ones; plan {plan.id}"
        )


@app.command()
def plan(
    recipe_file: RecipeFile,
    sets: Sets = None,
    probe: Annotated[bool, typer.Option("--probe", help="Load the models and make one batch, to estimate time and disk.")] = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Show what a build would do: slots, parents, shards and disk; generates nothing.

    Example: factory plan recipes/quickstart.yaml --probe
    """
    from factory import preview

    recipe, table, planned = _opened(recipe_file, sets)
    facts = preview.facts(recipe, planned, table)
    if probe:
        facts["probe"] = preview.probe(recipe, planned, table, device)
    if as_json:
        print(json.dumps(facts))
        return
    grid = RichTable("class", "real parents", "to keep", title=f"{recipe.name}  plan {planned.id}", title_justify="left")
    for row in facts["classes"]:
        grid.add_row(row["name"], str(row["parents"]), str(row["wanted"]))
    Console().print(grid)
    print("\n".join(preview.lines(facts)))


@app.command("preview")
def preview_command(
    recipe_file: RecipeFile,
    sets: Sets = None,
    n: Annotated[int, typer.Option("-n", min=1, help="How many images: the first of the plan.")] = 8,
    out: Annotated[Path | None, typer.Option(help="The picture; default runs/<recipe name>-preview.png.", show_default=False)] = None,
    device: Device = "auto",
) -> None:
    """Make the first images of a plan in seconds and show them beside their parents.

    Example: factory preview recipes/quickstart.yaml -n 12 --set generator.guidance=3
    """
    from factory import preview

    recipe, table, planned = _opened(recipe_file, sets)
    path = out or Path("runs") / f"{recipe.name}-preview.png"
    print(preview.make(recipe, planned, table, n, path, device))


@app.command("select")
def select_command(
    run: Annotated[Path, typer.Argument(help="A run folder, such as runs/quickstart.", show_default=False)],
    recipe_file: Annotated[
        Path | None, typer.Argument(help="A recipe with the new rules; default the run's own.", show_default=False)
    ] = None,
    sets: Sets = None,
    export: Annotated[bool, typer.Option("--export", help="Write the dataset again with the new selection.")] = False,
    as_json: AsJson = False,
) -> None:
    """Decide again from the stored scores, without loading a model.

    Example: factory select runs/quickstart --set 'filters[1].min=0.3' --export
    """
    from factory import reselect

    result = reselect.run(run, recipe_file, sets or [], export)
    print(json.dumps(result) if as_json else reselect.summary(result, run))


@app.command()
def schema() -> None:
    """Print a JSON Schema of recipes, for editors that complete and check YAML.

    Example: factory schema > recipe.schema.json
    """
    from factory import schema as schemas

    print(json.dumps(schemas.of_recipes(), indent=1))


@app.command()
def train(
    recipe_file: Annotated[Path, typer.Argument(help="A training recipe, such as recipes/train/clip.yaml.", show_default=False)],
    sets: Sets = None,
    out: Annotated[Path | None, typer.Option(help="Where the model goes; default the recipe's own `out`.", show_default=False)] = None,
) -> None:
    """Train one of the factory's own models; run it again to resume.

    Example: factory train recipes/train/clip.yaml --set source.dataset=fashion-mnist/train.parquet
    """
    from factory import train as training

    training.run(recipe_file, sets or [], out)


@app.command()
def large(
    model: Annotated[str, typer.Argument(help="A pipeline folder or a Hub id.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The TIFF to write.", show_default=False)],
    size: Annotated[str, typer.Option(help="HEIGHTxWIDTH in pixels.")] = "1024x1024",
    reference: Annotated[
        Path | None, typer.Option(help="A real image whose patches' embeddings guide a representation-guided model.", show_default=False)
    ] = None,
    patches: Annotated[
        Path | None, typer.Option(help="A folder of images, drawn at random onto the grid in place of a reference.", show_default=False)
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="For a text-to-image pipeline.", show_default=False)] = None,
    steps: Annotated[int, typer.Option(min=1, help="Sampling steps.")] = 25,
    guidance: Annotated[float, typer.Option(min=0, help="Guidance scale.")] = 2.0,
    overlap: Annotated[
        float, typer.Option(min=0, max=0.95, help="Share of a window that its neighbours see too; the paper uses 0.75.")
    ] = 0.75,
    cell: Annotated[float, typer.Option(min=0.1, help="Distance of embeddings on the grid, in sides of a patch.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Seed of the noise and of drawn patches.")] = 0,
    device: Device = "auto",
) -> None:
    """Make one image of any size from a model of small ones; pixels stream to disk.

    Example: factory large runs/models/bccd --reference smear.png --size 480x640 --out smear.tif
    """
    from factory import panorama

    print(panorama.run(model, out, size, reference, patches, prompt, steps, guidance, overlap, cell, seed, device))


def _version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit()


@app.callback()
def _main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("factory").setLevel(logging.INFO)


def main() -> None:
    """The `factory` command."""
    os.environ.setdefault("DATASETS_VERBOSITY", "critical")  # its errors reach the user through ours, once
    sys.path.append(os.getcwd())  # `kind: mylab.filters.Sharpness` finds a package beside the recipe; installed ones come first
    try:
        app()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if not is_full(error):
            raise
        print(f"{error.filename or 'the run folder'}: the disk is full; free some space and run the same command again", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; nothing was lost, run the same command again", file=sys.stderr)
        sys.exit(2)
