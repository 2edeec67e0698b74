"""Reading the config.json of other libraries: typed, with defaults, and with errors that name the key and the file."""

import math
from collections.abc import Mapping
from typing import Any

from jaxlm.errors import UserError

REQUIRED: Any = object()
Key = str  # in the class, `str` is a method


class Fields:
    """The dict of a config.json. A key may have older spellings, which follow it; null means that it is absent.

        c.size("hidden_size", "n_embd")          # a whole number of at least 1
        c.float("rms_norm_eps", default=1e-6)

    Keys that nobody asks for are ignored: published configs carry dozens. `asked` are those that were found. Every
    method raises UserError for a missing key without a default, and for a value of another type.
    """

    def __init__(self, values: dict[Key, Any], where: Key = "config.json"):
        self.values, self.where = values, where
        self.asked: set[Key] = set()

    def get(self, *keys: Key, default: Any = None) -> Any:
        """The value as it stands."""
        there = sorted((key for key in keys if key in self.values), key=lambda key: self.values[key] is None)
        self.asked.update(there[:1])
        return default if not there or self.values[there[0]] is None else self.values[there[0]]

    def size(self, *keys: Key, default: Any = REQUIRED) -> Any:
        value = self.int(*keys, default=default)
        if value is not default and not 1 <= value < 2**31:
            raise self.error(keys[0], f"must be at least 1 and below 2**31, not {value}")
        return value

    def int(self, *keys: Key, default: Any = REQUIRED) -> Any:
        fits = lambda value: type(value) is int or (type(value) is float and value.is_integer())
        value = self._typed(keys, default, "a whole number", fits)
        return int(value) if type(value) is float and value is not default else value

    def float(self, *keys: Key, default: Any = REQUIRED) -> Any:
        fits = lambda value: type(value) in (int, float) and math.isfinite(value)
        value = self._typed(keys, default, "a number", fits)
        return value if value is default else float(value)

    def positive(self, *keys: Key, default: Any = REQUIRED) -> Any:
        value = self.float(*keys, default=default)
        if value is not default and value <= 0:
            raise self.error(keys[0], f"must be positive, not {value:g}")
        return value

    def bool(self, *keys: Key, default: Any = REQUIRED) -> Any:
        return self._typed(keys, default, "true or false", lambda value: type(value) is bool)

    def str(self, *keys: Key, default: Any = REQUIRED) -> Any:
        return self._typed(keys, default, "a text", lambda value: type(value) is str)

    def list(self, *keys: Key, default: Any = REQUIRED) -> Any:
        return self._typed(keys, default, "a list", lambda value: type(value) is list)

    def one_of(self, *keys: Key, among: Mapping[Any, Any], default: Any = REQUIRED) -> Any:
        """What `among` has for the value, or for the default."""
        value = self.get(*keys, default=default)
        if value is REQUIRED:
            raise self.error(" or ".join(keys), "is missing")
        if type(value) is not str or value not in among:
            raise self.error(keys[0], f"{repr(value)[:60]} is not supported: {', '.join(map(str, among))}")
        return among[value]

    def section(self, *keys: Key, default: Any = REQUIRED) -> Any:
        """Another dict in this one, as `Fields` of its own."""
        value = self._typed(keys, default, "an object", lambda value: type(value) is dict)
        return value if value is default else Fields(value, f"{self.where}: {keys[0]}")

    def error(self, key: Key, problem: Key) -> UserError:
        return UserError(f"{self.where}: {key} {problem}")

    def _typed(self, keys: tuple[Key, ...], default: Any, kind: Key, fits: Any) -> Any:
        value = self.get(*keys, default=REQUIRED)
        if value is REQUIRED:
            if default is REQUIRED:
                raise self.error(" or ".join(keys), "is missing")
            return default
        if not fits(value):
            raise self.error(keys[0], f"must be {kind}, not {repr(value)[:60]}")
        return value
