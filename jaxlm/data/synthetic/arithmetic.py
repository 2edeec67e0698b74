"""Formal languages of arithmetic modulo a small number: without brackets, with them, and equations to solve.

Vocabularies are those of Beck et al. 2024 (arXiv:2405.04517); expressions with brackets have the grammar of Deletang et
al. 2023 (arXiv:2207.02098). What the first paper leaves open is ours: numbers and operators are uniform, * binds
tighter, and of an equation the unknown stands where it has one solution.
"""

from jaxlm.data.synthetic.task import Rng, Task, marks

PLUS, MINUS, TIMES, EQUALS, OPEN, CLOSE, ACT, X = range(1, 9)
WITH = {PLUS: lambda a, b: a + b, MINUS: lambda a, b: a - b, TIMES: lambda a, b: a * b}


class Draws:
    """Small random numbers from one large draw, which is much quicker than many small ones."""

    def __init__(self, rng: Rng, count: int) -> None:
        self._drawn = iter(rng.integers(0, 2**30, count).tolist())

    def below(self, n: int) -> int:
        return next(self._drawn) % n


def mod_arithmetic(rng: Rng, n: int, V: int):
    """number (operator number)* = -> the result modulo V - 5; n counts as the odd number below it."""
    first, m = 5, V - 5
    numbers = rng.integers(0, m, (n - 1) // 2).tolist()
    operators = rng.integers(PLUS, TIMES + 1, len(numbers) - 1).tolist()
    prompt, terms = [first + numbers[0]], [numbers[0]]
    for operator, x in zip(operators, numbers[1:], strict=True):
        prompt += [operator, first + x]
        if operator == TIMES:
            terms[-1] = terms[-1] * x % m
        else:
            terms.append(x if operator == PLUS else -x)
    return [*prompt, EQUALS], [first + sum(terms) % m]


def mod_arithmetic_brackets(rng: Rng, n: int, V: int):
    """expression = -> its value modulo V - 7."""
    first, m = 7, V - 7
    tree = _tree(Draws(rng, 4 * n), n - 2, m)
    return [*_spell(tree, first), EQUALS], [first + _value(tree, m)]


def solve_equation(rng: Rng, n: int, V: int):
    """expression with X = number ACT -> the number modulo V - 9, a prime, that X stands for."""
    first, m = 9, V - 9
    while True:
        draws = Draws(rng, 8 * n)
        tree = _tree(draws, n - 4, m)
        leaves = list(_leaves(tree))
        leaf, rest = leaves[draws.below(len(leaves))], []
        solution = leaf[0]
        for x in range(m):
            leaf[0] = x
            rest.append(_value(tree, m))
        if len(set(rest)) == m:  # linear in X, so that nothing else can be
            leaf[0] = None
            prompt = [*_spell(tree, first), EQUALS, first + rest[solution], ACT]
            return prompt, [first + solution]


def _tree(draws: Draws, n: int, m: int) -> list:
    """A random expression of n tokens: [number], ["-", number], ["()", inner] or ["(o)", operator, left, right]."""
    if n == 1:
        return [draws.below(m)]
    if n == 2:
        return ["-", [draws.below(m)]]
    if n <= 4:
        return ["()", _tree(draws, n - 2, m)]
    left = 1 + draws.below(n - 4)
    return ["(o)", PLUS + draws.below(3), _tree(draws, left, m), _tree(draws, n - 3 - left, m)]


def _value(tree: list, m: int) -> int:
    if tree[0] == "-":
        return -_value(tree[1], m) % m
    if tree[0] == "()":
        return _value(tree[1], m)
    if tree[0] == "(o)":
        return WITH[tree[1]](_value(tree[2], m), _value(tree[3], m)) % m
    return tree[0]


def _spell(tree: list, first: int) -> list[int]:
    if tree[0] == "-":
        return [MINUS, *_spell(tree[1], first)]
    if tree[0] == "()":
        return [OPEN, *_spell(tree[1], first), CLOSE]
    if tree[0] == "(o)":
        return [OPEN, *_spell(tree[2], first), tree[1], *_spell(tree[3], first), CLOSE]
    return [X if tree[0] is None else first + tree[0]]


def _leaves(tree: list):
    if len(tree) == 1:
        yield tree
    for part in tree[1:]:
        if isinstance(part, list):
            yield from _leaves(part)


TASKS = {
    "mod_arithmetic": Task(mod_arithmetic, 10, marks(5), 3),
    "mod_arithmetic_brackets": Task(mod_arithmetic_brackets, 12, marks(7), 3),
    "solve_equation": Task(solve_equation, 14, marks(9), 5),
}
