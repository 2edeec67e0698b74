"""Regular expressions over bytes and their derivatives (Brzozowski 1964; Owens et al. 2009): an automaton whose states
are the expressions of what may still come.

    d_b(x) = {w : b w in x},   d_b(x y) = d_b(x) y | d_b(y) if x has the empty word,   d_b(x*) = d_b(x) x*

Equal expressions are one object, so a state is found by identity. A `Named` expression may stand within itself: what is
written left to right, as JSON is, needs no more.
"""

import functools
import heapq
import itertools
import math
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from jaxlm.errors import UserError

ALL = (1 << 256) - 1
SEARCHED = 20_000  # states looked at for the shortest word of an intersection

_known: weakref.WeakValueDictionary[tuple, "Expression"] = weakref.WeakValueDictionary()


class Expression:
    """`nullable`: has the empty word. `kind` and `parts` say what it is made of; see the functions below."""

    __slots__ = ("__weakref__", "_classes", "_shortest", "_steps", "kind", "nullable", "parts")

    def __init__(self, kind: str, parts: tuple, nullable: bool):
        self.kind, self.parts, self.nullable = kind, parts, nullable
        self._steps: dict[int, Expression] = {}
        self._classes: tuple[int, ...] | None = None
        self._shortest: float | None = None

    def step(self, byte: int) -> "Expression":
        """What may come after this byte."""
        if byte not in self._steps:
            self._steps[byte] = _step(self, byte)
        return self._steps[byte]

    @property
    def classes(self) -> tuple[int, ...]:
        """Sets of bytes, as 256 bits, that lead to the same expression each."""
        if self._classes is None:
            self._classes = _partition(self)
        return self._classes

    @property
    def shortest(self) -> float:
        """Bytes of the shortest word; infinite where there is none."""
        if self._shortest is None:
            self._shortest = _shortest(self)
        return self._shortest

    def body(self) -> "Expression":
        """Of a named expression."""
        return self.parts[1]()


def _make(kind: str, parts: tuple, nullable: bool) -> Expression:
    found = _known.get((kind, *parts))
    if found is None:
        found = _known[(kind, *parts)] = Expression(kind, parts, nullable)
    return found


NOTHING = _make("or", (), False)
EMPTY = _make("then", (), True)


def of_bytes(mask: int) -> Expression:
    """One of these bytes."""
    return _make("bytes", (mask,), False) if mask else NOTHING


def literal(data: bytes) -> Expression:
    return then(*(of_bytes(1 << byte) for byte in data))


def then(*parts: Expression) -> Expression:
    """One after the other."""
    found = EMPTY
    for part in reversed(parts):
        found = _pair(part, found)
    return found


def _pair(a: Expression, b: Expression) -> Expression:
    if NOTHING in (a, b):
        return NOTHING
    if a is EMPTY:
        return b
    if b is EMPTY:
        return a
    if a.kind == "then":
        return _pair(a.parts[0], _pair(a.parts[1], b))
    return _make("then", (a, b), a.nullable and b.nullable)


def either(*parts: Expression) -> Expression:
    """One of these."""
    flat: dict[Expression, None] = {}
    mask = 0
    for part in parts:
        for one in part.parts[0] if part.kind == "or" and part.parts else (part,):
            if one.kind == "bytes":
                mask |= one.parts[0]
            elif one is not NOTHING:
                flat[one] = None
    if mask:
        flat[of_bytes(mask)] = None
    if len(flat) < 2:
        return next(iter(flat), NOTHING)
    return _make("or", (frozenset(flat),), any(one.nullable for one in flat))


def repeat(x: Expression, least: int = 0, most: int | None = None) -> Expression:
    """`least` to `most` of these; None is without end."""
    if most == 0 or x is EMPTY:
        return EMPTY
    if x is NOTHING:
        return NOTHING if least else EMPTY
    if (least, most) == (1, 1):
        return x
    return _make("repeat", (x, least, most), not least or x.nullable)


def optional(x: Expression) -> Expression:
    return either(EMPTY, x)


def both(a: Expression, b: Expression) -> Expression:
    """What is in both."""
    if NOTHING in (a, b):
        return NOTHING
    if a is b:
        return a
    return _make("and", (frozenset((a, b)),), a.nullable and b.nullable)


