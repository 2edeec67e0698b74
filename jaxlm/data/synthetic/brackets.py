"""Nested structure: Dyck words to be closed, and ListOps (Nangia & Bowman 2018, arXiv:1804.06028)."""

from jaxlm.data.synthetic.arithmetic import Draws
from jaxlm.data.synthetic.task import PAD, Rng, Task

ACT = 1
OPERATORS = {"[MAX": max, "[MIN": min, "[MED": None, "[SM": lambda x: sum(x) % 10, "[FIRST": None, "[LAST": None}
OPERATORS["[MED"] = lambda x: (sorted(x)[(len(x) - 1) // 2] + sorted(x)[len(x) // 2]) // 2
OPERATORS["[FIRST"], OPERATORS["[LAST"] = lambda x: x[0], lambda x: x[-1]
LIST_OPS = ("<pad>", *OPERATORS, "]", *"0123456789")  # words by id
CLOSE, DIGIT, GENERATED = LIST_OPS.index("]"), LIST_OPS.index("0"), 4  # the first four operators are drawn
ARGUMENTS = 5  # at most, of a generated operator


def dyck(rng: Rng, n: int, V: int):
    """The beginning of a word of (V - 2) / 2 kinds of brackets, ACT -> the brackets that close it.

    Ours: a walk that opens or closes with equal chance where both are possible. Kind i opens as 2 + i and closes as
    2 + kinds + i.
    """
    kinds = (V - 2) // 2
    prompt, open_ = [], []
    for drawn in rng.integers(-kinds, kinds, n).tolist():
        if len(prompt) + len(open_) + 3 > n:
            break
        if drawn < 0 and len(open_) > 1:
            prompt.append(open_.pop() + kinds)
        else:
            open_.append(2 + drawn % kinds)
            prompt.append(open_[-1])
    return [*prompt, ACT], [kind + kinds for kind in reversed(open_)]


def list_ops(rng: Rng, n: int, V: int):
    """Operations on lists of digits, nested -> the value, a digit; tokens are words of `LIST_OPS`.

    Ours: MAX, MIN, MED and SM of 2 to 5 arguments, which share the tokens left at random.
    """
    draws, prompt = Draws(rng, 8 * n), []
    value = _operation(draws, n - 1, prompt)
    return prompt, [DIGIT + value]


def _operation(draws: Draws, n: int, out: list[int]) -> int:
    """Writes an expression of at most n tokens, and gives its value."""
    if n < 4:
        out.append(DIGIT + draws.below(10))
        return out[-1] - DIGIT
    operator = 1 + draws.below(GENERATED)
    out.append(operator)
    count = 2 + draws.below(min(n - 2, ARGUMENTS) - 1)
    left, values = n - 2, []
    for others in reversed(range(count)):
        share = left - others if not others else 1 + draws.below(left - others)
        before = len(out)
        values.append(_operation(draws, share, out))
        left -= len(out) - before
    out.append(CLOSE)
    return OPERATORS[LIST_OPS[operator]](values)


def list_ops_value(words: list[str]) -> int:
    """The value of an expression, by a stack: it serves files of which the parentheses were dropped.

    Raises ValueError or IndexError where the words are none.
    """
    stack: list = [[]]
    for word in words:
        if word in OPERATORS:
            stack.append([word])
        elif word == "]":
            name, *values = stack.pop()
            stack[-1].append(OPERATORS[name](values))
        else:
            stack[-1].append(int(word))
    ((value,),) = stack
    return value


TASKS = {
    "dyck": Task(dyck, 10, lambda V: (V - 2) // 2, 3),
    "list_ops": Task(list_ops, len(LIST_OPS), lambda V: 10, 2, True),
}
assert LIST_OPS[PAD] == "<pad>"
