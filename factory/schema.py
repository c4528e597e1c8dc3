"""A JSON Schema of recipes, so that editors complete and check them."""

from __future__ import annotations

from typing import Any

from factory import kinds
from factory.recipe import SECTIONS, Plain, Recipe


def of_recipes() -> dict[str, Any]:
    """A JSON Schema (draft 2020-12) of every recipe that uses built-in kinds, for editors."""
    definitions: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    for key, field in Recipe.model_fields.items():
        if key in SECTIONS:
            properties[key] = _section_schema(key, definitions) | {"description": field.description}
    plain = Plain.model_json_schema()
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


def _section_schema(key: str, definitions: dict[str, Any]) -> dict[str, Any]:
    room, contract, default, many = SECTIONS[key]
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
    several = {"type": "array", "items": one}
    return several if many == "list" else {"anyOf": [*one["anyOf"], {**several, "minItems": 1}]} if many == "either" else one
