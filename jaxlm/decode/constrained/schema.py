"""A JSON schema as the expression of JSON texts that satisfy it: properties in the schema's order, white space at most
one space behind a comma or colon. Not all such texts, but only such: what cannot be kept is refused before decoding.

Understood: type, enum, const, properties, required, additionalProperties, items, prefixItems, minItems, maxItems,
minLength, maxLength, pattern, format (of FORMATS), minimum, maximum, their exclusive ones, anyOf, oneOf whose parts
exclude each other, allOf, $ref to a part of the same schema, also to one that it stands in.
"""

import itertools
import json
from collections.abc import Mapping
from decimal import Decimal
from math import ceil, floor, inf
from typing import Any

from jaxlm import arguments
from jaxlm.decode.constrained import characters as ch
from jaxlm.decode.constrained import numbers
from jaxlm.decode.constrained.expressions import (
    EMPTY,
    NOTHING,
    Expression,
    both,
    either,
    literal,
    named,
    optional,
    other_than,
    repeat,
    then,
)
from jaxlm.decode.constrained.merging import merged
from jaxlm.decode.constrained.regex import regex
from jaxlm.errors import UserError, nearest

IGNORED = {
    *("$schema", "$id", "$comment", "$defs", "definitions", "$anchor", "title", "description", "default", "examples"),
    *("example", "deprecated", "readOnly", "writeOnly", "contentMediaType", "contentEncoding"),
}
BY_TYPE = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "prefixItems", "minItems", "maxItems"},
    "string": {"minLength", "maxLength", "pattern", "format"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "integer": set(),
    "boolean": set(),
    "null": set(),
}
KEYWORDS = {"type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref"}.union(*BY_TYPE.values())
_DATE = r"[0-9]{3}[1-9]-((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)|02-(0[1-9]|1\d|2[0-8]))"
_TIME = r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)"
_BYTE = r"(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_LABEL = "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?"
FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "uuid": "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    "ipv4": rf"{_BYTE}(\.{_BYTE}){{3}}",
    "email": rf"[a-z0-9_+-]+(\.[a-z0-9_+-]+)*@{_LABEL}(\.{_LABEL})*\.[a-z]{{2,10}}",
    "hostname": rf"{_LABEL}(\.{_LABEL}){{0,5}}",
    "uri": rf"https?://{_LABEL}(\.{_LABEL})*(/[a-z0-9._~-]*)*",
}
COMMA, COLON = then(literal(b","), optional(literal(b" "))), then(literal(b":"), optional(literal(b" ")))
QUOTE = literal(b'"')
MOST = 10_000  # of items or characters that a bound may count


def schema(given: Any) -> Expression:
    """The expression of a schema, a dict or its JSON text. Raises UserError for one that is not understood, with the
    place and the keyword, and for one that nothing satisfies."""
    if isinstance(given, str | bytes):
        try:
            given = json.loads(given)
        except ValueError as error:
            raise UserError(f"the schema is not JSON: {error}") from None
    if not isinstance(given, Mapping | bool):
        raise UserError(f"a schema is a JSON object, got {arguments.kind(given)}")
    try:
        found = _Reader(given).any(given, "#")
        if found.shortest == inf:
            raise UserError("nothing can satisfy the schema")
    except RecursionError:
        raise UserError("the schema is nested too deeply") from None
    return found


