"""How often each word occurs in a text of any size, in bounded memory."""

from collections import Counter
from collections.abc import Callable, Iterable

from jaxlm.errors import UserError
from jaxlm.text.base import utf8

MOST = 500_000  # distinct words kept when memory runs short: about 100 bytes each
LONGEST = 256  # characters: longer runs, such as text without spaces, are counted in parts

Progress = Callable[[int, int | None, str], None]  # (done, of how many or None, unit)


def count_words(texts: Iterable[str], words: Callable[[str], list[str]], most: int = MOST) -> Counter[str]:
    """The words of all `texts` with their counts, in the order of first appearance.

    `words` cuts one text into words. When there are more than twice `most` distinct words, the rarest are forgotten: a
    word that comes back begins at zero, so counts of rare words are lower bounds (Manku and Motwani 2002, "Approximate
    frequency counts over data streams").

    Raises:
        UserError: a text holds a lone surrogate, or `texts` is one text.
    """
    if isinstance(texts, str):
        raise UserError("texts to learn from are a list of texts, not one: put it into a list")
    counts: Counter[str] = Counter()
    for text in texts:
        utf8(text)  # refuses lone surrogates
        for word in (found := words(text)):
            if len(word) > LONGEST:
                found = [part for word in found for part in _parts(word)]
                break
        counts.update(found)
        if len(counts) > 2 * most:
            counts = Counter(dict(counts.most_common(most)))
    return counts


def _parts(word: str) -> list[str]:
    return [word[at : at + LONGEST] for at in range(0, len(word), LONGEST)]
