"""A set of real images beside the source, as a field of a condition."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from factory import kinds
from factory.contracts import Source

Library = Annotated[
    Source,
    BeforeValidator(lambda value: kinds.nested("sources", Source, value)),
    PlainSerializer(lambda source: source.settings()),
    WithJsonSchema({"type": "object", "required": ["dataset"], "properties": {"dataset": {"type": "string"}}}),
]
