"""200 JSON schemas of the kinds that public ones are: arguments of functions, settings, records, resources, events, and
some with what cannot be kept. Made systematically: every scalar in every container, and larger ones."""

from typing import Any

Schema = dict[str, Any]

TEXT, COUNT, FLAG = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
SCALARS: list[Schema] = [
    TEXT,
    FLAG,
    {"type": "null"},
    {"type": "integer"},
    {"type": "number"},
    COUNT,
    {"type": "integer", "minimum": -3, "maximum": 12},
    {"type": "integer", "exclusiveMinimum": 99, "exclusiveMaximum": 1021},
    {"type": "number", "minimum": 0, "maximum": 1},
    {"type": "number", "exclusiveMinimum": -1.5},
    {"type": "number", "maximum": -0.25},
    {"type": "string", "minLength": 2, "maxLength": 5},
    {"type": "string", "maxLength": 0},
    {"type": "string", "pattern": "^[a-z][a-z0-9_]*$"},
    {"type": "string", "pattern": r"^\d{3}-\d{4}$"},
    {"type": "string", "pattern": 'a"b|\\\\d', "maxLength": 9},
    {"type": "string", "pattern": "^v[0-9]+(\\.[0-9]+){1,2}$", "description": "a version"},
    {"type": "string", "format": "date"},
    {"type": "string", "format": "date-time"},
    {"type": "string", "format": "email"},
    {"type": "string", "format": "uuid"},
    {"type": "string", "format": "ipv4"},
    {"type": "string", "format": "uri"},
    {"enum": ["red", "green", "blue"]},
    {"enum": [1, 2.5, None, True, 'naïve "quoted"', ["x"], {"k": 1}]},
    {"const": "fixed"},
    {"type": ["string", "null"], "maxLength": 3},
    {"type": ["integer", "boolean"]},
    {"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 4}]},
    {"oneOf": [{"const": "auto"}, {"type": "number", "minimum": 0}]},
]


def record(properties: Schema, *required: str, **more: Any) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required), **more}


def containers(one: Schema) -> list[Schema]:
    """Some ways in which a value is held."""
    return [
        record({"value": one}, "value", additionalProperties=False),
        {"type": "array", "items": one, "minItems": 1, "maxItems": 3},
        record({"id": COUNT, "value": one, "more": {"type": "array", "items": one}}, "id"),
        {"type": "object", "additionalProperties": one},
    ]


LABELS = {"type": "object", "additionalProperties": {"type": "string", "maxLength": 6}}
POINT = record({"x": {"type": "number"}, "y": {"type": "number"}}, "x", "y", additionalProperties=False)
NODE = record({"name": TEXT, "children": {"type": "array", "items": {"$ref": "#/$defs/node"}}}, "name")
CALL = record({"city": TEXT, "unit": {"enum": ["C", "F"]}}, "city")
RESOURCE = {
    "apiVersion": {"const": "v1"},
    "kind": TEXT,
    "metadata": record({"name": TEXT, "labels": LABELS}, "name"),
    "spec": {"type": "object"},
}
SHAPE = [
    record({"kind": {"const": "circle"}, "radius": {"type": "number", "exclusiveMinimum": 0}}, "kind", "radius"),
    record({"kind": {"const": "box"}, "sides": {"prefixItems": [COUNT, COUNT], "items": False}}, "kind"),
]
LARGE: list[Schema] = [
    {},
    {"type": "object"},
    {"type": "array"},
    {"$defs": {"node": NODE}, "$ref": "#/$defs/node"},
    {"definitions": {"p": POINT}, "type": "array", "items": {"$ref": "#/definitions/p"}, "maxItems": 4},
    {"oneOf": SHAPE},
    record({"shape": {"anyOf": SHAPE}, "at": POINT}, "shape"),
    {"allOf": [record({"a": COUNT}, "a"), record({"b": TEXT}, "b")]},
    {"allOf": [{"$ref": "#/$defs/base"}, record({"b": FLAG}, "b")], "$defs": {"base": record({"a": TEXT})}},
    record({"name": {"const": "get_weather"}, "arguments": CALL}, "name", "arguments"),
    record({f"p{i}": SCALARS[i % len(SCALARS)] for i in range(12)}),
    record({f"p{i}": SCALARS[i] for i in range(10)}, *(f"p{i}" for i in range(0, 10, 2))),
    record({"a": TEXT}, "a", "not_described"),
    record({"key": TEXT}, additionalProperties={"type": "integer"}),
    {"type": "array", "prefixItems": [TEXT, COUNT, FLAG], "minItems": 2, "maxItems": 5},
    {"type": "array", "prefixItems": [TEXT, COUNT], "items": {"type": "null"}, "minItems": 4},
    {"type": "array", "items": {"type": "array", "items": {"type": "array", "items": COUNT}}},
    {"type": "array", "items": False},
    record(RESOURCE, "apiVersion", "kind"),
    {"properties": {"untyped": {}}, "required": ["untyped"], "title": "no type", "$schema": "x", "examples": [1]},
    {"anyOf": [{"required": ["a"]}, {"required": ["b"]}], "type": "object", "properties": {"a": COUNT, "b": FLAG}},
    {"type": "object", "properties": {"sp ace": TEXT, "quo\"te": COUNT, "ünï": FLAG}, "required": ["quo\"te"]},
    {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["next"]},
    {"enum": ["a", 1, None], "type": "string"},
    {"type": "integer", "minimum": 5, "maximum": 5},
    record({"deep": record({"er": record({"still": record({"end": FLAG}, "end")}, "still")}, "er")}, "deep"),
    {"type": "array", "items": {"enum": list(range(30))}, "minItems": 5, "maxItems": 9},
    {"type": "string", "minLength": 30, "maxLength": 40},
]  # fmt: skip
REFUSED: list[Schema] = [
    {"not": {"type": "string"}},
    {"if": {"type": "string"}, "then": {"minLength": 1}},
    {"type": "array", "uniqueItems": True},
    {"type": "array", "contains": {"type": "integer"}},
    {"type": "object", "patternProperties": {"^x": {"type": "string"}}},
    {"type": "object", "minProperties": 1},
    {"type": "object", "propertyNames": {"pattern": "^x"}},
    {"type": "object", "dependentRequired": {"a": ["b"]}},
    {"type": "integer", "multipleOf": 3},
    {"type": "string", "format": "idn-email"},
    {"type": "string", "pattern": "^(?!x)y$"},
    {"$ref": "https://example.com/schema.json"},
    {"$ref": "#/$defs/absent"},
    {"$ref": "#"},
    {"type": "strin"},
    {"type": "integer", "minimum": 3, "maximum": 2},
    {"oneOf": [{"type": "integer"}, {"type": "number"}]},
    {"oneOf": [record({"a": TEXT}), record({"b": TEXT})]},
    {"allOf": [{"type": "integer"}, {"type": "string"}]},
    {"type": "object", "properties": {"me": {"$ref": "#"}}, "required": ["me"]},
    {"type": "object", "properties": {"a": False}, "required": ["a"]},
    {"minLenght": 3},
]

SCHEMAS = (SCALARS + LARGE + [held for one in SCALARS for held in containers(one)])[: 200 - len(REFUSED)]
