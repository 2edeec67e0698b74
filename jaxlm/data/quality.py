"""Filters of training texts: rules with names, so that what each took away can be counted.

The rules and bounds are those of Gopher (Rae et al. 2021, arXiv:2112.11446, table A1) and C4 (Raffel et al. 2020).
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterable

from jaxlm.data.language import COMMON, language
from jaxlm.errors import UserError, unknown

Rule = Callable[[str, list[str]], bool]  # text and words -> whether it stays


def _share(count: int, of: int) -> float:
    return count / of if of else 0.0


def _repeated(parts: list[str]) -> float:
    return _share(len(parts) - len(set(parts)), len(parts))


def _common_gram(words: list[str], n: int) -> float:
    """The share of characters in the most frequent n-gram."""
    grams = Counter(zip(*(words[i:] for i in range(n))))
    if not grams:
        return 0.0
    gram, times = grams.most_common(1)[0]
    return _share(sum(map(len, gram)) * times, sum(map(len, words))) if times > 1 else 0.0


RULES: dict[str, Rule] = {
    "words": lambda text, words: 50 <= len(words) <= 100_000,
    "word length": lambda text, words: 3 <= _share(sum(map(len, words)), len(words)) <= 10,
    "symbols": lambda text, words: _share(text.count("#") + text.count("..."), len(words)) <= 0.1,
    "bullets": lambda text, words: _of_lines(text, lambda line: line[:1] in "-*•") <= 0.9,
    "ellipses": lambda text, words: _of_lines(text, lambda line: line.endswith(("...", "…"))) <= 0.3,
    "letters": lambda text, words: _share(sum(any(c.isalpha() for c in word) for word in words), len(words)) >= 0.8,
    "common words": lambda text, words: any(
        len({word.lower() for word in words} & set(common.split())) >= 2 for common in COMMON.values()
    ),
    "repeated lines": lambda text, words: _repeated([line for line in text.splitlines() if line.strip()]) <= 0.3,
    "repeated paragraphs": lambda text, words: _repeated([p for p in text.split("\n\n") if p.strip()]) <= 0.3,
    "repeated bigrams": lambda text, words: _common_gram(words, 2) <= 0.2,
    "repeated trigrams": lambda text, words: _common_gram(words, 3) <= 0.18,
    "lorem ipsum": lambda text, words: "lorem ipsum" not in text.lower(),
    "damaged text": lambda text, words: _share(text.count("\ufffd"), len(text)) <= 0.001,
}


def _of_lines(text: str, test: Callable[[str], bool]) -> float:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return _share(sum(map(test, lines)), len(lines))


@dataclasses.dataclass
class Filter:
    """`rules`: names of RULES; `languages`: codes that stay, all where empty. `dropped` counts by the first rule that a
    text broke. Raises UserError for an unknown rule."""

    rules: tuple[str, ...] = tuple(RULES)
    languages: tuple[str, ...] = ()
    dropped: Counter = dataclasses.field(default_factory=Counter)
    kept: int = 0

    def __post_init__(self):
        for name in self.rules:
            if name not in RULES:
                raise unknown("rule", name, RULES)

    def broken(self, text: str) -> str | None:
        """The first rule that the text breaks, and counts it."""
        words = text.split()
        name = next((name for name in self.rules if not RULES[name](text, words)), None)
        if name is None and self.languages and language(text) not in self.languages:
            name = "language"
        if name is None:
            self.kept += 1
        else:
            self.dropped[name] += 1
        return name


# Personal data ---------------------------------------------------------------------------------------------------


def _luhn(text: str) -> bool:
    """The check of card numbers: digits from the right, each second one doubled, sum to a multiple of 10."""
    digits = [int(c) for c in text if c.isdigit()]
    doubled = [d if i % 2 == 0 else sum(divmod(2 * d, 10)) for i, d in enumerate(reversed(digits))]
    return 13 <= len(digits) <= 19 and sum(doubled) % 10 == 0


def _dni(text: str) -> bool:
    """Spain's identity numbers: the letter is that of the number modulo 23."""
    text = text.upper().replace("-", "").replace(" ", "")
    number = text[:-1].replace("X", "0", 1).replace("Y", "1", 1).replace("Z", "2", 1)
    return number.isdigit() and "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == text[-1]


