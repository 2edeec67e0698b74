"""Calls of config functions as text: `gpt(depth=24)` is the function `gpt` and the keyword `depth`.

Values are Python literals, checked against the function's annotations as overrides are against a dataclass's.
"""

import ast
import inspect
import re
import typing
from collections.abc import Callable, Iterable
from typing import Any

from jaxlm.config_tree import fits, shorten, spell
from jaxlm.errors import UserError, unknown


def split(text: str) -> tuple[str, dict[str, Any]]:
    """The name and the keyword arguments of "gpt(depth=24)", "gpt.py:gpt(depth=24)" or "gpt"; paths are names."""
    found = re.fullmatch(r"(\w+|.*\.py(?::\w+)?)\((.*)\)", text, re.DOTALL)
    if not found:
        return text, {}
    name, inside = found.groups()
    try:
        call: Any = ast.parse(f"f({inside})", mode="eval").body
        arguments = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
        if not isinstance(call.func, ast.Name) or call.args or None in arguments or len(arguments) < len(call.keywords):
            raise ValueError
        return name, arguments
    except (ValueError, SyntaxError, AttributeError, TypeError, RecursionError, MemoryError):
        raise UserError(
            f"cannot read {shorten(text)!r}: write keywords with plain values, as in gpt(depth=24)"
        ) from None


def check(function: Callable, arguments: dict[str, Any]) -> None:
    """Raises UserError for an argument that `function` does not take, naming the nearest, or of another type."""
    parameters = inspect.signature(function).parameters
    known = [name for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    annotations = typing.get_type_hints(function) if arguments else {}
    for name, value in arguments.items():
        if name not in known:
            raise unknown(f"argument of {function.__name__}", name, known)
        if not fits(value, annotations.get(name, Any)):
            wanted = spell(annotations[name])
            raise UserError(f"{name} of {function.__name__} must be {wanted}, not {shorten(repr(value))}")


def from_overrides(function: Callable, overrides: Iterable[str]) -> dict[str, Any]:
    """The overrides of the name of an argument without another default than "": a field that decides on others, as the
    folder that a run starts from decides on the model."""
    blank = [name for name, p in inspect.signature(function).parameters.items() if p.default == ""]
    said = (str(text).partition("=") for text in overrides)
    return {key: value for key, equals, value in said if equals and key in blank}


def refuse_arguments(function: Callable, said: str, overrides: Iterable[str], fields: Iterable[str]) -> None:
    """Raises UserError for an override that is none of the config's `fields` but an argument of `function`, which was
    called as `said`: it shows the call with it."""
    known = inspect.signature(function).parameters.keys() - set(fields)
    for text in overrides:
        key, equals, value = str(text).partition("=")
        if equals and key in known:
            called, arguments = split(said)
            arguments[key] = _value(value)
            check(function, arguments)
            call = f"{called}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"
            raise UserError(f"{key} is an argument of {called}, not a field: write {call!r}", call, (said, text))


def _value(text: str) -> Any:
    """What an override's text is as an argument: a literal where it is one."""
    if text.lower() in ("true", "false", "none"):
        text = text.capitalize()
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return text


def file_name(text: str) -> str:
    """What a run of this config may be called in a folder: "gpt-depth24" for "gpt.py:gpt(depth=24)"."""
    name, arguments = split(text)
    stem = name.rpartition(":")[2].rpartition("/")[2].removesuffix(".py")
    return re.sub(r"[^\w.+-]+", "_", "-".join([stem, *(f"{key}{value}" for key, value in arguments.items())]))


def signature(node: ast.FunctionDef) -> str:
    """The arguments with their defaults, as a call spells them: "depth=12, T=2048"."""
    positional = node.args.posonlyargs + node.args.args
    defaults = [None] * (len(positional) - len(node.args.defaults)) + list(node.args.defaults)
    pairs = [*zip(positional, defaults), *zip(node.args.kwonlyargs, node.args.kw_defaults)]
    return ", ".join(f"{argument.arg}={ast.unparse(value)}" for argument, value in pairs if value is not None)