class _Reader:
    def __init__(self, root: Any):
        self.root, self.refs = root, {}
        self.free = named(object(), self.free_value)

    def free_value(self) -> Expression:
        """Any JSON."""
        return either(
            self.string({}, ""),
            numbers.NUMBER,
            *map(literal, (b"true", b"false", b"null")),
            self.array({}, ""),
            self.pairs([], then(QUOTE, repeat(ch.utf8(ch.SAFE)), QUOTE), self.free),
        )

    def any(self, of: Any, at: str) -> Expression:
        """The expression of the schema `of`, which stands `at` this place."""
        if of is True or of == {}:
            return self.free
        if of is False:
            return NOTHING
        if not isinstance(of, Mapping):
            raise UserError(f"the schema at {at} must be an object, true or false, got {arguments.kind(of)}")
        of = {key: value for key, value in of.items() if key not in IGNORED}
        for key in of:
            if key not in KEYWORDS:
                raise UserError(
                    f"the schema at {at} has {key!r}, which is not among the keywords that can be kept while decoding "
                    f"(the nearest is {nearest(key, KEYWORDS)!r})"
                )
        if not of:
            return self.free
        if "$ref" in of:
            if len(of) > 1:
                of = {"allOf": [{"$ref": of["$ref"]}, {k: v for k, v in of.items() if k != "$ref"}]}
            else:
                return self.ref(of["$ref"], at)
        if "allOf" in of:
            of, parts = {k: v for k, v in of.items() if k != "allOf"}, self.parts(of, "allOf", at)
            for part in parts:
                of = merged(of, self.followed(part, at), at)
            return self.any(of, at)
        for word in ("anyOf", "oneOf"):
            if word in of:
                rest, parts = {k: v for k, v in of.items() if k != word}, self.parts(of, word, at)
                parts = [merged(rest, self.followed(part, at), at) if rest else part for part in parts]
                found = [self.any(part, f"{at}/{word}/{i}") for i, part in enumerate(parts)]
                if word == "oneOf" and not all(self.apart(*two, at) for two in itertools.combinations(parts, 2)):
                    raise UserError(f"parts of oneOf in the schema at {at} may have values in common: use anyOf")
                return either(*found)
        if "const" in of or "enum" in of:
            return self.listed(of, at)
        kinds = of.get("type", [kind for kind, words in BY_TYPE.items() if words & of.keys()] or list(BY_TYPE))
        kinds = kinds if isinstance(kinds, list) else [kinds]
        for kind in kinds:
            if not isinstance(kind, str) or kind not in BY_TYPE:
                raise UserError(f"the schema at {at} has the type {kind!r:.40}, not one of {', '.join(BY_TYPE)}")
        return either(*(getattr(self, kind)(of, at) for kind in kinds))

    def parts(self, of: Mapping, word: str, at: str) -> list:
        if not isinstance(of[word], list) or not of[word]:
            raise UserError(f"{word} of the schema at {at} must be a list of schemas")
        return of[word]

    def apart(self, a: Any, b: Any, at: str) -> bool:
        """Whether it is plain that no value satisfies both: they differ in type, in their scalars, or in a property
        that both need."""
        a, b = self.followed(a, at), self.followed(b, at)
        if a is False or b is False:
            return True
        if not isinstance(a, Mapping) or not isinstance(b, Mapping) or {"anyOf", "oneOf", "allOf"} & {*a, *b}:
            return False
        common = _kinds(a) & _kinds(b)
        if not common & {"object", "array"}:
            return not common or both(self.any(a, at), self.any(b, at)).shortest == inf
        if common != {"object"}:
            return False
        needed = {*a.get("required", [])} & {*b.get("required", [])}
        known = [x.get("properties", {}) for x in (a, b)]
        if any(self.apart(known[0].get(name, True), known[1].get(name, True), at) for name in needed):
            return True
        closed = lambda x, y: (
            x.get("additionalProperties", True) is False and ({*y.get("required", [])} - {*x.get("properties", {})})
        )
        return bool(closed(a, b) or closed(b, a))

    def target(self, name: Any, at: str) -> Any:
        if not isinstance(name, str) or not name.startswith("#"):
            raise UserError(f"the schema at {at} refers to {name!r:.60}: only parts of itself (#/...) can be read")
        found = self.root
        for step in name[1:].strip("/").split("/") if name[1:].strip("/") else []:
            step = step.replace("~1", "/").replace("~0", "~")
            try:
                found = found[int(step)] if isinstance(found, list) else found[step]
            except (KeyError, IndexError, ValueError, TypeError):
                raise UserError(f"the schema at {at} refers to {name!r:.60}, which is not in it") from None
        return found

    def ref(self, name: Any, at: str) -> Expression:
        if name not in self.refs:
            target = self.target(name, at)
            found: list[Expression] = []
            self.refs[name] = named(object(), lambda: found[0])
            found.append(self.any(target, name))
            if self.refs[name] is found[0] or (found[0].kind == "named" and found[0].body is self.refs[name].body):
                raise UserError(f"the schema at {name} is nothing but a reference to itself")
        return self.refs[name]

    def followed(self, of: Any, at: str) -> Any:
        """The schema that references lead to."""
        seen = set()
        while isinstance(of, Mapping) and "$ref" in of:
            if (name := of["$ref"]) in seen:
                raise UserError(f"the schema at {at} is nothing but a reference to itself")
            seen.add(name)
            rest = {k: v for k, v in of.items() if k != "$ref"}
            of = merged(rest, self.target(name, at), at) if rest else self.target(name, at)
        return of

    def listed(self, of: Mapping, at: str) -> Expression:
        """The values of const or enum that all else allows."""
        values = [of["const"]] if "const" in of else of["enum"]
        if not isinstance(values, list) or not values:
            raise UserError(f"enum of the schema at {at} must be a list of values")
        if "const" in of and "enum" in of:
            values = [value for value in values if value in of["enum"]]
        rest = {k: v for k, v in of.items() if k not in ("const", "enum")}
        allowed = self.any(rest, at) if rest else None
        found = []
        for value in values:
            text = json.dumps(value, ensure_ascii=False)
            if allowed is None or _matches(allowed, text) or _matches(allowed, json.dumps(value)):
                try:
                    found.append(literal(text.encode()))
                except UnicodeEncodeError:
                    found.append(literal(json.dumps(value).encode()))
        return either(*found)

    def null(self, of: Mapping, at: str) -> Expression:
        return literal(b"null")

    def boolean(self, of: Mapping, at: str) -> Expression:
        return either(literal(b"true"), literal(b"false"))

    def bounds(self, of: Mapping, at: str) -> tuple[list[Decimal], list[Decimal]]:
        """Lower and upper bounds, closed and open ones of each; infinite where there is none."""
        found = []
        for words, none in ((("minimum", "exclusiveMinimum"), -inf), (("maximum", "exclusiveMaximum"), inf)):
            for word in words:
                value = of.get(word, none)
                if isinstance(value, bool) or not isinstance(value, int | float):
                    raise UserError(f"{word} of the schema at {at} must be a number, got {arguments.kind(value)}")
                found.append(Decimal(str(value)))
        return found[:2], found[2:]

    def integer(self, of: Mapping, at: str) -> Expression:
        (low, above), (high, below) = self.bounds(of, at)
        lows = [ceil(low)] if low.is_finite() else []
        lows += [floor(above) + 1] if above.is_finite() else []
        highs = [floor(high)] if high.is_finite() else []
        highs += [ceil(below) - 1] if below.is_finite() else []
        least, most = max(lows, default=None), min(highs, default=None)
        return numbers.INTEGER if least is most is None else numbers.integers(least, most)

    def number(self, of: Mapping, at: str) -> Expression:
        (low, above), (high, below) = self.bounds(of, at)
        least, most = max(low, above), min(high, below)
        if not least.is_finite() and not most.is_finite():
            return numbers.NUMBER
        bound = lambda x: x if x.is_finite() else None
        return numbers.reals(bound(least), bound(most), above >= low, below <= high)

    def count(self, of: Mapping, word: str, at: str, none: int | None) -> int | None:
        return none if word not in of else arguments.integer(of[word], f"{word} of the schema at {at}", 0, MOST)

    def string(self, of: Mapping, at: str) -> Expression:
        least, most = self.count(of, "minLength", at, 0), self.count(of, "maxLength", at, None)
        patterns = []
        if "format" in of:
            if of["format"] not in FORMATS:
                raise UserError(
                    f"the schema at {at} has the format {of['format']!r:.40}, not one of {', '.join(FORMATS)}"
                )
            patterns.append(regex(FORMATS[of["format"]], ch.quoted))
        given = of.get("pattern", [])
        for pattern in [given] if isinstance(given, str) else given:
            patterns.append(regex(pattern, ch.quoted, whole=False))
        if not patterns:
            return then(QUOTE, repeat(ch.any_quoted(), least or 0, most), QUOTE)
        found, *others = patterns
        for other in [*others, *[repeat(ch.any_quoted(), least or 0, most)] * bool(least or most is not None)]:
            found = both(found, other)
        return then(QUOTE, found, QUOTE)

    def array(self, of: Mapping, at: str) -> Expression:
        first = of.get("prefixItems", [])
        if not isinstance(first, list):
            raise UserError(f"prefixItems of the schema at {at} must be a list of schemas")
        first = [self.any(one, f"{at}/prefixItems/{i}") for i, one in enumerate(first)]
        rest = self.any(of.get("items", True), f"{at}/items")
        least, most = self.count(of, "minItems", at, 0) or 0, self.count(of, "maxItems", at, None)
        if most is not None and most < least:
            return NOTHING
        n = len(first)
        more = lambda x: then(COMMA, x)
        many = repeat(more(rest), max(least - max(n, 1), 0), None if most is None else max(most - max(n, 1), 0))
        inside = then(rest, many) if not n else many
        if not n and most == 0:
            inside = EMPTY
        for i in reversed(range(min(n, n if most is None else most))):
            inside = then(first[i] if i == 0 else more(first[i]), inside)
            if i > 0 and least <= i:
                inside = optional(inside)
        return then(literal(b"["), inside if least else optional(inside), literal(b"]"))

    def object(self, of: Mapping, at: str) -> Expression:
        known, required = of.get("properties", {}), of.get("required", [])
        if not isinstance(known, Mapping) or not isinstance(required, list):
            raise UserError(f"properties of the schema at {at} must be an object, and required a list of names")
        others = of.get("additionalProperties", True)
        known = {**known, **{name: others for name in required if name not in known}}
        members = []
        for name, one in known.items():
            key = literal(json.dumps(name, ensure_ascii=False).encode())
            value = self.any(one, f"{at}/properties/{name}")
            members.append((then(key, COLON, value), name in required))
        if others is False or (known and others is True):
            return self.pairs(members, None, None)
        plain = repeat(ch.utf8(ch.SAFE))
        if known:
            plain = both(plain, other_than(ch.words(known)))
        return self.pairs(members, then(QUOTE, plain, QUOTE), self.any(others, f"{at}/additionalProperties"))

    def pairs(
        self, members: list[tuple[Expression, bool]], key: Expression | None, value: Expression | None
    ) -> Expression:
        """An object of these members, of which some must be there, and then of others."""
        first, more = EMPTY, EMPTY  # what may follow where nothing, and where something, stands before
        if key is not None and value is not None:
            pair = then(key, COLON, value)
            more = repeat(then(COMMA, pair))
            first = optional(then(pair, more))
        for member, needed in reversed(members):
            with_it = then(member, more), then(COMMA, member, more)
            first, more = with_it if needed else (either(with_it[0], first), either(with_it[1], more))
        return then(literal(b"{"), first, literal(b"}"))


def _matches(x: Expression, text: str) -> bool:
    for byte in text.encode(errors="replace"):
        x = x.step(byte)
    return x.nullable


def _kinds(of: Mapping) -> set[str]:
    """The types that its values may have; integers are numbers."""
    if "const" in of or "enum" in of:
        names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "number", float: "number"}
        return {names.get(type(value), "null") for value in ([of["const"]] if "const" in of else of["enum"])}
    given = of.get("type", list(BY_TYPE))
    return {"number" if kind == "integer" else kind for kind in ([given] if isinstance(given, str) else given)}
