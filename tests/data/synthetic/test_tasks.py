"""Every synthetic task against a slow oracle that reads the prompt, its lengths, its vocabulary; what cannot be."""

import collections
import gzip

import numpy as np
import pytest

from jaxlm.data import SyntheticTask
from jaxlm.data.synthetic import FORMAL, PAD, TASKS
from jaxlm.data.synthetic.brackets import DIGIT, LIST_OPS, list_ops_value
from jaxlm.data.synthetic.stories import PLACES, THINGS, WORDS
from jaxlm.errors import UserError

BASELINES = {  # vocabulary, and answers that a guess chooses among
    "bucket_sort": (11, 10), "cycle_navigation": (9, 5), "even_pairs": (3, 2), "majority": (64, 63),
    "majority_count": (64, 63), "missing_duplicate": (11, 9), "mod_arithmetic": (10, 5),
    "mod_arithmetic_brackets": (12, 5), "odds_first": (12, 10), "parity": (3, 2), "repetition": (12, 10),
    "reverse_string": (12, 10), "stack_manipulation": (11, 4), "set": (128, 126), "solve_equation": (14, 5),
}  # fmt: skip


def cycle(x):
    at = 0
    for step in x:
        at += {1: 0, 2: 1, 3: -1}[step]
    return [4 + at % 5]


def halves(x):
    n = len(x) // 2
    ((a, b),) = [(a, b) for a, b in zip(x[:n], x[n:], strict=True) if a != b]
    assert b == 1
    return [a]


def stack(x):
    kept = []
    for token in x[:-1]:
        if token == 2:
            kept.pop()
        else:
            kept.append(token - 4 if token > 6 else token)
    return kept


def expression(x, first, signs, m):
    """The value by Python's own arithmetic."""
    text = "".join(signs[t - 1] if t < first else str(t - first) for t in x[:-1])
    return [first + eval(text) % m]


def solution(x):
    *left, equals, right, act = x
    signs = "+-*=()?X"
    assert (signs[equals - 1], act, left.count(8)) == ("=", 7, 1)
    text = "".join(signs[t - 1] if t < 9 else str(t - 9) for t in left)
    (found,) = [value for value in range(5) if eval(text, {"X": value}) % 5 == right - 9]
    return [9 + found]


def recalled(x):
    pairs = dict(zip(x[:-2:2], x[1:-2:2], strict=True))
    assert x[-2] == 1 and len(pairs) == len(x[:-2]) // 2
    return [pairs[x[-1]]]


def closing(x):
    kept = []
    for token in x[:-1]:
        if token < 6:
            kept.append(token)
        else:
            assert kept.pop() == token - 4
    return [token + 4 for token in kept[::-1]]


def place(x):
    *_, person, _ = words = [WORDS[i] for i in x]
    return [WORDS.index([b for a, b in zip(words, words[4:]) if a == person and b in PLACES][-1])]


def things(x):
    words, held = [WORDS[i] for i in x], {}
    for person, verb, thing in zip(words, words[1:], words[3:]):
        if verb == "got":
            assert all(thing not in others for others in held.values())
            held.setdefault(person, []).append(thing)
        elif verb == "dropped":
            held[person].remove(thing)
    assert all(thing in THINGS for others in held.values() for thing in others)
    return held[words[words.index("is") + 1]]


ORACLES = {
    "parity": lambda x: [1 + x.count(2) % 2],
    "even_pairs": lambda x: [1 + sum(a != b for a, b in zip(x, x[1:])) % 2],
    "cycle_navigation": cycle,
    "majority": lambda x: [max(range(1, 64), key=x.count)],
    "majority_count": lambda x: [min(63, max(collections.Counter(x).values()))],
    "bucket_sort": lambda x: sorted(x[:-1]),
    "missing_duplicate": halves,
    "odds_first": lambda x: (
        [t for i, t in enumerate(x[:-1]) if i % 2 == 0] + [t for i, t in enumerate(x[:-1]) if i % 2]
    ),
    "repetition": lambda x: x[:-1],
    "reverse_string": lambda x: x[-2::-1],
    "stack_manipulation": stack,
    "set": lambda x: [t for i, t in enumerate(x[:-1]) if t not in x[:i]],
    "mod_arithmetic": lambda x: expression(x, 5, "+-*=", 5),
    "mod_arithmetic_brackets": lambda x: expression(x, 7, "+-*=()", 5),
    "solve_equation": solution,
    "copy": lambda x: x[:-1],
    "sorting": lambda x: sorted(x[:-1]),
    "repeat_copy": lambda x: x[:-1] * (x[-1] - 1) + [1],
    "associative_recall": recalled,
    "selective_copying": lambda x: [t for t in x[:-1] if t != 2],
    "induction": lambda x: [x[x.index(1) + 1]],
    "dyck": closing,
    "list_ops": lambda x: [DIGIT + list_ops_value([LIST_OPS[t] for t in x])],
    "where": place,
    "how_many": lambda x: [WORDS.index(["none", "one", "two", "three"][len(things(x))])],
    "which": lambda x: [WORDS.index(word) for word in things(x) or ["nothing"]],
}


