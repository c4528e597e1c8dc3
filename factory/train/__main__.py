"""`python -m factory.train recipes/train/clip.yaml --set source.dataset=PATH`."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from factory.errors import UserError
from factory.train import run

parser = argparse.ArgumentParser(prog="python -m factory.train", description=__doc__)
parser.add_argument("recipe", type=Path)
parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE")
parser.add_argument("--out", type=Path)
arguments = parser.parse_args()
logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
for noisy in ("httpx", "datasets"):
    logging.getLogger(noisy).setLevel(logging.WARNING)
try:
    run(arguments.recipe, arguments.sets, arguments.out)
except UserError as error:
    sys.exit(f"{error}")
