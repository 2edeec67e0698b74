from types import SimpleNamespace

import numpy as np

from jaxlm.api import words
from jaxlm.api.words import warped, word_times, words_of

RNG = np.random.default_rng(0)


def every_path(t, s):
    """All ways from (0, 0) to (t, s) by steps to the right, down, or both."""
    if t < 0 or s < 0:
        return
    if t == s == 0:
        yield [(0, 0)]
    for before in ((t - 1, s - 1), (t - 1, s), (t, s - 1)):
        for path in every_path(*before):
            yield [*path, (t, s)]


def test_the_path_is_the_cheapest_of_all():
    for shape in ((4, 5), (3, 6), (5, 3)):
        cost = RNG.normal(size=shape)
        best = min(every_path(shape[0] - 1, shape[1] - 1), key=lambda path: sum(cost[at] for at in path))
        np.testing.assert_array_equal(warped(cost), [min(s for t, s in best if t == row) for row in range(shape[0])])


def test_words():
    pieces = {1: " no", 2: "che", 3: ",", 4: " 3", 5: "\N{REPLACEMENT CHARACTER}", 6: "", 7: " el"}
    say = lambda ids: " ñ" if list(ids) == [5, 6] else "".join(pieces[i] for i in ids)
    found = words_of([1, 2, 3, 4, 5, 6, 7], say)
    assert found == [(" noche,", [1, 2, 3]), (" 3", [4]), (" ñ", [5, 6]), (" el", [7])]
    assert words_of([1, 2, 3, 7], say, apart=True) == [(" no", [1]), ("che,", [2, 3]), (" el", [7])]
    assert words_of([1, 5], say) == [(" no", [1]), ("\N{REPLACEMENT CHARACTER}", [5])]


def test_times_follow_what_is_read(monkeypatch):
    """Planted weights: the token before each one reads where that one is said."""
    begin, ids, end, length = [90, 91], [1, 2, 3], 99, 2.0
    said = [10, 10, 40, 55, 80]  # positions of 0.02 s, of the rows 90, 91, 1, 2, 3

    def planted(config, heads, params, ids_BT, features):
        assert heads == ((0, 1),) and ids_BT.shape[1] == words.BUCKET and ids_BT[0, :6].tolist() == [*begin, *ids, end]
        w = np.full((1, words.BUCKET, 150), 1e-3)
        for row, at in enumerate(said):
            w[0, row, at : at + 15] = 1
        return w

    monkeypatch.setattr(words, "_weights", planted)
    m = SimpleNamespace(
        special=SimpleNamespace(end=end),
        alignment_heads=((0, 1),),
        config=None,
        params=None,
        say_ids=lambda ids: f" w{ids[0]}",
    )
    found = word_times(m, np.zeros((1, 5, 300)), begin, ids, length, False)
    assert [w.text for w in found] == [" w1", " w2", " w3"]
    np.testing.assert_allclose([w.start for w in found], [0, 0.8, 1.1], atol=0.05)
    np.testing.assert_allclose([w.end for w in found], [0.8, 1.1, 1.6], atol=0.05)
