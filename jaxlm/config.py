"""Configs: frozen dataclasses made by Python functions, found by name, overridden by text, saved as JSON.

    config = resolve("gpt2.py:gpt2_124m", ["optimizer.learning_rate=3e-4", "steps=1000"])
    save(config, folder / "config.json")
    assert load(folder) == config

A config function takes no required arguments and returns a frozen dataclass; the shipped ones live in `configs/`. Those
that take keywords may be given some: `resolve("gpt(depth=24)")`.
Nothing here knows what a model is, and nothing here imports jax (the config files themselves may).
"""

import ast
import contextlib
import importlib
import json
import os
import sys
import traceback
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jaxlm import arguments as checks
from jaxlm import config_call
from jaxlm.config_override import override
from jaxlm.config_tree import from_dict, is_config, join, plain, to_dict
from jaxlm.config_tree import trust as _trust
from jaxlm.errors import UserError, nearest, unknown
from jaxlm.files import write_file
from jaxlm.paths import expand

__all__ = ["describe", "diff", "from_dict", "list_configs", "load", "override", "resolve", "save", "to_dict", "trust"]


LARGEST = 2**24  # bytes of a saved config


def resolve(name: str, overrides: Iterable[str] = ()) -> Any:
    """The config called `name`, with `key.path=value` overrides applied.

    `name` is a function found in any file of `configs/` ("quickstart"), one in a named file of it or in a file of your
    own ("gpt2.py:gpt2_124m", "my.py:small"; ":function" may be left out where the file has just one), either with
    keyword arguments behind it or not ("gpt(depth=24)"), a saved `config.json`, or a run folder with one in it. Raises
    UserError for an unknown or ambiguous name, arguments that do not fit, a mistake in a config file (naming its line),
    and whatever `override` refuses.
    """
    called, arguments = config_call.split(checks.text(name, "the name of a config"))
    overrides = list(overrides)
    path, _, function = called.rpartition(":") if ".py:" in called else (called, "", "")
    if path.endswith(".py"):
        config = _call(_find_file(path), function, arguments, name, overrides)
    elif path.endswith(".json") or os.sep in path:
        config = load(path)
    else:
        config = _find_function(called, arguments, name, overrides)
    return override(config, overrides)


def list_configs() -> list[tuple[str, str, str]]:
    """(name, arguments, first line of the docstring) of every config function in `configs/`; the files are read, not
    run. Arguments are spelled with their defaults, as a call may give them: "depth=12, T=2048"."""
    return [
        (f"{path.name}:{function}", arguments, summary)
        for path in sorted(_folder().glob("*.py"))
        for function, (arguments, summary) in _functions(path).items()
    ]


# Saved configs -------------------------------------------------------------------------------------------------------


def save(config: Any, path: str | os.PathLike) -> None:
    """Write `config` as JSON, to a temporary name first."""
    path = expand(path)
    write_file(path, (json.dumps(to_dict(config), indent=2, allow_nan=False) + "\n").encode())


def load(path: str | os.PathLike) -> Any:
    """The config that `save` wrote to this file, or to `config.json` in this folder. Raises UserError if unreadable."""
    path = expand(path)
    try:
        path = path / "config.json" if path.is_dir() else path
        if path.exists() and not (path.is_file() and path.stat().st_size < LARGEST):
            raise UserError("not a config: it must be a small file of JSON")
        return from_dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"cannot read the config {path}: {error.strerror}") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error


def trust(module: str) -> None:
    """Lets saved configs name the config classes of a module of one's own: "mine.models", or a file, "my.py", whose
    classes a run made by `my.py:function` has. It is imported then, so it can run any code. Raises UserError for a
    file that is not there or has a mistake in it."""
    if module.endswith(".py"):
        file = _find_file(module)
        with _naming_the_line(file):
            _import(file)
    else:
        _trust(module)


# Text ----------------------------------------------------------------------------------------------------------------


def describe(config: Any) -> str:
    """The whole config as indented text."""
    tree = plain(config)
    return "\n".join([tree["type"].__name__, *_lines(tree, "  ")])


def diff(a: Any, b: Any) -> list[str]:
    """What changed from config `a` to config `b`, as "path: old -> new" lines; empty when they are equal."""
    return list(_changes(plain(a), plain(b), ""))


_ABSENT = object()


def _lines(tree: Any, indent: str) -> Iterator[str]:
    for key, value in _entries(tree):
        if _entries(value):
            name = value["type"].__name__ if "type" in value else ""
            yield f"{indent}{key}: {name}".rstrip()
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{key}: {_spell(value)}"


def _changes(old: Any, new: Any, path: str) -> Iterator[str]:
    before, after = dict(_entries(old)), dict(_entries(new))
    if old == new:
        return
    if type(old) is type(new) and before and after and _class(old) is _class(new):
        for key in dict.fromkeys([*before, *after]):
            yield from _changes(before.get(key, _ABSENT), after.get(key, _ABSENT), join(path, key))
    else:
        yield f"{path or 'config'}: {_spell(old)} -> {_spell(new)}"


def _class(tree: Any) -> type | None:
    return tree.get("type") if isinstance(tree, dict) else None


