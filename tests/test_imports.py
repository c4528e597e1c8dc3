"""The house's floors: imports only point down, kinds never import each other, nothing heavy loads before it is named."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

# From the ground up. A module may import what stands on an earlier floor, or earlier on its own.
FLOORS = [
    ["errors", "records", "seeds", "images", "files", "evaluation_file", "cells", "blanks"],
    ["contracts", "kinds"],
    ["sentences", "models", "encoders", "indexes", "classifiers"],
    ["augment"],
    ["sources", "corpora", "prompts", "conditions", "generators", "filters", "exporters"],
    [
        "document",
        "recipe",
        "honour",
        "diversity",
        "wording",
        "plan",
        "neighbours",
        "select",
        "locks",
        "tables",
        "store",
        "runtime",
        "claims",
    ],
    ["provenance"],
    ["contact_sheet", "prepare", "scoring", "worker", "publish", "assemble", "report", "build"],
    ["filtering", "schema", "finished", "reselect", "sweep", "preview", "panorama", "page", "push"],
    ["published", "replay"],
    ["train", "evaluate", "tune"],
    ["commands", "cli", "__main__"],
]
ORDER = [room for floor in FLOORS for room in floor]
KIND_ROOMS = {"augment", *FLOORS[4]}
FILES = sorted((ROOT / "factory").rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Modules of the factory that a file imports, anywhere in it, as dotted names without the `factory.`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            if module == "factory":
                found |= {alias.name for alias in node.names}
            elif module.startswith("factory."):
                found.add(module.removeprefix("factory."))
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("factory.") for alias in node.names if alias.name.startswith("factory.")}
    return found - {"__version__"}


def neighbours(path: Path, room: Path) -> set[str]:
    """Modules of its own room that a file imports to run, not for types alone; `__init__` for the room itself."""
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        part for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" for part in ast.walk(node)
    }
    for node in set(ast.walk(tree)) - for_types:
        if isinstance(node, ast.ImportFrom) and node.module == f"factory.{room.name}":
            found |= {alias.name if (room / f"{alias.name}.py").exists() else "__init__" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"factory.{room.name}."):
            found.add(str(node.module).split(".")[2])
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    own = path.relative_to(ROOT / "factory")
    room = own.parts[0].removesuffix(".py")
    if room == "__init__":
        assert not imported(path)
        return
    for module in imported(path):
        target = module.split(".")[0]
        if target == room:
            continue
        assert ORDER.index(target) < ORDER.index(room), f"{own} imports {module}, which stands above it"
        assert target not in KIND_ROOMS or room not in KIND_ROOMS or target == "augment", f"{own} imports another room's kind, {module}"


@pytest.mark.parametrize("room", sorted({p.parent.name for p in FILES} - {"factory"}))
def test_no_room_imports_in_circles(room: str) -> None:
    folder = ROOT / "factory" / room
    graph = {path.stem: neighbours(path, folder) for path in folder.glob("*.py")}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"{room}: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize("room", sorted(KIND_ROOMS))
def test_kinds_do_not_import_each_other(room: str) -> None:
    for path in (ROOT / "factory" / room).glob("[!_]*.py"):
        siblings = {m for m in imported(path) if m.startswith(f"{room}.") and not m.split(".")[1].startswith("_")}
        assert not siblings, f"{path.name} imports {siblings}; shared code lives in a private module of the room"


def test_no_kind_loads_torch_when_imported() -> None:
    names = [f"factory.{room}.{p.stem}" for room in KIND_ROOMS for p in (ROOT / "factory" / room).glob("[!_]*.py")]
    code = f"import importlib, sys\nfor n in {names!r}: importlib.import_module(n)\nassert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
