import itertools

import numpy as np

from jaxlm.decode import explain, plain_beam_search

WORDS = ["La", "nueva", "resolución", "de", "n", "acciones", "fue", "aprobada"]
RNG = np.random.default_rng(0)
TABLE = np.log(RNG.dirichlet(np.ones(len(WORDS)) * 0.3, len(WORDS)))  # of each word after each
PROMPT = [0, 1, 2, 3, 4, 5]


def bigram(texts_AT):
    return TABLE[texts_AT[:, -1]]


def test_enough_beams_find_the_best_of_all_texts():
    """Against every text of three more words."""
    steps = plain_beam_search(bigram, PROMPT, len(WORDS) ** 2, 3)
    total = lambda new: sum(TABLE[a, b] for a, b in itertools.pairwise([PROMPT[-1], *new]))
    every = sorted(itertools.product(range(len(WORDS)), repeat=3), key=total, reverse=True)
    np.testing.assert_array_equal(steps[-1].texts_AT[:20, len(PROMPT) :], every[:20])
    np.testing.assert_allclose(steps[-1].total_A[:20], [total(new) for new in every[:20]])


def test_one_beam_is_greedy():
    text = list(PROMPT)
    for _ in range(4):
        text.append(int(TABLE[text[-1]].argmax()))
    np.testing.assert_array_equal(plain_beam_search(bigram, PROMPT, 1, 4)[-1].texts_AT, [text])


def test_its_table():
    steps = plain_beam_search(bigram, PROMPT, 2, 2)
    table = explain(steps, lambda ids: " ".join(WORDS[i] for i in ids))
    lines = table.splitlines()
    assert len(lines) == 5
    assert all("La nueva resolución de n acciones" in line for line in lines[1:])
    last = lines[3].split(maxsplit=4)
    assert last[:3] == ["2", "1", str(steps[1].parent_A[0] + 1)]
    assert float(last[3]) == round(steps[1].total_A[0], 2)