def _iban(text: str) -> bool:
    text = text.replace(" ", "").upper()
    return int("".join(str(int(c, 36)) for c in text[4:] + text[:4])) % 97 == 1


def _ip(text: str) -> bool:
    return all(int(part) < 256 for part in text.split("."))


def _phone(text: str) -> bool:
    return 9 <= sum(c.isdigit() for c in text) <= 15


PERSONAL: dict[str, tuple[re.Pattern, Callable[[str], bool]]] = {
    "email": (re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b"), lambda text: True),
    "iban": (re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b"), _iban),
    "card": (re.compile(r"\b\d(?:[ -]?\d){12,18}\b"), _luhn),
    "ip": (re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}\b"), _ip),
    "dni": (re.compile(r"\b(?:\d{8}|[XYZxyz]-?\d{7})[- ]?[A-Za-z]\b"), _dni),
    "ssn": (re.compile(r"\b(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}\b"), lambda text: True),
    "phone": (re.compile(r"(?<![\w.])(?:\+|00)?\(?\d{2,4}\)?(?:[ .-]?\d{2,4}){2,4}(?![\w.-]\d)\b"), _phone),
}


def scrub(text: str, kinds: Iterable[str] = tuple(PERSONAL)) -> tuple[str, Counter]:
    """The text with personal data as <EMAIL>, <IBAN>, <CARD>, <IP>, <DNI>, <SSN>, <PHONE>, and how many of each.

    By patterns and their check digits: names and addresses are not found. Raises UserError for an unknown kind.
    """
    found: Counter = Counter()
    for kind in kinds:
        if kind not in PERSONAL:
            raise unknown("kind of personal data", kind, PERSONAL)
        pattern, check = PERSONAL[kind]

        def hide(match: re.Match, kind: str = kind, check: Callable[[str], bool] = check) -> str:
            if not check(match[0]):
                return match[0]
            found[kind] += 1
            return f"<{kind.upper()}>"

        text = pattern.sub(hide, text)
    return text, found


# Contamination ---------------------------------------------------------------------------------------------------


class Contamination:
    """Which evaluation items a training set has seen: an item is contaminated where at least `share` of its runs of
    `n` words stand in one training text (Brown et al. 2020 take n = 13). Items of less than n words count as one run.
    """

    def __init__(self, items: Iterable[str], n: int = 13, share: float = 0.5):
        self.n, self.share, self.items = n, share, list(items)
        if not self.items:
            raise UserError("there are no evaluation items to look for")
        self._runs: dict[int, list[int]] = {}
        self._count: list[int] = []
        self.overlap: list[float] = []
        self.where: list[str] = []
        lengths = set()
        for i, item in enumerate(self.items):
            words = self._words(item)
            size = min(n, max(1, len(words)))
            lengths.add(size)
            runs = set(self._hashes(words, size))
            self._count.append(len(runs))
            self.overlap.append(0.0)
            self.where.append("")
            for run in runs:
                self._runs.setdefault(run, []).append(i)
        self._lengths = sorted(lengths)

    @staticmethod
    def _words(text: str) -> list[str]:
        return re.findall(r"\w+", text.lower())

    @staticmethod
    def _hashes(words: list[str], n: int) -> list[int]:
        return [hash((n, *words[i : i + n])) for i in range(len(words) - n + 1)]

    def look(self, text: str, name: str = "") -> None:
        """Looks into one training text."""
        words, hits = self._words(text), Counter()
        for n in self._lengths:
            for run in set(self._hashes(words, n)):
                hits.update(self._runs.get(run, ()))
        for i, count in hits.items():
            share = count / self._count[i]
            if share > self.overlap[i]:
                self.overlap[i], self.where[i] = share, name

    @property
    def contaminated(self) -> list[int]:
        return [i for i, share in enumerate(self.overlap) if share >= self.share]
