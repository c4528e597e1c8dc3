"""A recipe: what a person may write, checked whole before anything runs."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from factory import kinds
from factory.contracts import Condition, Exporter, Filter, Generator, Kind, Prompts, Source
from factory.errors import RecipeError, UserError

ENV_PREFIX = "FACTORY__"


class Section(NamedTuple):
    """Where a section's kinds live, and which one is meant when the recipe names none."""

    room: str
    contract: type[Kind]
    default: str | None


SECTIONS: dict[str, Section] = {
    "source": Section("sources", Source, None),
    "generator": Section("generators", Generator, "diffusers"),
    "condition": Section("conditions", Condition, "text"),
    "prompts": Section("prompts", Prompts, "template"),
    "filters": Section("filters", Filter, None),
    "export": Section("exporters", Exporter, "parquet"),
}


class Amount(BaseModel):
    """How many images to keep, per class, after filtering."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    per_class: int | dict[str, int] = Field(100, description="Images to keep for each class (a number, or class: number).")
    fill_to: int | None = Field(None, ge=1, description="Instead of per_class: fill each class up to this many, real images counted in.")
    rounds: int = Field(3, ge=1, description="Rounds of requests at most: after filtering, a class that is short asks again.")


class Recipe(BaseModel):
    """One dataset to build. Sections that have kinds hold the opened kind itself."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: str = Field(description="What the dataset is called.", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(0, ge=0, lt=2**63, description="Every draw of the run follows from it.")
    source: Source = Field(description="Real images to condition on and to compare with.")
    generator: Generator = Field(description="What makes pixels.")
    condition: Condition = Field(description="How real images, labels and text steer the generator.")
    prompts: Prompts = Field(description="Text for requests.")
    amount: Amount = Field(default_factory=Amount, description="How many images to keep.")
    filters: tuple[Filter, ...] = Field((), description="Scores and the rules that decide from them, in order.")
    export: Exporter = Field(description="The dataset's format on disk.")
    shard: int = Field(256, ge=1, le=100_000, description="Requests per shard, the unit of work and of resuming.")
    threads: int = Field(2, ge=1, description="CPU threads per worker; float sums depend on it, so it is fixed, not guessed.")

    def settings(self) -> dict[str, Any]:
        """The recipe as JSON values: what is stored with the data and compared on resume."""
        plain = self.model_dump(mode="json", include={"name", "seed", "amount", "shard", "threads"})
        single = {key: getattr(self, key).settings() for key in ("source", "generator", "condition", "prompts", "export")}
        return {**plain, **single, "filters": [f.settings() for f in self.filters]}

    def columns(self) -> list[str]:
        """One score-column name per filter: its kind, numbered when a kind is used twice."""
        seen: dict[str, int] = {}
        names = []
        for f in self.filters:
            slug = f.kind.rsplit(".", 1)[-1]
            seen[slug] = seen.get(slug, 0) + 1
            names.append(slug if seen[slug] == 1 else f"{slug}_{seen[slug]}")
        return names


Path_ = tuple[str | int, ...]


class Document:
    """Parsed YAML that remembers where each key stands, overrides included."""

    def __init__(self, data: Any, file: str):
        self.data, self.file = data, file
        self.origins: dict[Path_, str] = {}

    def override(self, dotted: str, text: str, origin: str) -> None:
        """Set `amount.per_class` or `filters[0].min` to a YAML value. Raises RecipeError for a path that leads nowhere."""
        path = _parse_path(dotted)
        node = self.data
        for depth, key in enumerate(path[:-1]):
            child = _child(node, key)
            if child is None and isinstance(node, dict) and isinstance(key, str):
                child = node[key] = CommentedMap()
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

    def where(self, path: Path_) -> str:
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