def _entries(tree: Any) -> list[tuple[str, Any]]:
    """What lies below a node that takes more than one line; a tuple of numbers and strings takes one."""
    if isinstance(tree, dict):
        return [(key, value) for key, value in tree.items() if key != "type"]
    if isinstance(tree, list) and any(isinstance(item, dict) for item in tree):
        return [(str(i), item) for i, item in enumerate(tree)]
    return []


def _spell(value: Any) -> str:
    if value is _ABSENT:
        return "(absent)"
    if _class(value):
        return f"{value['type'].__module__}.{value['type'].__qualname__}"
    if isinstance(value, list):
        return f"({', '.join(_spell(item) for item in value)})"
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) and value.isprintable() and value else repr(value)


# Config functions ----------------------------------------------------------------------------------------------------


def _folder() -> Path:
    """The shipped configs: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def _find_function(name: str, arguments: dict[str, Any], said: str, overrides: list[str]) -> Any:
    """The shipped config that a bare function name means, or the one saved in a folder of that name."""
    known = [qualified for qualified, _, _ in list_configs()]
    found = [qualified for qualified in known if qualified.endswith(f".py:{name}")]
    if len(found) == 1:
        file, _, function = found[0].partition(":")
        return _call(_folder() / file, function, arguments, said, overrides)
    if found:
        raise UserError(f"the config name {name!r} is ambiguous: say which of {', '.join(found)}")
    if name and not arguments and expand(name).is_dir():
        return load(name)
    names = [spelled for qualified in known for spelled in (qualified.partition(":")[2], qualified)]
    offer = f"the nearest is {nearest(name, names)!r}, " if names else ""
    raise UserError(f"no config is called {name!r}: {offer}`jaxlm configs` lists them all")


def _find_file(path: str) -> Path:
    """A config file of one's own, or the shipped one of that name."""
    own, shipped = expand(path), _folder() / Path(path).name
    if own.is_file():
        return own.resolve()
    if shipped.is_file() and own.parent in (Path(), Path("configs")):
        return shipped
    raise unknown("config file", path, [file.name for file in sorted(_folder().glob("*.py"))])


def _functions(file: Path) -> dict[str, tuple[str, str]]:
    """The config functions of a file, public and without required arguments: what they take, and the first lines of
    their docstrings."""
    with _naming_the_line(file):
        nodes = [node for node in ast.parse(file.read_bytes(), str(file)).body if isinstance(node, ast.FunctionDef)]
    found = {}
    for node in nodes:
        arguments = node.args
        required = len(arguments.posonlyargs + arguments.args) - len(arguments.defaults)
        required += sum(default is None for default in arguments.kw_defaults)
        if not required and not node.name.startswith("_"):
            found[node.name] = config_call.signature(node), (ast.get_docstring(node) or "").partition("\n")[0]
    return found


def _call(file: Path, function: str, arguments: dict[str, Any], said: str, overrides: list[str]) -> Any:
    """The frozen dataclass that the config function of this name in `file` returns ("" is the only one). Raises
    UserError where one of `overrides` belongs into the call, which was `said` so."""
    names = list(_functions(file))
    if not function and len(names) == 1:
        function = names[0]
    if not function:
        raise UserError(
            f"say which config of {file.name}: " + (", ".join(f"{file.name}:{name}" for name in names) or "it has none")
        )
    if function not in names:
        raise unknown(f"config function of {file.name}", function, names)
    with _naming_the_line(file):
        made_by = getattr(_import(file), function)
        taken = config_call.from_overrides(made_by, overrides)
        arguments = taken | arguments
        config_call.check(made_by, arguments)
        config = made_by(**arguments)
    if not is_config(config):
        raise UserError(f"{file}: {function}() must return a frozen dataclass, not a {type(config).__name__}")
    gone = taken.keys() - plain(config).keys()  # what is an argument alone is no override any more
    overrides[:] = [text for text in overrides if str(text).partition("=")[0] not in gone]
    config_call.refuse_arguments(made_by, said, overrides, plain(config))
    return config


def _import(file: Path) -> types.ModuleType:
    if file.parent == _folder():
        # One name for both homes of the shipped configs, so that they may import each other: `from .gpt2 import ...`
        package = sys.modules.setdefault("jaxlm.configs", types.ModuleType("jaxlm.configs"))
        package.__path__ = [str(file.parent)]
        return importlib.import_module(f"jaxlm.configs.{file.stem}")
    module = types.ModuleType(f"own_config_{file.stem}")
    _trust(module.__name__)
    module.__file__ = str(file)
    sys.modules[module.__name__] = module  # dataclasses look their annotations up there
    if str(file.parent) not in sys.path:
        sys.path.insert(0, str(file.parent))  # as if it were run: it may import its neighbours
    exec(compile(file.read_bytes(), str(file), "exec"), module.__dict__)
    return module


@contextlib.contextmanager
def _naming_the_line(file: Path) -> Iterator[None]:
    """Any mistake in a config file becomes a UserError of one line."""
    try:
        yield
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f"{error.filename or file}:{error.lineno}: {error.msg}") from error
    except (Exception, SystemExit) as error:  # the file is the user's code: it may raise anything
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        where = f"{file}:{lines[-1]}" if lines else str(file)
        raise UserError(f"{where}: {type(error).__name__}: {' '.join(str(error).split())}") from error
