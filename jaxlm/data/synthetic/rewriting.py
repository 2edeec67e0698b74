"""Formal languages whose answer is the prompt rewritten: repeated, reversed, sorted, ... (Beck et al. 2024,
arXiv:2405.04517, with its vocabularies and examples).

The paper gives no generators: these are ours. Symbols are uniform, the answer is read back token by token, and where
the paper's vocabulary has no mark between prompt and answer (bucket sort) padding marks it, else nobody could know.
"""

import numpy as np

from jaxlm.data.synthetic.task import PAD, Rng, Task, marks

ACT = MISSING = 1  # the mark before an answer, and of the token that is asked for
POP = 2


def bucket_sort(rng: Rng, n: int, V: int):
    """x PAD -> x sorted."""
    x = rng.integers(1, V, (n - 1) // 2)
    return [*x, PAD], np.sort(x)


def missing_duplicate(rng: Rng, n: int, V: int):
    """x and x again with one token missing -> that token."""
    x = rng.integers(2, V, (n - 1) // 2)
    at = rng.integers(len(x))
    again = x.copy()
    again[at] = MISSING
    return [*x, *again], [x[at]]


def odds_first(rng: Rng, n: int, V: int):
    """x ACT -> the 1st, 3rd, ... of x, then the 2nd, 4th, ..."""
    x = rng.integers(2, V, (n - 1) // 2)
    return [*x, ACT], [*x[::2], *x[1::2]]


def repetition(rng: Rng, n: int, V: int):
    """x ACT -> x."""
    x = rng.integers(2, V, (n - 1) // 2)
    return [*x, ACT], x


def reverse_string(rng: Rng, n: int, V: int):
    """x ACT -> x from its end to its beginning."""
    x = rng.integers(2, V, (n - 1) // 2)
    return [*x, ACT], x[::-1]


def unique(rng: Rng, n: int, V: int):
    """x ACT -> the symbols of x, each where it occurred first."""
    x = rng.integers(2, V, (n - 1) // 2)
    return [*x, ACT], list(dict.fromkeys(x.tolist()))


def stack_manipulation(rng: Rng, n: int, V: int):
    """A stack's symbols, then pushes and pops, ACT -> the stack after them, bottom first.

    Of V - 3 symbols half, from 3 on, stand for a value on the stack and as many after them for pushing it. The last
    value is never popped.
    """
    values, total = (V - 3) // 2, (n - 1) // 2
    stack = (3 + rng.integers(0, values, rng.integers(1, total + 1))).tolist()
    prompt = stack.copy()
    for drawn in rng.integers(-values, values, total - len(stack)).tolist():  # half of them pop where that is possible
        if drawn < 0 and len(stack) > 1:
            stack.pop()
            prompt.append(POP)
        else:
            stack.append(3 + drawn % values)
            prompt.append(stack[-1] + values)
    return [*prompt, ACT], stack


TASKS = {
    "bucket_sort": Task(bucket_sort, 11, marks(1), 3),
    "missing_duplicate": Task(missing_duplicate, 11, marks(2), 3),
    "odds_first": Task(odds_first, 12, marks(2), 3),
    "repetition": Task(repetition, 12, marks(2), 3),
    "reverse_string": Task(reverse_string, 12, marks(2), 3),
    "stack_manipulation": Task(stack_manipulation, 11, lambda V: (V - 3) // 2, 3),
    "set": Task(unique, 128, marks(2), 3),
}