def parts(row):
    """Prompt and answer of a row, read back from tokens, labels and weights."""
    n, asked = int(row["segments"].sum()), row["weights"] > 0
    assert not any(row[name][n:].any() for name in row) and row["positions"][:n].tolist() == list(range(n))
    (first, *_), last = np.flatnonzero(asked), np.flatnonzero(asked)[-1]
    assert last == n - 1 and asked[first:n].all()
    assert row["tokens"][1:n].tolist() == row["labels"][: n - 1].tolist()
    return row["tokens"][: first + 1].tolist(), row["labels"][first:n].tolist()


@pytest.mark.parametrize("task", ORACLES)
def test_answers_are_the_oracles(task):
    least, longest = TASKS[task].least, collections.Counter()
    data = SyntheticTask(task, lengths=(least, 40), test_lengths=(40, 70), T=70)
    for split, index in [(0, i) for i in range(120)] + [(1, i) for i in range(30)]:
        prompt, answer = parts(data.row(split, index))
        assert answer == ORACLES[task](prompt), (prompt, answer)
        assert PAD not in (*prompt[:-1], *answer) and max(*prompt, *answer) < data.vocabulary
        assert 2 <= len(prompt) + len(answer) <= (40, 70)[split]
        longest[split] = max(longest[split], len(prompt) + len(answer))
    assert longest[0] >= 32 and longest[1] >= 42


@pytest.mark.parametrize("task", ORACLES)
def test_the_shortest_and_every_length(task):
    for n in range(TASKS[task].least, 26):
        data = SyntheticTask(task, lengths=(n, n), test_lengths=(n, n), T=n - 1, holdout=1)
        for i in range(5):
            prompt, answer = parts(data.row(0, i))
            assert answer == ORACLES[task](prompt) and len(prompt) + len(answer) <= n
    with pytest.raises(UserError, match=rf"lengths={n},{n} of {task} must be in order, at least .* at most T \+ 1 = 5"):
        SyntheticTask(task, lengths=(n, n), T=4)
    with pytest.raises(UserError, match=f"lengths={TASKS[task].least - 1},40 of {task} must be in order, at least"):
        SyntheticTask(task, lengths=(TASKS[task].least - 1, 40))


def test_vocabularies_and_chances_are_the_papers():
    assert FORMAL.keys() == BASELINES.keys() and TASKS.keys() == ORACLES.keys() | {"othello"}
    for task, (V, classes) in BASELINES.items():
        data = SyntheticTask(task)
        assert (data.vocabulary, data.chance) == (V, 1 / classes)
        answers = {t for i in range(300) for t in parts(data.row(0, i))[1]}
        assert len(answers) <= classes and (classes > 12 or len(answers) == classes), task


def test_same_seed_same_rows_and_others_elsewhere():
    data = SyntheticTask("sorting", T=60, test_lengths=(40, 60))
    row = lambda data, *at: data.row(*at)["tokens"].tolist()
    assert row(data, 0, 7) == row(SyntheticTask("sorting", T=60, test_lengths=(40, 60)), 0, 7)
    others = [
        row(data, 0, 8),
        row(data, 1, 7),
        row(SyntheticTask("sorting", T=60, test_lengths=(40, 60), seed=1), 0, 7),
    ]
    assert row(data, 0, 7) not in others


def test_another_vocabulary():
    data = SyntheticTask("mod_arithmetic", V=12)
    numbers = {t for i in range(200) for t in parts(data.row(0, i))[1]}
    assert numbers == set(range(5, 12)) and data.chance == 1 / 7


def test_measures_are_scaled():
    data = SyntheticTask("parity")
    found = data.measures({"total": 8.0, "nll": 8.0, "weight": 16.0, "accuracy": 12.0, "rows": 16.0, "exact": 4.0})
    assert (found["accuracy"], found["scaled"], found["exact"], found["loss"]) == (0.75, 0.5, 0.25, 0.5)


@pytest.mark.parametrize(
    "wrong, line",
    [
        ({"task": "parities"}, "unknown synthetic task 'parities'.*parity"),
        ({"task": "parity", "V": 4}, "V=4 is no vocabulary of parity: leave it out for its own, 3"),
        ({"task": "set", "V": 3}, "V=3 is no vocabulary of set"),
        ({"task": "parity", "lengths": (9, 3)}, "lengths=9,3 of parity must be in order"),
        ({"task": "parity", "test_lengths": (40, 258)}, r"at most T \+ 1 = 257"),
        ({"task": "parity", "holdout": 0}, "holdout=0 must be at least 1"),
    ],
)
def test_what_cannot_be(wrong, line):
    with pytest.raises(UserError, match=line):
        SyntheticTask(**wrong)


def test_the_published_list_ops_agree(shared):
    for name in ("listops_test_d8", "listops_test_d20s"):
        path = shared / "data" / "formal" / f"{name}.tsv.gz"
        if not path.exists():
            pytest.skip(f"needs {path.name}")
        for line in gzip.decompress(path.read_bytes()).decode().splitlines()[::20]:
            value, words = line.split("\t")
            assert int(value) == list_ops_value([word for word in words.split() if word not in "()"])
