"""A JSON Schema of recipes, so that editors complete and check them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from factory import kinds
from factory import recipe as build_recipe
from factory.filtering import recipe as filter_recipe
from factory.recipe import Section

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def of_recipes() -> dict[str, Any]:
    """A JSON Schema (draft 2020-12) of every recipe of `factory build` that uses built-in kinds, for editors."""
    required = ["name", "source", "generator"]
    return _schema("Factory recipe", build_recipe.Recipe, build_recipe.Plain, build_recipe.SECTIONS, required)


def of_filter_recipes() -> dict[str, Any]:
    """The same for recipes of `factory filter`."""
    sections = filter_recipe.SECTIONS
    return _schema("Filter recipe", filter_recipe.FilterRecipe, filter_recipe.Plain, sections, ["name", "corpus"])


def of_settings(title: str, model: type[BaseModel]) -> dict[str, Any]:
    """The same for settings without kinds, such as those of `factory evaluate`."""
    return {"$schema": DIALECT, **model.model_json_schema(), "title": title}


def _schema(
    title: str, whole: type[BaseModel], plain: type[BaseModel], sections: Mapping[str, Section], required: list[str]
) -> dict[str, Any]:
    definitions: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    for key, field in whole.model_fields.items():
        if key in sections:
            properties[key] = _section_schema(key, sections[key], definitions) | {"description": field.description}
    keys = plain.model_json_schema()
    properties = {**keys["properties"], **properties}
    definitions.update(keys.get("$defs", {}))
    return {
        "$schema": DIALECT,
        "title": title,
        "type": "object",
        "additionalProperties": False,
        "required": required,
        "properties": properties,
        "$defs": definitions,
    }


def _section_schema(key: str, section: Section, definitions: dict[str, Any]) -> dict[str, Any]:
    room, contract, default, many = section.room, section.contract, section.default, section.many
    choices = []
    for kind in kinds.names(room):
        model = kinds.find(room, kind, contract)
        shape = model.model_json_schema(ref_template="#/$defs/{model}")
        definitions.update(shape.pop("$defs", {}))
        shape["properties"] = {"kind": {"const": kind}, **shape.get("properties", {})}
        if kind != default and key not in ("source", "corpus"):
            shape["required"] = ["kind", *shape.get("required", [])]
        definitions[f"{room}.{kind}"] = shape
        choices.append({"$ref": f"#/$defs/{room}.{kind}"})
    # anyOf: a source without `kind` may fit several, since the kind is inferred from its path
    outside = {"type": "object", "required": ["kind"], "properties": {"kind": {"type": "string", "pattern": r"\."}}}
    one: dict[str, Any] = {"anyOf": [*choices, {"enum": kinds.names(room)}, outside]}
    several = {"type": "array", "items": one}
    return several if many == "list" else {"anyOf": [*one["anyOf"], {**several, "minItems": 1}]} if many == "either" else one
