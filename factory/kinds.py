"""Kind name -> file -> class. `kind: clip_similarity` under `filters:` is the class in `factory/filters/clip_similarity.py`.

Nothing is imported until it is named, so planning never loads torch. A dotted path names a class outside the project.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil

from factory.contracts import Kind
from factory.errors import UserError


def names(room: str) -> list[str]:
    """The built-in kinds of one room (`filters`, `sources`, …), without importing them."""
    package = importlib.import_module(f"factory.{room}")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_"))


def find(room: str, kind: str, contract: type[Kind]) -> type[Kind]:
    """The class behind a kind name. Raises UserError with the nearest names when there is none."""
    if "." in kind:
        module_name, _, class_name = kind.rpartition(".")
        try:
            found = getattr(importlib.import_module(module_name), class_name, None)
            module = found if found is not None else importlib.import_module(kind)
        except ImportError as error:
            raise UserError(f"cannot import {kind!r}: {error}; is it on PYTHONPATH?") from error
        if inspect.isclass(found) and issubclass(found, contract):
            return found
        return _only_class(module, contract, kind)
    if kind not in names(room):
        near = difflib.get_close_matches(kind, names(room), n=3)
        raise UserError(
            f"unknown kind {kind!r}; " + (f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(names(room))}")
        )
    return _only_class(importlib.import_module(f"factory.{room}.{kind}"), contract, kind)


def _only_class(module: object, contract: type[Kind], kind: str) -> type[Kind]:
    own = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, contract)
        and not inspect.isabstract(value)
        and value.__module__ == getattr(module, "__name__", None)
    ]
    if len(own) != 1:
        raise UserError(
            f"{kind!r} must name a module with exactly one {contract.__name__}, or a {contract.__name__} class; found {len(own)}"
        )
    return own[0]
