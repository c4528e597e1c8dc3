"""YAML that remembers where each key stands, and faults told with file, line, key and what to do."""

from __future__ import annotations

import difflib
import inspect
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from factory.errors import RecipeError, UserError

ENV_PREFIX = "FACTORY__"
KeyPath = tuple[str | int, ...]


class Document:
    """Parsed YAML that remembers where each key stands, overrides included."""

    def __init__(self, data: Any, file: str):
        self.data, self.file = data, file
        self.origins: dict[KeyPath, str] = {}

    def override(self, dotted: str, text: str, origin: str) -> None:
        """Set `amount.per_class` or `filters[0].min` to a YAML value. Raises RecipeError for a path that leads nowhere."""
        path = _parse_path(dotted)
        node = self.data
        for depth, key in enumerate(path[:-1]):
            child = _child(node, key)
            if child is None and isinstance(node, dict) and isinstance(key, str):
                child = node[key] = CommentedMap()
                self.origins[path[: depth + 1]] = origin  # the section stands nowhere in the file
            if isinstance(node, list) and child is None:
                raise RecipeError(
                    [f"{origin}: {_dotted(path[:depth])} has {len(node)} items, counted from 0; there is no {_dotted(path[: depth + 1])}"]
                )
            if not isinstance(child, dict | list):
                raise RecipeError([f"{origin}: {_dotted(path[: depth + 1])} is not a section; set the whole of it or a key that exists"])
            node = child
        try:
            value = YAML(typ="safe", pure=True).load(text) if text.strip() else None
        except YAMLError as error:
            raise RecipeError([f"{origin}: {text!r} is not a YAML value ({_first_line(error)})"]) from error
        last = path[-1]
        if isinstance(node, list):
            if not isinstance(last, int) or last >= len(node):
                raise RecipeError([f"{origin}: {_dotted(path[:-1])} has {len(node)} items, there is no item {last}"])
            node[last] = value
        else:
            node[str(last)] = value
        self.origins[path] = origin

    def override_all(self, sets: Sequence[str], example: str) -> None:
        """Lay `--set key=value` over it, one after another. example: of such an item, for the message. Raises RecipeError."""
        for item in sets:
            key, equals, value = item.partition("=")
            if not equals:
                raise RecipeError([f"--set {item}: expected key=value, such as --set {example}"])
            self.override(key.strip(), value, f"--set {item}")

    def where(self, path: KeyPath) -> str:
        """`file:line key.path`, or the override that set it; a missing key points at its section."""
        for depth in range(len(path), 0, -1):
            if path[:depth] in self.origins:
                return f"{self.origins[path[:depth]]} {_dotted(path)}"
        line, node = 1, self.data
        for key in path:
            try:
                line = (node.lc.item(key) if isinstance(node, CommentedSeq) else node.lc.key(key))[0] + 1
                node = node[key]
            except (AttributeError, KeyError, IndexError, TypeError):
                break  # a missing key has no line of its own: its section's line stands
        return f"{self.file}:{line} {_dotted(path)}"


def read(path: str | Path, sets: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> Document:
    """Parse a YAML file and lay environment and `--set` overrides over it, in that order. Raises UserError."""
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(file.name, [p.name for p in file.parent.glob("*.y*ml")], n=1) if file.parent.is_dir() else []
        hint = f"; did you mean {file.parent / near[0]}?" if near else ""
        raise UserError(f"{file}: no such recipe (looked in {file.absolute().parent}){hint}") from None
    except IsADirectoryError:
        known = ", ".join(sorted(p.name for p in file.glob("*.y*ml"))) or "it has no .yaml"
        raise UserError(f"{file}: a folder is no recipe; name a file in it: {known}") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: this is no text, and a recipe is a YAML file, such as recipes/quickstart.yaml") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error}") from error
    try:
        data = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RecipeError(
            [f"{file}:{line}: not YAML: {error.problem or _first_line(error)}; check the indentation and quotes there"]
        ) from error
    if not isinstance(data, CommentedMap):
        raise RecipeError([f"{file}:1: a recipe is a mapping of keys (name, source, generator, …), not {type(data).__name__}"])
    document = Document(data, str(file))
    for name, value in sorted((os.environ if environ is None else environ).items()):
        if name.startswith(ENV_PREFIX):
            document.override(name[len(ENV_PREFIX) :].lower().replace("__", "."), value, f"${name}")
    document.override_all(sets, "amount.per_class=50")
    return document


