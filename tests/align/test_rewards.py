"""Verifiable rewards: right, wrong, and no answer at all."""

import pytest

from jaxlm.align.rewards import REWARDS, answer_of, resolve
from jaxlm.errors import UserError
from jaxlm.evals.sandbox import walls

CASES = [  # reward, text, row, what it gives
    ("number", "so it is 72", {"answer": "48/2 = 24 ... #### 72"}, 1),
    ("number", "#### 1,234", {"answer": "1234"}, 1),
    ("number", "<think>7</think><answer>-3.50</answer> 9", {"answer": "-7/2"}, 1),
    ("number", "I get \\boxed{\\frac{1}{2} = 1/2}", {"answer": 0.5}, 1),
    ("number", "73", {"answer": "72"}, 0),
    ("number", "no idea", {"answer": "72"}, None),
    ("exact", "<answer> yes </answer>", {"answer": "yes"}, 1),
    ("exact", "yes!", {"answer": "yes"}, 0),
    ("countdown", "<answer>(6 - 2) * 25 = 100</answer>", {"numbers": [2, 6, 25], "target": 100}, 1),
    ("countdown", "25 / 2 * 6", {"numbers": [2, 6, 25], "target": 75}, 1),
    ("countdown", "25 * 4", {"numbers": [2, 6, 25], "target": 100}, 0),
    ("countdown", "100", {"numbers": [2, 6, 25], "target": 100}, 0),
    ("countdown", "__import__('os')", {"numbers": [2], "target": 2}, None),
    ("countdown", "2**9999999", {"numbers": [2, 9], "target": 2}, None),
    ("countdown", "2 / (6 - 6)", {"numbers": [2, 6, 6], "target": 2}, None),
    ("sorting", "1 2 9", {"numbers": [9, 1, 2]}, 1),
    ("sorting", "1 9 2", {"numbers": [9, 1, 2]}, 1 / 3),
    ("sorting", "1 2 9 9 9 9", {"numbers": [9, 1, 2]}, 0.5),
    ("think_format", "<think>a\nb</think> <answer>c</answer>", {}, 1),
    ("think_format", "<think>a</think><think>b</think><answer>c</answer>", {}, 0),
    ("think_format", "<answer>c</answer>", {}, 0),
    ("regex", "abc 12", {"pattern": r"\d{2}$"}, 1),
    ("regex", "abc", {"pattern": r"\d"}, 0),
    ("brief", "x" * 500, {}, -0.5),
]


@pytest.mark.parametrize("name, text, row, wanted", CASES, ids=lambda x: str(x)[:16])
def test_rewards(name, text, row, wanted):
    assert REWARDS[name]("", text, row) == wanted
    assert resolve(name) is REWARDS[name]


def test_a_prompt_may_begin_the_thought():
    assert REWARDS["think_format"]("1+1? <think>", "a</think><answer>2</answer>", {}) == 1


def test_answers():
    assert answer_of("<think>5</think> 6") == "6" and answer_of("x \\boxed{a{b}c} y") == "a{b}c"


BAD = [
    ("number", {"answer": "many"}, "the row's answer is no number: 'many'"),
    ("number", {"question": "?"}, "the row has no answer or solution or target: question"),
    ("countdown", {"target": 3}, "countdown needs a row with numbers"),
    ("sorting", {}, "sorting needs a row with numbers"),
    ("regex", {"pattern": "("}, r"pattern '\(' is no regular expression"),
]


@pytest.mark.parametrize("name, row, says", BAD, ids=lambda x: str(x)[:16])
def test_rows_that_do_not_say_what_is_needed(name, row, says):
    with pytest.raises(UserError, match=says):
        REWARDS[name]("", "1", row)


@pytest.mark.skipif(bool(walls()), reason=f"no sandbox here: {walls()}")
def test_code_that_passes_tests():
    row = {"tests": ["assert f(2) == 4", "assert f(3) == 9"]}
    square, double = (f"```python\ndef f(x):\n    return x * {y}\n```" for y in ("x", "2"))
    assert [REWARDS["code"]("", text, row) for text in (square, double, "none")] == [1, 0, None]
    with pytest.raises(UserError, match="code needs a row with tests"):
        REWARDS["code"]("", square, {})


def test_own_functions_and_names_that_are_none(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def long(prompt, text, row):\n    return len(text)\n")
    assert resolve(f"{file}:long")("", "abc", {}) == 3
    with pytest.raises(UserError, match="unknown reward 'numbr': did you mean 'number'"):
        resolve("numbr")
    with pytest.raises(UserError, match="has no function 'short'"):
        resolve(f"{file}:short")
    with pytest.raises(UserError, match="no such file"):
        resolve("absent.py:f")
    (tmp_path / "bad.py").write_text("1/0")
    with pytest.raises(UserError, match="ZeroDivisionError"):
        resolve(f"{tmp_path / 'bad.py'}:f")