def other_than(x: Expression) -> Expression:
    """All words but these."""
    return x.parts[0] if x.kind == "not" else _make("not", (x,), not x.nullable)


def named(name: Any, body: Callable[[], Expression]) -> Expression:
    """An expression that may stand within itself, and has not the empty word; `name` says which it is."""
    return _make("named", (name, body), False)


def _step(x: Expression, byte: int) -> Expression:
    match x.kind, x.parts:
        case "bytes", (mask,):
            return EMPTY if mask >> byte & 1 else NOTHING
        case "then", (a, b):
            found = _pair(a.step(byte), b)
            return either(found, b.step(byte)) if a.nullable else found
        case "or", (parts,):
            return either(*(part.step(byte) for part in parts))
        case "repeat", (one, least, most):
            return _pair(one.step(byte), repeat(one, max(least - 1, 0), None if most is None else most - 1))
        case "and", (parts,):
            return functools.reduce(both, (part.step(byte) for part in parts))
        case "not", (one,):
            return other_than(one.step(byte))
        case "named", _:
            return x.body().step(byte)
    return NOTHING  # after the empty word, and in the empty set


def _partition(x: Expression) -> tuple[int, ...]:
    match x.kind, x.parts:
        case "bytes", (mask,):
            return tuple(filter(None, (mask, ALL & ~mask)))
        case "then", (a, b):
            return _refined((a, b)) if a.nullable else a.classes
        case (("or" | "and"), (parts,)):
            return _refined(parts)
        case "repeat", (one, _, _):
            return one.classes
        case "not", (one,):
            return one.classes
        case "named", _:
            return x.body().classes
    return (ALL,)


def _refined(parts: Iterable[Expression]) -> tuple[int, ...]:
    found: set[int] = {ALL}
    for part in parts:
        found = {a & b for a in found for b in part.classes if a & b}
    return tuple(found)


def _shortest(x: Expression) -> float:
    match x.kind, x.parts:
        case "bytes", _:
            return 1
        case "then", (a, b):
            return a.shortest + b.shortest
        case "or", (parts,):
            return min(part.shortest for part in parts)
        case "repeat", (one, least, _):
            return least * one.shortest if least else 0
        case (("and" | "not"), _):
            return _searched(x)
        case "named", _:
            _settle(x)
            assert x._shortest is not None
            return x._shortest
    return 0 if x.nullable else math.inf


def _searched(x: Expression) -> float:
    """The shortest word by search, for expressions whose parts do not tell."""
    order, seen = itertools.count(), {x}
    waiting = [(0, next(order), x)]
    while waiting:
        length, _, state = heapq.heappop(waiting)
        if state.nullable:
            return length
        for mask in state.classes:
            after = state.step((mask & -mask).bit_length() - 1)
            if after is not NOTHING and after not in seen:
                seen.add(after)
                heapq.heappush(waiting, (length + 1, next(order), after))
        if len(seen) > SEARCHED:
            raise UserError("a pattern together with a length, or another pattern, is too complex: simplify it")
    return math.inf


def _settle(x: Expression) -> None:
    """The lengths of named expressions, of which each may need the others: until none becomes shorter."""
    names: dict[Expression, Expression] = {}
    waiting, seen = [x], set()
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        if one.kind == "named":
            names[one] = one.body()
            waiting.append(names[one])
        else:
            waiting += _inside(one)
    length = dict.fromkeys(names, math.inf)

    def of(one: Expression) -> float:
        if one in length:
            return length[one]
        match one.kind, one.parts:
            case "then", (a, b):
                return of(a) + of(b)
            case "or", (parts,):
                return min(map(of, parts))
            case "repeat", (inner, least, _):
                return least * of(inner) if least else 0
        return one.shortest

    while (new := {one: of(body) for one, body in names.items()}) != length:
        length.update(new)
    for one, found in length.items():
        one._shortest = found


def _inside(x: Expression) -> Iterable[Expression]:
    for part in x.parts:
        if isinstance(part, Expression):
            yield part
        elif isinstance(part, frozenset):
            yield from part
