"""Kind name -> file -> class. `kind: clip_similarity` under `filters:` is the class in `factory/filters/clip_similarity.py`.

Nothing is imported until it is named, so planning never loads torch. A dotted path names a class outside the project.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, ValidationError, WithJsonSchema

from factory.contracts import Kind, Source
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


def nested(room: str, contract: type[Kind], value: Any) -> Kind:
    """A kind inside another kind's fields: `name` or `{kind: name, …}` -> the kind. Raises ValueError that says what to write instead.

    A source may leave `kind` out, as in a recipe: it follows from its `dataset`.
    """
    if isinstance(value, contract):
        return value
    fields = {"kind": value} if isinstance(value, str) else dict(value) if isinstance(value, dict) else {}
    kind = fields.pop("kind", None)
    infer = getattr(importlib.import_module(f"factory.{room}"), "infer", None)
    try:
        if kind is None and infer is not None and isinstance(fields.get("dataset"), str):
            kind = infer(fields["dataset"])
        if not isinstance(kind, str):
            raise ValueError(f"expected a name or {{kind: name, …}}; there are: {', '.join(names(room))}")
        model = find(room, kind, contract)
    except UserError as error:
        raise ValueError(str(error)) from None
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        keys = list(model.model_fields)
        raise ValueError("; ".join(f"{kind}.{_fault(dict(fault), keys)}" for fault in error.errors())) from None


def _fault(fault: dict[str, Any], keys: list[str]) -> str:
    name = ".".join(map(str, fault["loc"]))
    if fault["type"] != "extra_forbidden":
        return f"{name}: {fault['msg'].removeprefix('Value error, ')}".removeprefix(": ")
    near = difflib.get_close_matches(name, keys, n=1)
    return f"{name}: unknown key; " + (f"did you mean {near[0]}?" if near else f"the keys are: {', '.join(keys)}")


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


# A set of real images as a field of another kind, {dataset: …} as in a recipe's `source`.
RealImages = Annotated[
    Source,
    BeforeValidator(lambda value: nested("sources", Source, value)),
    PlainSerializer(lambda source: source.settings()),
    WithJsonSchema({"type": "object", "required": ["dataset"], "properties": {"dataset": {"type": "string"}}}),
]
