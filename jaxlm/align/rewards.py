"""Rewards that can be verified: functions (prompt, text, row) -> a number, or None where the text has no answer.

`row` is the prompt's row of the file, with the keys that a reward reads. What has no answer counts 0.
"""

import ast
import importlib.util
import operator
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

from jaxlm.errors import UserError, unknown
from jaxlm.evals.answers import last_box
from jaxlm.evals.sandbox import passes
from jaxlm.paths import expand

Reward = Callable[[str, str, Mapping[str, Any]], float | None]

NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:/\d+)?")
THOUGHT = re.compile(r"\s*<think>(?:(?!</?think>).)*</think>\s*<answer>(?:(?!</?answer>).)*</answer>\s*", re.DOTALL)
FIELDS = ("answer", "solution", "target")
OPERATORS: dict[type, Callable] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
LONGEST = 200  # characters of an expression


def answer_of(text: str) -> str:
    """What a text gives as its answer: inside the last <answer>, \\boxed{...}, or behind "####", else behind
    </think>, else all of it."""
    if found := re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL):
        return found[-1].strip()
    if (boxed := last_box(text)) is not None:
        return boxed.strip()
    if "####" in text:
        return text.rpartition("####")[2].strip()
    return text.rpartition("</think>")[2].strip()


def number_of(text: str) -> Fraction | None:
    """The last number of a text: commas of thousands are left out, fractions and decimals are exact."""
    found = NUMBER.findall(text)
    if not found:
        return None
    try:
        return Fraction(found[-1].replace(",", ""))
    except (ValueError, ZeroDivisionError):
        return None


def wanted(row: Mapping[str, Any]) -> str:
    """The answer that a row names. Raises UserError where it names none."""
    for field in FIELDS:
        if isinstance(row.get(field), str | int | float) and not isinstance(row[field], bool):
            return answer_of(str(row[field]))
    raise UserError(f"the row has no {' or '.join(FIELDS)}: {', '.join(map(str, row))[:80]}")


def number(prompt: str, text: str, row: Mapping[str, Any]) -> float | None:
    """1 where the last number of the answer is that of the row, in GSM8K's form ("#### 1,234"; Cobbe et al. 2021,
    arXiv:2110.14168) or plain."""
    right, found = number_of(wanted(row)), number_of(answer_of(text))
    if right is None:
        raise UserError(f"the row's answer is no number: {wanted(row)[:40]!r}")
    return None if found is None else float(found == right)


def exact(prompt: str, text: str, row: Mapping[str, Any]) -> float | None:
    """1 where the answer is the row's, letter by letter but for white space around it."""
    found = answer_of(text)
    return float(found == wanted(row)) if found else None


def countdown(prompt: str, text: str, row: Mapping[str, Any]) -> float | None:
    """1 where the answer is an expression of +, -, * and / that has each of the row's `numbers` exactly once and the
    value `target` (Gandhi et al. 2024, arXiv:2404.03683); "... = target" may follow it."""
    numbers, target = row.get("numbers", row.get("nums")), row.get("target")
    if not isinstance(numbers, list) or not isinstance(target, int | float):
        raise UserError("countdown needs a row with numbers (a list) and a target")
    said = answer_of(text).strip().splitlines()
    if not said or not (found := said[-1].partition("=")[0].strip()) or len(found) > LONGEST:
        return None
    used: list[int] = []
    try:
        value = _value(ast.parse(found, mode="eval").body, used)
    except (SyntaxError, ValueError, RecursionError, MemoryError, ZeroDivisionError):
        return None
    return float(sorted(used) == sorted(numbers) and value == Fraction(str(target)))


def _value(node: ast.AST, used: list[int]) -> Fraction:
    """Exact, of whole numbers and the four operators alone."""
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_value(node.left, used), _value(node.right, used))
    if isinstance(node, ast.Constant) and type(node.value) is int:
        used.append(node.value)
        return Fraction(node.value)
    raise ValueError("no such expression")


def sorting(prompt: str, text: str, row: Mapping[str, Any]) -> float | None:
    """The share of places at which the answer's numbers are those of the row's `numbers` in order."""
    numbers = row.get("numbers")
    if not isinstance(numbers, list) or not numbers:
        raise UserError("sorting needs a row with numbers (a list)")
    found = [int(x) for x in re.findall(r"-?\d{1,18}", answer_of(text))]
    if not found:
        return None
    right = sum(a == b for a, b in zip(found, sorted(numbers)))
    return right / max(len(found), len(numbers))


def think_format(prompt: str, text: str, row: Mapping[str, Any]) -> float:
    """1 where the whole text is <think>...</think><answer>...</answer>, each once (DeepSeek-R1, arXiv:2501.12948). A
    prompt that ends with <think> has begun it."""
    text = "<think>" * prompt.rstrip().endswith("<think>") + text
    return float(THOUGHT.fullmatch(text) is not None)


def regex(prompt: str, text: str, row: Mapping[str, Any]) -> float:
    """1 where the row's `pattern` finds a match in the text."""
    if not isinstance(row.get("pattern"), str):
        raise UserError("regex needs a row with a pattern")
    try:
        return float(re.search(row["pattern"], text, re.DOTALL) is not None)
    except re.error as error:
        raise UserError(f"pattern {row['pattern'][:40]!r} is no regular expression: {error}") from None


def code(prompt: str, text: str, row: Mapping[str, Any]) -> float | None:
    """1 where the program in the text, its last block of code, passes the row's `tests` (a text or a list) in the
    sandbox."""
    tests = row.get("tests", row.get("test"))
    tests = "\n".join(map(str, tests)) if isinstance(tests, list) else tests
    if not isinstance(tests, str):
        raise UserError("code needs a row with tests (a text or a list)")
    found = re.findall(r"```(?:python|py)?\n(.*?)```", text, re.DOTALL)
    return float(passes(found[-1], tests)) if found else None


def brief(prompt: str, text: str, row: Mapping[str, Any]) -> float:
    """Less the longer the text is: -characters / 1000, to be weighted."""
    return -len(text) / 1000


REWARDS: dict[str, Reward] = {
    "number": number,
    "exact": exact,
    "countdown": countdown,
    "sorting": sorting,
    "think_format": think_format,
    "regex": regex,
    "code": code,
    "brief": brief,
}


def resolve(name: str) -> Reward:
    """The reward of a name of `REWARDS`, or the function of "file.py:function". Raises UserError where there is
    none."""
    file, colon, function = name.rpartition(":")
    if not colon or not file.endswith(".py"):
        if name not in REWARDS:
            raise unknown("reward", name, REWARDS)
        return REWARDS[name]
    found = getattr(_module(expand(file)), function, None)
    if not callable(found):
        raise UserError(f"{file} has no function {function!r}")
    return cast(Reward, found)


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UserError(f"cannot read {path}: no such file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a user's own program
        raise UserError(f"{path}: {type(error).__name__}: {error}") from error
    return module
