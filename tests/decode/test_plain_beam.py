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
    """Of "La nueva resolución de n acciones" + un, y, en, and what may follow these: of three beams the best totals are
    0.48 x 0.99, 0.04 x 0.21 and 0.03 x 0.13."""
    text = ("La nueva resol ución de n acciones", " un", " y", " en", "idas", "ific", " pue", "g", " la", " conflic")
    chances = {0: {1: 0.48, 2: 0.04, 3: 0.03}, 1: {4: 0.99, 5: 0.004}, 2: {6: 0.21, 7: 0.07}, 3: {8: 0.13, 9: 0.05}}

    def logprobs(texts_AT):
        rest = lambda told: (1 - sum(told.values())) * 1e-3
        return np.log([[chances[t].get(i, rest(chances[t])) for i in range(len(text))] for t in texts_AT[:, -1]])

    steps = plain_beam_search(logprobs, [0], 3, 2)
    np.testing.assert_allclose(np.exp(steps[0].total_A), [0.48, 0.04, 0.03])
    np.testing.assert_allclose(np.exp(steps[1].total_A), [0.4752, 0.0084, 0.0039])
    assert explain(steps, lambda ids: "".join(text[i] for i in ids)).splitlines() == [
        "step  beam  from   total  text",
        "   1     1     -   -0.73  La nueva resol ución de n acciones un",
        "   1     2     -   -3.22  La nueva resol ución de n acciones y",
        "   1     3     -   -3.51  La nueva resol ución de n acciones en",
        "   2     1     1   -0.74  La nueva resol ución de n acciones unidas",
        "   2     2     2   -4.78  La nueva resol ución de n acciones y pue",
        "   2     3     3   -5.55  La nueva resol ución de n acciones en la",
    ]
