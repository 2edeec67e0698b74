"""Learning the merges of byte-level BPE: count pairs of neighbours, merge the most frequent pair, repeat.

Sennrich et al. 2016, "Neural machine translation of rare words with subword units", arXiv:1508.07909.
"""

import heapq
from collections import defaultdict
from collections.abc import Mapping

from jaxlm.errors import UserError
from jaxlm.text.counts import Progress
from jaxlm.text.readable.bpe_story import Merge

Heap = list[tuple[int, str]]  # (minus how often, pair): the smallest entry is the pair to merge


def learn(counts: Mapping[str, int], alphabet: Mapping[bytes, int], V: int, progress: Progress | None) -> list[Merge]:
    """The merges that make the ids from those of the 256 bytes, the last ones taken so far, up to `V` - 1.

        pair = argmax over pairs x y of sum over words of count(word) * occurrences of x y in word

    Of pairs seen equally often the one with the smaller ids is merged first, as in the `tokenizers` library. No two
    merges make the same token: `tiktoken.ranks_to_json` says why.

    A word is kept as a string whose characters are its tokens, `chr(id)`, so merging is `str.replace`. A merge changes
    only the words that hold its pair: an index finds them, and the totals are corrected by what the words held before
    and hold after.

    Raises:
        UserError: the words have nothing left to merge before `V` is reached.
    """
    pieces = {chr(i): piece for piece, i in alphabet.items()}
    table = {piece[0]: chr(i) for piece, i in alphabet.items()}
    words = [word.encode().decode("latin-1").translate(table) for word in counts]
    times = list(counts.values())

    totals: dict[str, int] = defaultdict(int)
    where: dict[str, list[int]] = defaultdict(list)  # the words that hold a pair, or held it once
    for at, (word, n) in enumerate(zip(words, times)):
        for pair in _pairs(word):
            totals[pair] += n
            where[pair].append(at)
    heap = [(-total, pair) for pair, total in totals.items()]
    heapq.heapify(heap)

    merges: list[Merge] = []
    first = 1 + max(alphabet.values())
    for i in range(first, V):
        pair = _most_frequent(heap, totals)
        if pair is None:
            raise UserError(f"V={V} is more than this text supports: use at most {i}, or more text")
        merges.append(Merge(pieces[pair[0]], pieces[pair[1]], totals[pair]))
        made = chr(i)
        pieces[made] = pieces[pair[0]] + pieces[pair[1]]
        new_pairs = set()
        for at in where.pop(pair):
            before, n = words[at], times[at]
            words[at] = after = before.replace(pair, made)
            if after == before:
                continue
            for old in _pairs(before):
                totals[old] -= n
            for new in _pairs(after):
                totals[new] += n
                if made in new:
                    where[new].append(at)
                    new_pairs.add(new)
        for new in new_pairs:
            heapq.heappush(heap, (-totals[new], new))
        if progress:
            progress(i + 1 - first, V - first, "merges")
    return merges


def _pairs(word: str) -> map:
    return map(str.__add__, word, word[1:])


def _most_frequent(heap: Heap, totals: Mapping[str, int]) -> str | None:
    """The pair to merge, or None. Totals only fall once a pair is in the heap, so an entry is checked when it is up."""
    while heap:
        total, pair = heapq.heappop(heap)
        if totals[pair] == -total:
            return pair
        if totals[pair] > 0:
            heapq.heappush(heap, (-totals[pair], pair))
    return None
