"""Reading the config.json of other libraries: typed, with defaults, and with errors that name the key and the file."""

import difflib
import functools
import math
from collections.abc import Mapping
from typing import Any

from jaxlm.errors import UserError

REQUIRED: Any = object()
LIKE = 0.86  # the least likeness of a misspelling; of published keys that differ it is 0.84 at most
Key = str  # in the class, `str` is a method


class Fields:
    """The dict of a config.json. A key may have older spellings, which follow it; null means that it is absent.

        c.size("hidden_size", "n_embd")          # a whole number of at least 1
        c.float("rms_norm_eps", default=1e-6)

    Keys that nobody asks for are ignored: published configs carry dozens. `asked` are those that were found, and
    `mistyped` names unknown ones that were probably meant. Every method raises UserError for a missing key without a
    default, and for a value of another type.
    """

    def __init__(self, values: dict[Key, Any], where: Key = "config.json"):
        self.values, self.where = values, where
        self.asked: set[Key] = set()
        self._paths: tuple[tuple[Key, ...], ...] = ((),)  # of this section, in the whole
        self._wanted: dict[tuple[Key, ...], set[tuple[Key, ...]]] = {}  # what each section was asked for

    def get(self, *keys: Key, default: Any = None) -> Any:
        """The value as it stands."""
        for path in self._paths:
            self._wanted.setdefault(path, set()).add(keys)
        there = sorted((key for key in keys if key in self.values), key=lambda key: self.values[key] is None)
        self.asked.update(there[:1])
        return default if not there or self.values[there[0]] is None else self.values[there[0]]

    def size(self, *keys: Key, default: Any = REQUIRED) -> Any:
        value = self.int(*keys, default=default)
        if value is not default and not 1 <= value < 2**31:
            raise self.error(keys[0], f"must be at least 1 and below 2**31, not {repr(value)[:60]}")
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
        """Another dict in this one, as `Fields` of its own; default={} is an empty one."""
        value = self._typed(keys, default, "an object", lambda value: type(value) is dict)
        if value is default and default != {}:
            return value
        found = Fields(value, self.where if value is default else f"{self.where}: {keys[0]}")
        key = keys[0] if value is default else next(key for key in keys if self.values.get(key) is value)
        found._paths, found._wanted = tuple((*path, key) for path in self._paths), self._wanted
        return found

    def over(self, below: "Fields") -> "Fields":
        """This section's values, and those of another one below where this one has none."""
        found = Fields(below.values | self.values, below.where)
        found._paths, found._wanted = below._paths + self._paths, self._wanted
        return found

    def mistyped(self, given: dict[Key, Any]) -> tuple[Key, ...]:
        """What a file that says `given` probably misspells: each key that nobody asked for and that is all but one
        that was asked for in vain, as "key for known key"."""
        found = []
        for path, groups in self._wanted.items():
            here = functools.reduce(lambda values, key: values.get(key) if type(values) is dict else None, path, given)
            if type(here) is not dict:
                continue
            known = {key for keys in groups for key in keys}
            vain = {key for keys in groups if all(here.get(key) is None for key in keys) for key in keys}
            for key in here.keys() - known:
                if right := next(filter(functools.partial(_all_but, key), sorted(vain)), None):
                    found.append(f"{'.'.join((*path, key))[:80]!r} for {right!r}")
        return tuple(sorted(found))

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


def _all_but(word: str, known: str) -> bool:
    """Whether `word` is `known` but for case, a letter or two, or their order. Private keys, which transformers writes
    beside the public ones, are none, nor is a key with a word more or less, such as moe_intermediate_size."""
    a, b = word.lower(), known.lower()
    words = {*a.split("_")}, {*b.split("_")}
    if words[0] < words[1] or words[1] < words[0]:
        return False
    if a == b or a.lstrip("_") == b.lstrip("_"):
        return word.lstrip("_") != known.lstrip("_")
    one = len(a) == len(b) and (sum(x != y for x, y in zip(a, b)) == 1 or sorted(a) == sorted(b))
    return one or difflib.SequenceMatcher(None, a, b).ratio() > LIKE