def require(document: Document, command: str) -> None:
    """Raise RecipeError for a recipe of another command: one that lacks this command's own key and has another's."""
    marks = {"build": "generator", "filter": "corpus", "train": "kind"}
    other = next((name for name, key in marks.items() if key in document.data), command)
    if marks[command] not in document.data and other != command:
        said = f"it has `{marks[other]}` and no `{marks[command]}`"
        raise RecipeError([f"{document.file}: this is a recipe of `factory {other}` ({said}); run `factory {other} {document.file}`"])


def validate(model: type[BaseModel], raw: Any, document: Document, path: KeyPath, faults: list[str]) -> Any:
    """`raw`, which stands at `path`, as a model; or None, with its faults appended."""
    try:
        return model.model_validate(_plain(raw))
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            location = _location(fault["loc"], raw)
            faults.append(f"{document.where((*path, *location))}: {_sentence(dict(fault), location, _model_at(model, location[:-1]))}")
        return None


def _model_at(model: type[BaseModel], location: KeyPath) -> type[BaseModel]:
    """The model that holds the key after `location`: nested sections have models of their own."""
    for step in location:
        if isinstance(step, str) and step in model.model_fields:
            model = _inner(model.model_fields[step].annotation) or model
    return model


def _inner(annotation: Any) -> type[BaseModel] | None:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _inner(part))), None)


def _sentence(fault: dict[str, Any], location: KeyPath, model: type[BaseModel]) -> str:
    """One pydantic fault in words: what is wrong, and what to do. model: the one that holds the last key of `location`."""
    if fault["type"] == "extra_forbidden":
        return unknown(str(location[-1]), model.model_fields)
    field = model.model_fields.get(str(location[-1])) if location else None
    hint = f" ({field.description})" if field is not None and field.description else ""
    if fault["type"] == "missing":
        return f"required key is missing; add `{location[-1]}: …`{hint}"
    message = str(fault["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    got = fault.get("input")
    shown = f", got {got!r}" if fault["type"] != "value_error" and isinstance(got, str | int | float | bool | None) else ""
    return f"{message}{shown}{hint}"


def unknown(key: str, known: Iterable[str]) -> str:
    """What to say of a key that is not among the known ones."""
    near = difflib.get_close_matches(key, list(known), n=1)
    return "unknown key; " + (f"did you mean {near[0]}?" if near else f"the keys are: {', '.join(sorted(known))}")


def _location(loc: tuple[str | int, ...], raw: Any) -> KeyPath:
    """pydantic's location without the union branches that it adds: only steps that exist in the data, and a last missing one."""
    path: list[str | int] = []
    node = raw
    for step in loc:
        child = _child(node, step)
        if child is None and not (isinstance(node, dict) and step == loc[-1]):
            continue
        path.append(step)
        node = child
    return tuple(path)


def _child(node: Any, key: str | int) -> Any:
    if isinstance(node, dict):
        return node.get(key)
    if isinstance(node, list) and isinstance(key, int) and key < len(node):
        return node[key]
    return None


def _parse_path(dotted: str) -> KeyPath:
    steps = re.findall(r"[^.\[\]]+", dotted)
    if not steps:
        raise RecipeError([f"--set {dotted}: expected a key such as amount.per_class or filters[1].min"])
    return tuple(int(step) if step.isdigit() else step for step in steps)


def _dotted(path: KeyPath) -> str:
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.lstrip(".") or "recipe"


def _plain(value: Any) -> Any:
    """ruamel's containers and scalars as plain ones; kinds stay as they are."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, bool):
        return bool(value)
    for plain in (int, float, str):
        if isinstance(value, plain):
            return plain(value)
    return value


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def ordered(faults: list[str]) -> list[str]:
    """Faults in the order of the file, each once."""

    def line(fault: str) -> int:
        found = re.match(r".*?:(\d+) ", fault)
        return int(found[1]) if found else 0

    return sorted(dict.fromkeys(faults), key=line)
