"""Two JSON schemas as one that asks for both."""

from collections.abc import Mapping
from typing import Any

from jaxlm.errors import UserError

MAXIMA = {"minimum", "exclusiveMinimum", "minLength", "minItems"}
MINIMA = {"maximum", "exclusiveMaximum", "maxLength", "maxItems"}


def merged(a: Any, b: Any, at: str) -> Any:
    """Raises UserError for keywords that cannot be joined."""
    if a is True or b is False:
        return b
    if b is True or a is False:
        return a
    if not isinstance(a, Mapping) or not isinstance(b, Mapping):
        raise UserError(f"the parts of the schema at {at} must be objects, true or false")
    found = {**a, **b}
    for key in a.keys() & b.keys():
        found[key] = a[key] if a[key] == b[key] else _joined(key, a[key], b[key], at)
    closed = [x for x, y in ((a, b), (b, a)) if x.get("additionalProperties", True) is not True]
    for x in closed:
        y = b if x is a else a
        strangers = y.get("properties", {}).keys() - x.get("properties", {}).keys()
        for name in strangers:  # a property that only one knows is for the other an additional one
            found["properties"] = {
                **found["properties"],
                name: merged(x["additionalProperties"], y["properties"][name], at),
            }
    return found


def _joined(key: str, a: Any, b: Any, at: str) -> Any:
    if key == "properties":
        return {**a, **{name: merged(a[name], one, at) if name in a else one for name, one in b.items()}}
    if key == "required":
        return [*a, *(name for name in b if name not in a)]
    if key in MAXIMA:
        return max(a, b)
    if key in MINIMA:
        return min(a, b)
    if key in ("items", "additionalProperties"):
        return merged(a, b, at)
    if key == "type":
        a, b = ([x] if isinstance(x, str) else x for x in (a, b))
        both = [x for x in a if x in b] + ["integer"] * ("integer" in {*a, *b} and "number" in {*a, *b})
        return list(dict.fromkeys(both)) or _conflict(key, at)
    if key == "enum":
        return [x for x in a if x in b] or _conflict(key, at)
    if key == "pattern":
        return [*([a] if isinstance(a, str) else a), *([b] if isinstance(b, str) else b)]
    if key == "allOf":
        return [*a, *b]
    if key in ("title", "description", "default", "examples", "$comment", "$id", "$schema", "$defs", "definitions"):
        return a
    return _conflict(key, at)


def _conflict(key: str, at: str) -> Any:
    raise UserError(f"the parts of the schema at {at} differ in {key!r}, which cannot be joined")
