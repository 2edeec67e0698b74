"""What a written answer says: the number of a GSM8K answer, a grid, a short answer, code."""

import json
import re

from jaxlm.evals.metrics import normal_answer

STRICT = re.compile(r"#### (-?[0-9.,]+)")
NUMBER = re.compile(r"-?[$€£]?[0-9][0-9,]*(?:\.[0-9]+)?")


def plain_number(text: str) -> str | None:
    """ "1,234.50" -> "1234.5"; None where it is no number."""
    text = re.sub(r"[,$€£%\s]", "", text).rstrip(".")
    try:
        value = float(text)
    except ValueError:
        return None
    if value != value or abs(value) == float("inf"):
        return None
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def strict_number(text: str) -> str | None:
    """The number behind "####", in GSM8K's own form (Cobbe et al. 2021)."""
    found = STRICT.search(text)
    return plain_number(found[1]) if found else None


def last_number(text: str) -> str | None:
    """The last number of the text: what the public harness calls flexible."""
    found = NUMBER.findall(text)
    return plain_number(found[-1]) if found else None


def last_box(text: str) -> str | None:
    """What stands in the last \\boxed{...}, whose braces may nest."""
    at = text.rfind("\\boxed{")
    if at < 0:
        return None
    depth, start = 0, at + len("\\boxed")
    for i in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[start + 1 : i]
    return None


def short_answer(text: str) -> str:
    """The answer of a text that ends with it: in a box, behind "answer:", else its last line that is not empty."""
    if (boxed := last_box(text)) is not None:
        return boxed.strip()
    said = re.findall(r"(?i)(?:answer|respuesta)(?: is| es)?\s*:\s*(.+)", text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (said or lines or [""])[-1].strip(" *.")


def same_answer(found: str, wanted: str) -> bool:
    """Equal as numbers where both are, else as normalised texts."""
    a, b = plain_number(found), plain_number(wanted)
    if a is not None and b is not None:
        return a == b
    return normal_answer(found) == normal_answer(wanted)


def grid(text: str) -> list[list[int]] | None:
    """The last grid of a text: a JSON list of rows of digits, or lines of digits with or without spaces between."""
    for found in reversed(re.findall(r"\[\s*\[[\d\s,\[\]]*\]\s*\]", text)):
        try:
            rows = json.loads(found)
        except ValueError:
            continue
        if rows and all(isinstance(row, list) and len(row) == len(rows[0]) for row in rows):
            return rows
    rows, last = [], []
    for line in [*text.splitlines(), ""]:
        if re.fullmatch(r"\s*\d(?:\s*\d)*\s*", line):
            rows.append([int(c) for c in line if c.isdigit()])
        else:
            last, rows = rows or last, []
    return last if last and len({len(row) for row in last}) == 1 else None


def code_block(text: str) -> str:
    """The last fenced block of a text, else the text."""
    found = re.findall(r"```(?:python|py)?\s*\n(.*?)(?:```|\Z)", text, re.DOTALL)
    return found[-1] if found else text
