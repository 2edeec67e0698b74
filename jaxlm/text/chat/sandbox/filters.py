"""Jinja's filters and tests, each made to pay for what it reads and makes."""

import json
import re
from collections.abc import Callable, Iterator, Sized
from sys import getsizeof
from typing import Any

import numpy as np
from jinja2.defaults import DEFAULT_FILTERS, DEFAULT_TESTS
from jinja2.utils import _PassArg, pass_context

from jaxlm.text.chat.sandbox import growth, toll

# For web pages, or different on every run: chat templates have no use for them.
_LEFT_OUT = {"filesizeformat", "forceescape", "pprint", "random", "striptags", "urlencode", "urlize", "wordwrap"}
_LEFT_OUT |= {"xmlattr"}
_FREE = {"abs", "attr", "count", "d", "default", "first", "last", "length"}  # as cheap as an attribute
# These take their items one by one: each is paid for when it is drawn, or by the length of the list made.
_SHALLOW = {"batch", "items", "list", "map", "reject", "rejectattr", "reverse", "select", "selectattr", "slice"}
# How many times the weight of what these read they cost: they sort, escape, or cut into small pieces.
_TIMES = {"dictsort": 20, "e": 5, "escape": 5, "groupby": 20, "join": 2, "sort": 20, "string": 2, "title": 16}
_TIMES |= {"tojson": 2, "unique": 4, "wordcount": 32}
# Where these take a dotted path such as "function.name": one of a million dots would be walked for every item.
_PATH = {
    "groupby": 0,
    "join": 1,
    "max": 1,
    "min": 1,
    "rejectattr": 0,
    "selectattr": 0,
    "sort": 2,
    "sum": 0,
    "unique": 1,
}
_STEP = re.compile("[.,]")
_UNBOUNDED = (list, tuple, dict)
_COMPARING = {"in", "lower", "upper"} | {name for name, test in DEFAULT_TESTS.items() if test.__module__ == "_operator"}


@pass_context
def _tick(context: Any, cost: int) -> bool:
    budget = context.budget
    budget.left = left = budget.left - cost
    if left < 0:
        budget.stop()
    return True


@pass_context
def _made(context: Any, value: Any) -> Any:
    return context.budget.made(value)


@pass_context
def _text(context: Any, value: Any) -> Any:
    """What is about to be written into a text: text by its length, anything else by all that it may write out."""
    budget = context.budget
    budget.spend(len(value) if type(value) is str else 2 * budget.weight(value))
    return value


@pass_context
def _shown(context: Any, value: Any) -> Any:
    """What is about to be written straight out, where text is counted."""
    return value if type(value) is str else _text(context, value)


@pass_context
def _read(context: Any, value: Any) -> Any:
    budget = context.budget
    budget.spend(len(value) if type(value) is str else budget.weight(value))
    return value


@pass_context
def _searched(context: Any, value: Any) -> Any:
    return value if type(value) is dict else _read(context, value)


@pass_context
def _key(context: Any, value: Any) -> Any:
    """A key: text's hash is kept, but a tuple's is worked out from all that is in it, again each time."""
    return _read(context, value) if isinstance(value, _UNBOUNDED) else value


@pass_context
def _start(context: Any, _: int) -> None:
    context.marks.start()


@pass_context
def _stop(context: Any, _: int) -> None:
    context.marks.stop()


TOLLS: dict[str, Callable[..., Any]] = {
    toll.TICK: _tick,
    toll.MADE: _made,
    toll.TEXT: _text,
    toll.SHOWN: _shown,
    toll.READ: _read,
    toll.SEARCHED: _searched,
    toll.KEY: _key,
    toll.START: _start,
    toll.STOP: _stop,
}


def filters() -> dict[str, Callable[..., Any]]:
    """The filters of a chat template by name."""
    kept = {name: function for name, function in DEFAULT_FILTERS.items() if name not in _LEFT_OUT}
    kept["tojson"] = _tojson
    return {name: function if name in _FREE else _paying(name, function) for name, function in kept.items()}


def tests() -> dict[str, Callable[..., Any]]:
    """The tests of a chat template by name."""
    return {name: _comparing(test) if name in _COMPARING else test for name, test in DEFAULT_TESTS.items()}


def _paying(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    takes = _PassArg.from_obj(function)
    passed = "eval_ctx" if takes is _PassArg.eval_context else "environment" if takes is _PassArg.environment else ""
    size, times, at = growth.FILTERS.get(name), 0 if name in _SHALLOW else _TIMES.get(name, 1), _PATH.get(name, 99)

    @pass_context
    def paying(context: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        budget = context.budget
        if times:
            budget.spend(times * (len(value) if type(value) is str else budget.weight(value)))
        elif isinstance(value, Sized):
            budget.spend(64 * len(value))
        if args or kwargs:
            _check_path(name, kwargs.get("attribute"), *args[at : at + 1])
            budget.spend(sum(map(budget.weight, (*args, *kwargs.values()))))
            if name == "join" and not isinstance(value, Sized):
                value = list(value)
            if name == "format":
                growth.printf(budget, str(value), kwargs or args)
            if size:
                budget.spend(size(value, *args, **kwargs))
        if takes is None:
            result = function(value, *args, **kwargs)
        else:
            result = function(getattr(context, passed) if passed else context, value, *args, **kwargs)
        if type(result) is str:
            budget.spend(getsizeof(result))
            return result
        return budget.counted(result) if isinstance(result, Iterator) else budget.made(result)

    return paying


def _check_path(name: str, *paths: Any) -> None:
    for path in paths:
        if isinstance(path, _UNBOUNDED) or (isinstance(path, str) and len(_STEP.findall(path)) > 16):
            raise ValueError(f"{name}: a path is one name, or a few with dots between")


def _comparing(test: Callable[..., bool]) -> Callable[..., bool]:
    @pass_context
    def paying(context: Any, value: Any, *args: Any) -> bool:
        context.budget.spend(sum(map(context.budget.weight, (value, *args))))
        return test(value, *args)

    return paying


@pass_context
def _tojson(
    context: Any,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as Python writes it. Jinja's own filter escapes what HTML would misread."""
    coder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys, default=_number
    )
    if indent is None and separators is None:
        return coder.encode(value)
    if max(indent if isinstance(indent, int) else len(indent or ""), *map(len, separators or ("", ""))) > 100:
        raise ValueError("tojson: an indent or a separator of more than 100 characters")
    pieces = []  # white space can outgrow the data: pay piece by piece
    for piece in coder.iterencode(value):
        context.budget.spend(16 + len(piece))
        pieces.append(piece)
    return "".join(pieces)


def _number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a {type(value).__name__} has no JSON form")
