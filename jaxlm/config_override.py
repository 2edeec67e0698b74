"""Overrides: `key.path=value` texts, read by the annotations of the fields they name.

    steps=1e6                      an int (also 1_000_000), a float, a bool (true, false) or a string
    optimizer.clip=none            where the field may be None
    prompts=Hello, world           a tuple of free text: one entry, several as a JSON list
    optimizer.options={"b2": 0.95} a dict, or a tuple of pairs, as JSON
    model.layers.0.repeat=12       an entry of a tuple (-1 is the last)
    model.layers.*.blocks.*.dropout=0.1    every entry that has the rest of the path
    optimizer={"name": "lion", "learning_rate": 1e-4}    a whole config as JSON, with its "type" where the annotation
                                   leaves a doubt: {"type": "jaxlm.nn.mlp.MLPConfig", "F": 512}, or the bare class name
    data.sources=web/*.jsonl,a.txt where a class says which field a plain text stands for (its SHORT)

All overrides are applied before the config is built again, so fields that must agree can change together.
"""

import dataclasses
import decimal
import json
import math
import typing
from collections.abc import Iterable
from typing import Any, TypeVar

from jaxlm import arguments
from jaxlm.config_names import misnamed
from jaxlm.config_tree import (
    build,
    concrete,
    find_class,
    fits,
    hints,
    is_config_class,
    is_dict,
    is_tuple,
    item_hint,
    join,
    members,
    plain,
    shorten,
    spell,
    value_hint,
)
from jaxlm.errors import UserError

Config = TypeVar("Config")


def override(config: Config, overrides: Iterable[str]) -> Config:
    """`config` with every `key.path=value` applied, in order, and validated again.

    Raises UserError for an unknown key (naming the nearest one), a value of the wrong type, or a config that its own
    validation refuses.
    """
    tree = plain(config)
    for text in overrides:
        key, equals, value = arguments.text(text, "an override").partition("=")
        if not equals or not key:
            raise UserError(f"{text!r} is not an override: write key.path=value, such as steps=100")
        try:
            _assign(tree, type(config), "", key.split("."), key, value)
        except _Misnamed as missing:
            raise misnamed(tree, missing.path, missing.part, missing.known, key, value) from None
    return build(tree)


class _Misnamed(Exception):
    """A part that is no key below a path, where the keys are `known`."""

    def __init__(self, path: str, part: str, known: list[str]):
        self.path, self.part, self.known = path, part, known


def _assign(node: Any, annotation: Any, path: str, parts: list[str], key: str, text: str) -> None:
    """Put the value that `text` spells at `parts` below `node`, the plain form of what lies at `path`."""
    part, rest = parts[0], parts[1:]
    if part == "*" and isinstance(node, list) and node:
        hits = [i for i, item in enumerate(node) if _has(item, rest)]
        for i in hits or [0]:  # without a hit, the first entry says what it has instead
            _assign(node, annotation, path, [str(i), *rest], key, text)
        return
    entries = _entries(node)
    if part not in entries:
        raise _missing(node, path, part, key)
    index = entries[part]
    below = _hint(node, annotation, index)
    if rest:
        _assign(node[index], below, join(path, part), rest, key, text)
    else:
        try:
            node[index] = read(text, below)
        except ValueError as error:
            reason = f": {error}" if str(error) else ""
            names = _entries(node[index]) if isinstance(node[index], dict) else {}
            right = f"{key}.{text}" if text.partition("=")[0] in names else ""
            message = f"{key} must be {spell(below)}, not {shorten(repr(text))}{reason}"
            raise UserError(message, right=right, wrong=(f"{key}={text}",)) from error


def _entries(node: Any) -> dict[str, Any]:
    """The path parts that lead below `node`, and their keys in it."""
    if isinstance(node, dict):
        return {name: name for name in node if name != "type"}
    n = len(node) if isinstance(node, list) else 0
    return {str(i): i for i in (*range(n), *range(-n, 0))}


def _hint(node: Any, annotation: Any, index: Any) -> Any:
    if isinstance(node, list):
        return item_hint(annotation, index % len(node))
    if "type" in node:
        return hints(node["type"])[index]
    return value_hint(annotation)


def _has(node: Any, parts: list[str]) -> bool:
    if not parts:
        return True
    if parts[0] == "*":
        return isinstance(node, list) and any(_has(item, parts[1:]) for item in node)
    entries = _entries(node)
    return parts[0] in entries and _has(node[entries[parts[0]]], parts[1:])


def _missing(node: Any, path: str, part: str, key: str) -> Exception:
    if isinstance(node, dict):
        return _Misnamed(path, part, list(_entries(node)))
    if isinstance(node, list):
        entries = f"entries 0 to {len(node) - 1}" if node else "no entries"
        return UserError(f"unknown key {key!r}: {path} is a tuple with {entries}, it has no {part!r}")
    if node is None:
        return UserError(f'unknown key {key!r}: {path} is none; first give it a value: {path}={{"type": ...}}')
    return UserError(f"unknown key {key!r}: {path} is the value {shorten(repr(node))}, with nothing below it")


# Reading one value ---------------------------------------------------------------------------------------------------


def read(text: str, annotation: Any) -> Any:
    """The plain form of the value that `text` spells. Raises ValueError where it spells none of that type."""
    alternatives = members(annotation)
    if len(alternatives) == 1 and _short(annotation) and not text.startswith("{"):
        return _with_classes(text, annotation)
    if any(map(is_config_class, alternatives)) and (text.startswith("{") or len(alternatives) == 1):
        return _with_classes(_json_object(text), annotation)
    for member in sorted(alternatives, key=_breadth):
        try:
            return _read_one(text, member)
        except ValueError:
            if len(alternatives) == 1:
                raise
    raise ValueError


