"""A measured row, its goal, and the table of rows."""

import dataclasses
import json
import re
import statistics
from collections.abc import Sequence
from typing import Any

BUSY = 0.1  # processor cores used by others, above which a row had better be measured again
GOAL = re.compile(r"(value|ratio) (>=|<=|<) ([\d.]+)(?: \(stretch ([\d.]+)\))?")


@dataclasses.dataclass(frozen=True)
class Row:
    """One number. `value` is None where it could not be measured or must not count; `note` says why.

    `peer` is the same quantity of what it is compared with, `ratio` how many times better jaxlm is (> 1: faster).
    `goal` reads like "ratio >= 1.25 (stretch 2)". `repeats` are the measurements whose median `value` is.
    """

    id: str
    value: float | None
    unit: str
    peer: float | None = None
    ratio: float | None = None
    goal: str = ""
    repeats: tuple[float, ...] = ()
    note: str = ""
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)  # versions, device, load of the pieces

    def __post_init__(self) -> None:
        assert not self.goal or GOAL.fullmatch(self.goal), self.goal

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without a goal or a number."""
        if not self.goal:
            return None
        of, sign, wanted, _ = GOAL.fullmatch(self.goal).groups()  # type: ignore[union-attr]
        found = self.value if of == "value" else self.ratio
        if found is None:
            return None
        return {">=": found >= float(wanted), "<=": found <= float(wanted), "<": found < float(wanted)}[sign]

    def json(self, commit: str) -> str:
        facts = {"versions": {}, "device": "", "load": None, "others": None} | self.facts
        numbers = {name: _short(getattr(self, name)) for name in ("value", "unit", "peer", "ratio")}
        told = {"goal": self.goal or None, "met": self.met}
        rest = {"commit": commit, "repeats": [_short(x) for x in self.repeats], "note": self.note}
        return json.dumps({"id": self.id, **numbers, **told, **facts, **rest})


def facts(*pieces: dict[str, Any]) -> dict[str, Any]:
    """What was true while these pieces ran: all versions, the device of the first, the least and the most load, and
    the most processor cores that anything else kept busy while one of them ran."""
    versions: dict[str, str] = {}
    for piece in reversed(pieces):
        versions |= piece["versions"]
    loads = [load for piece in pieces for load in piece["load"]]
    others = round(max(piece["others"] for piece in pieces), 3)
    return {"versions": versions, "device": pieces[0]["device"], "load": [min(loads), max(loads)], "others": others}


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def table(rows: Sequence[Row]) -> str:
    """The rows for a reader."""
    head = ("row", "value", "unit", "peer", "ratio", "goal", "", "note")
    lines: list[tuple[str, ...]] = [head]
    for row in rows:
        met = {True: "met", False: "missed", None: ""}[row.met]
        numbers = ["" if x is None else f"{x:.4g}" for x in (row.value, row.peer, row.ratio)]
        value = numbers[0] or "-"
        busy = row.facts.get("others") or 0
        note = f"BUSY MACHINE ({busy:.2g} cores); {row.note}" if busy > BUSY else row.note
        lines.append((row.id, value, row.unit, numbers[1], numbers[2], row.goal, met, note))
    widths = [max(len(line[i]) for line in lines) for i in range(len(head) - 1)]
    return "\n".join(
        "  ".join([*(f"{cell:{width}}" for cell, width in zip(line, widths)), line[-1]]).rstrip() for line in lines
    )


def _short(x: Any) -> Any:
    return float(f"{x:.5g}") if isinstance(x, float) else x
