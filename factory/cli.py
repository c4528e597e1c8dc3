"""The command line: parse, call, print. Exit 0 done, 1 failed, 2 the user can mend it."""

from __future__ import annotations

import errno
import logging
import os
import sys
import warnings
from importlib import import_module
from typing import Annotated

import typer

from factory import __version__
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

# In the order in which `factory --help` lists them: `factory NAME` is factory/commands/NAME.py.
COMMANDS = (
    "check",
    "plan",
    "preview",
    "build",
    "filter",
    "select",
    "sweep",
    "evaluate",
    "report",
    "tune",
    "push",
    "replay",
    "train",
    "large",
    "schema",
)
for name in COMMANDS:
    app.command(name)(import_module(f"factory.commands.{name}").command)


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
    warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries to their own callers
    sys.path.append(os.getcwd())  # `kind: mylab.filters.Sharpness` finds a package beside the recipe; installed ones come first
    try:
        app()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            print(f"{error.filename}: {error.strerror}; change its permissions, or name a folder that can be written", file=sys.stderr)
            sys.exit(2)
        if not is_full(error):
            raise
        where = getattr(error, "filename", None) or "the output folder"
        print(f"{where}: the disk is full; free some space and run the same command again", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; nothing was lost, run the same command again", file=sys.stderr)
        sys.exit(2)