def load(path: str | Path, sets: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> Recipe:
    """Read, override and check a recipe file. Raises RecipeError with every fault, each with file, line, key and what to do."""
    document = read(path, sets, environ)
    faults: list[str] = []
    known = Recipe.model_fields
    values: dict[str, Any] = {}
    for key in document.data:
        if key not in known:
            faults.append(f"{document.where((key,))}: {_unknown(str(key), known)}")
    for key, field in known.items():
        if key in SECTIONS:
            values[key] = _section(document, key, faults)
        elif key == "amount":
            raw = document.data.get(key) or {}
            values[key] = _validate(Amount, raw, document, (key,), faults) if isinstance(raw, dict) else raw
        elif key in document.data:
            values[key] = document.data[key]
        elif field.is_required():
            faults.append(f"{document.where((key,))}: required key is missing; add `{key}: …` ({field.description})")
            values[key] = "x"  # a stand-in, so that the remaining faults are found in the same pass
    holes = any(value is None for key, value in values.items() if key in SECTIONS)
    if not holes:
        recipe = _validate(Recipe, values, document, (), faults)
        if recipe is not None and not faults:
            return recipe
    else:
        plain = {key: value for key, value in values.items() if key not in SECTIONS}
        faults += _plain_faults(plain, document)
    raise RecipeError(_ordered(faults))


def read(path: str | Path, sets: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> Document:
    """Parse a YAML file and lay environment and `--set` overrides over it, in that order. Raises UserError."""
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(file.name, [p.name for p in file.parent.glob("*.y*ml")], n=1) if file.parent.is_dir() else []
        hint = f"; did you mean {file.parent / near[0]}?" if near else ""
        raise UserError(f"{file}: no such recipe (looked in {file.absolute().parent}){hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from error
    try:
        data = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RecipeError([f"{file}:{line}: not YAML: {error.problem or _first_line(error)}; check the indentation and quotes there"]) from error
    if not isinstance(data, CommentedMap):
        raise RecipeError([f"{file}:1: a recipe is a mapping of keys (name, source, generator, …), not {type(data).__name__}"])
    document = Document(data, str(file))
    for name, value in sorted((os.environ if environ is None else environ).items()):
        if name.startswith(ENV_PREFIX):
            document.override(name[len(ENV_PREFIX) :].lower().replace("__", "."), value, f"${name}")
    for item in sets:
        key, equals, value = item.partition("=")
        if not equals:
            raise RecipeError([f"--set {item}: expected key=value, such as --set amount.per_class=50"])
        document.override(key.strip(), value, f"--set {item}")
    return document


def validate(model: type[BaseModel], document: Document) -> Any:
    """A whole document against one model; used by the training recipes. Raises RecipeError with every fault."""
    faults: list[str] = []
    value = _validate(model, document.data, document, (), faults)
    if faults:
        raise RecipeError(_ordered(faults))
    return value


def schema() -> dict[str, Any]:
    """A JSON Schema (draft 2020-12) of every recipe that uses built-in kinds, for editors."""
    definitions: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    for key, field in Recipe.model_fields.items():
        if key in SECTIONS:
            properties[key] = _section_schema(key, definitions) | {"description": field.description}
    plain = _plain_schema()
    properties = {**plain["properties"], **properties}
    definitions.update(plain.get("$defs", {}))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Factory recipe",
        "type": "object",
        "additionalProperties": False,
        "required": ["name", "source", "generator"],
        "properties": properties,
        "$defs": definitions,
    }


def _plain_schema() -> dict[str, Any]:
    from pydantic import create_model

    fields: dict[str, Any] = {k: (f.annotation, f) for k, f in Recipe.model_fields.items() if k not in SECTIONS}
    return create_model("Plain", **fields).model_json_schema()


def _section_schema(key: str, definitions: dict[str, Any]) -> dict[str, Any]:
    room, contract, default = SECTIONS[key]
    choices = []
    for kind in kinds.names(room):
        model = kinds.find(room, kind, contract)
        shape = model.model_json_schema(ref_template="#/$defs/{model}")
        definitions.update(shape.pop("$defs", {}))
        shape["properties"] = {"kind": {"const": kind}, **shape.get("properties", {})}
        if kind != default and key != "source":
            shape["required"] = ["kind", *shape.get("required", [])]
        definitions[f"{room}.{kind}"] = shape
        choices.append({"$ref": f"#/$defs/{room}.{kind}"})
    # anyOf: a source without `kind` may fit several, since the kind is inferred from its path
    outside = {"type": "object", "required": ["kind"], "properties": {"kind": {"type": "string", "pattern": r"\."}}}
    one: dict[str, Any] = {"anyOf": [*choices, {"enum": kinds.names(room)}, outside]}
    return {"type": "array", "items": one} if key == "filters" else one


def _section(document: Document, key: str, faults: list[str]) -> Any:
    """The opened kind(s) of one section, or None when it has faults (which are appended)."""
    default = SECTIONS[key].default
    raw = document.data.get(key)
    if key == "filters":
        if raw is not None and not isinstance(raw, list):
            faults.append(f"{document.where((key,))}: expected a list; write each filter as `- {{kind: …}}`")
            return None
        items = [_kind(document, key, item, (key, i), faults) for i, item in enumerate(raw or [])]
        return None if any(item is None for item in items) else tuple(items)
    if raw is None:
        if default is None or key == "generator":
            faults.append(f"{document.where((key,))}: required section is missing; add `{key}: {{…}}`")
            return None
        raw = {}
    return _kind(document, key, raw, (key,), faults)


def _kind(document: Document, key: str, raw: Any, path: Path_, faults: list[str]) -> Kind | None:
    room, contract, default = SECTIONS[key]
    if isinstance(raw, str):
        raw = {"kind": raw}
    if not isinstance(raw, dict):
        faults.append(f"{document.where(path)}: expected a mapping such as {{kind: …}}, got {raw!r}")
        return None
    kind = raw.get("kind", default)
    try:
        if key == "source" and kind is None:
            from factory import sources

            if not isinstance(raw.get("dataset"), str):
                faults.append(f"{document.where((*path, 'dataset'))}: required key is missing; name a folder, a Parquet file, tars or a Hub id")
                return None
            kind = sources.infer(raw["dataset"])
        if not isinstance(kind, str):
            faults.append(f"{document.where(path)}: required key `kind` is missing; there are: {', '.join(kinds.names(room))}")
            return None
        model = kinds.find(room, kind, contract)
    except UserError as error:
        at = (*path, "kind") if "kind" in raw else (*path, "dataset") if "dataset" in raw else path
        faults.append(f"{document.where(at)}: {error}")
        return None
    return _validate(model, {k: v for k, v in raw.items() if k != "kind"}, document, path, faults)


def _validate(model: type[BaseModel], raw: Any, document: Document, path: Path_, faults: list[str]) -> Any:
    try:
        return model.model_validate(_plain(raw))
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            location = _location(fault["loc"], raw)
            known = set(model.model_fields) if len(location) == 1 else set()
            faults.append(f"{document.where((*path, *location))}: {_sentence(dict(fault), location, model, known)}")
        return None


def _plain_faults(values: dict[str, Any], document: Document) -> list[str]:
    """Faults of the scalar keys alone, for when a section is already known to be broken."""
    from pydantic import create_model

    faults: list[str] = []
    fields: dict[str, Any] = {k: (Recipe.model_fields[k].annotation, Recipe.model_fields[k]) for k in values if values[k] is not None}
    _validate(create_model("Plain", **fields), {k: values[k] for k in fields}, document, (), faults)
    return faults


def _sentence(fault: dict[str, Any], location: Path_, model: type[BaseModel], known: set[str]) -> str:
    """One pydantic fault in words: what is wrong, and what to do."""
    if fault["type"] == "extra_forbidden":
        return _unknown(str(location[-1]), known)
    field = model.model_fields.get(str(location[0])) if location else None
    hint = f" ({field.description})" if field is not None and field.description else ""
    if fault["type"] == "missing":
        return f"required key is missing; add `{location[-1]}: …`{hint}"
    message = str(fault["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    got = fault.get("input")
    shown = f", got {got!r}" if fault["type"] != "value_error" and isinstance(got, str | int | float | bool | None) else ""
    return f"{message}{shown}{hint}"


def _unknown(key: str, known: Any) -> str:
    near = difflib.get_close_matches(key, list(known), n=1)
    return "unknown key; " + (f"did you mean {near[0]}?" if near else f"the keys are: {', '.join(sorted(known))}")


def _location(loc: tuple[str | int, ...], raw: Any) -> Path_:
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


def _parse_path(dotted: str) -> Path_:
    steps = re.findall(r"[^.\[\]]+", dotted)
    if not steps:
        raise RecipeError([f"--set {dotted}: expected a key such as amount.per_class or filters[0].min"])
    return tuple(int(step) if step.isdigit() else step for step in steps)


def _dotted(path: Path_) -> str:
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


def _ordered(faults: list[str]) -> list[str]:
    """Faults in the order of the file, each once."""

    def line(fault: str) -> int:
        found = re.match(r".*?:(\d+) ", fault)
        return int(found[1]) if found else 0

    return sorted(dict.fromkeys(faults), key=line)


def dumps(recipe: Recipe) -> str:
    """The resolved recipe as JSON text, keys sorted."""
    return json.dumps(recipe.settings(), indent=1, sort_keys=True)