def _breadth(annotation: Any) -> int:
    """How much text a type takes: what takes less is tried first, and str, which takes any, last."""
    narrow = (type(None), bool, int, float)
    return narrow.index(annotation) if annotation in narrow else 5 if annotation is str else 4


def _read_one(text: str, annotation: Any) -> Any:
    args = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return _pick(text, {one if isinstance(one, str) else str(one).lower(): one for one in args})
    if annotation is None or annotation is type(None):
        return _pick(text.lower(), {"none": None, "null": None})
    if annotation is bool:
        return _pick(text.lower(), {"true": True, "false": False})
    if annotation is int:
        return _read_int(text)
    if annotation is float:
        value = float(text)
        if not math.isfinite(value):
            raise ValueError("it must be finite")
        return value
    if annotation is str:
        return text
    if is_tuple(annotation):
        return [_read_item(item, item_hint(annotation, i)) for i, item in enumerate(_items(text, annotation))]
    if is_dict(annotation):
        return {key: _read_item(item, value_hint(annotation)) for key, item in _json_object(text).items()}
    if is_config_class(annotation):
        raise ValueError
    return _read_any(text)


def _pick(text: str, spelled: dict[str, Any]) -> Any:
    if text not in spelled:
        raise ValueError(f"write one of {', '.join(spelled)}")
    return spelled[text]


def _read_int(text: str) -> int:
    try:
        number = decimal.Decimal(text.replace("_", ""))
    except decimal.InvalidOperation:
        raise ValueError from None
    if not number.is_finite() or number.adjusted() > 30 or number != number.to_integral_value():
        raise ValueError
    return int(number)


def _items(text: str, annotation: Any = Any) -> list[Any]:
    """The entries of a tuple: from a JSON list, a JSON object (pairs, or one config) or, as texts, a comma list. Free
    text, which may have commas of its own, is one entry."""
    entry = item_hint(annotation, 0)
    if text.startswith("[") and not (_short(entry) and _is_glob(text)):
        return _json(text)
    if text.startswith("{") and is_config_class(entry):
        return [_json_object(text)]
    if text.startswith("{"):
        return [list(pair) for pair in _json_object(text).items()]
    if text.startswith("(") and text.endswith(")"):
        text = text[1:-1]
    elif entry is str and text:
        return [text]
    items = [item.strip() for item in text.split(",")]
    return items if items[-1] else items[:-1]


def _read_item(item: Any, annotation: Any) -> Any:
    """The plain form of an entry: JSON that is of the right type already stays what it is."""
    if annotation is not float and not isinstance(item, list | dict) and fits(item, annotation):
        return item
    if is_config_class(annotation) and not isinstance(item, str | dict):
        raise ValueError(f"{shorten(json.dumps(item))} is none")
    value = read(item if isinstance(item, str) else json.dumps(item), annotation)
    if isinstance(value, str) and not isinstance(item, str):  # str takes any text, but 1 is not "1" in JSON
        raise ValueError
    return value


def _is_glob(text: str) -> bool:
    """Whether a text that begins like a JSON list is the pattern of file names instead: "[ab]*.txt"."""
    return '"' not in text and text.rstrip()[-1] != "]"


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not valid JSON ({error})") from error


def _json_object(text: str) -> dict[str, Any]:
    value = _json(text) if text.startswith("{") else None
    if not isinstance(value, dict):
        raise ValueError('write it as JSON, such as {"name": 1}')
    return value


def _read_any(text: str) -> Any:
    try:
        return plain(build(_with_classes(json.loads(text))))
    except (ValueError, RecursionError):
        return text


def _with_classes(value: Any, annotation: Any = Any) -> Any:
    """The plain form of JSON data: classes found by "type" or annotation, defaults filled in, objects as pairs."""
    if isinstance(value, list):
        return [_with_classes(item, item_hint(annotation, i)) for i, item in enumerate(value)]
    if isinstance(value, str) and (field := _short(annotation)):
        return {"type": annotation, **_defaults(annotation), field: value}
    if not isinstance(value, dict):
        return value
    classes = {one.__name__: one for member in members(annotation) for one in concrete(member)}
    if "type" not in value and not classes:
        if any(map(is_tuple, members(annotation))) and not any(map(is_dict, members(annotation))):
            return _with_classes([list(pair) for pair in value.items()], annotation)
        return {key: _with_classes(item, value_hint(annotation)) for key, item in value.items()}
    if "type" not in value and len(classes) > 1:
        raise ValueError(f'it needs a "type": one of {", ".join(classes)}')
    name = value["type"] if "type" in value else next(iter(classes))
    cls = classes[name] if name in list(classes) else find_class(name)
    fields = {key: _with_classes(item, hints(cls).get(key, Any)) for key, item in value.items() if key != "type"}
    return {"type": cls, **_defaults(cls), **fields}


def _short(annotation: Any) -> str:
    """The field of a config class that a plain text stands for, as its SHORT says; "" where it says none."""
    return getattr(annotation, "SHORT", "") if is_config_class(annotation) else ""


def _defaults(cls: type) -> dict[str, Any]:
    """The plain forms of a dataclass's defaults, so that later overrides find them."""
    defaults = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.init and field.default is not dataclasses.MISSING:
            defaults[field.name] = plain(field.default)
        elif field.init and field.default_factory is not dataclasses.MISSING:
            defaults[field.name] = plain(field.default_factory())
    return defaults
