import numpy as np

from jaxlm.decode.prefix import BLOCK, PrefixCache


def piece(n=1):
    return lambda: np.zeros(n, np.uint8)


def text(*blocks):
    return [i for block in blocks for i in [block] * BLOCK]


def put(cache, *blocks):
    keys = cache.keys(text(*blocks))
    for i in range(len(keys)):
        cache.add(keys[: i + 1], piece())
    return keys


def test_keys_are_of_all_that_came_before():
    cache = PrefixCache(100)
    a, b = cache.keys(text(1, 2) + [7]), cache.keys(text(3, 2))
    assert len(a) == len(b) == 2 and not set(a) & set(b)
    assert cache.keys(text(1, 5))[0] == a[0] and cache.keys(text(1), adapter=1)[0] != a[0]


def test_the_longest_beginning_is_found():
    cache = PrefixCache(100)
    put(cache, 1, 2, 3)
    assert len(cache.find(cache.keys(text(1, 2, 9)))) == 2
    assert cache.find(cache.keys(text(2, 2))) == []
    assert (cache.asked, cache.hits) == (5, 2)


def test_the_leaf_that_was_used_least_recently_goes():
    cache = PrefixCache(4)
    a, b = put(cache, 1, 2), put(cache, 3, 4)
    cache.find(a)
    c = put(cache, 5)
    assert set(cache) == {a[0], a[1], b[0], c[0]} and cache.nbytes == 4  # 4 went, which 3 began
    d = put(cache, 6)
    assert set(cache) == {*a, *c, *d}  # and then 3, which nothing continues any more


def test_what_does_not_fit_or_has_no_parent_is_not_kept():
    cache = PrefixCache(3)
    keys = cache.keys(text(1, 2))
    cache.add(keys, piece())
    cache.add(keys[:1], piece(4))
    assert len(cache) == cache.nbytes == 0
