"""Regular expressions as users write them, read into expressions over bytes.

Understood: characters, `.`, classes, groups, `|`, `* + ? {m,n}` (lazy ones are the same language), `\\d \\w \\s` and
their opposites, `\\xhh \\uhhhh`, and `^ $` at the ends. `\\d`, `\\w`, `\\s`, `\\D` and `\\W` are ASCII, so that what is
written matches whichever meaning a checker gives them. Refused: lookaround, back-references, `\\b`, `\\p`, flags.
"""

from collections.abc import Callable

from jaxlm import arguments
from jaxlm.decode.constrained import characters as ch
from jaxlm.decode.constrained.expressions import EMPTY, Expression, either, repeat, then
from jaxlm.errors import UserError

MOST = 10_000  # repetitions
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "0": "\0", "a": "\a"}
UNICODE_SPACE = ch.ranges(
    *ch.SPACE, (0x1C, 0x1F), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A),
    *((0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)),
)  # fmt: skip
SETS = {
    "d": (ch.DIGITS,),
    "w": ch.WORD,
    "s": ch.SPACE,
    "D": ch.without(ch.ASCII, (ch.DIGITS,)),
    "W": ch.without(ch.ASCII, ch.WORD),
    "S": ch.without(ch.ANY, UNICODE_SPACE),
}


def regex(pattern: str, encode: Callable[[ch.Ranges], Expression] = ch.utf8, whole: bool = True) -> Expression:
    """The expression of a pattern whose characters `encode` writes; unless `whole`, anything may stand before and
    behind what `^` and `$` do not hold. Raises UserError for what is not understood, with its place."""
    return _Reader(arguments.text(pattern, "a regular expression"), encode, whole).read()


class _Reader:
    def __init__(self, pattern: str, encode: Callable[[ch.Ranges], Expression], whole: bool):
        self.text, self.encode, self.whole, self.at = pattern, encode, whole, 0

    def read(self) -> Expression:
        try:
            found = self.alternatives(top=True)
        except RecursionError:
            raise self.wrong("is nested too deeply") from None
        if self.at < len(self.text):
            raise self.wrong("has a ) without a (")
        return found

    def wrong(self, what: str) -> UserError:
        return UserError(f"the regular expression {self.text!r:.80} {what} (at character {self.at + 1})")

    def next(self, word: str) -> bool:
        """Whether this comes next, and past it."""
        found = self.text.startswith(word, self.at)
        self.at += len(word) * found
        return found

    def alternatives(self, top: bool = False) -> Expression:
        found = [self.sequence(top)]
        while self.next("|"):
            found.append(self.sequence(top))
        return either(*found)

    def sequence(self, top: bool) -> Expression:
        """One alternative; at the top level `^` and `$` may hold its ends."""
        anything = EMPTY if self.whole or not top else repeat(self.encode(ch.ANY))
        before, after, parts = anything, anything, []
        while top and self.next("^"):
            before = EMPTY
        while self.at < len(self.text) and self.text[self.at] not in "|)":
            if top and self.next("$"):
                after = EMPTY
                if self.at < len(self.text) and self.text[self.at] not in "|$":
                    raise self.wrong("has a $ that is not at its end")
                continue
            parts.append(self.repeated())
        return then(before, *parts, after)

    def repeated(self) -> Expression:
        one, first = self.one(), True
        while self.at < len(self.text) and (counts := self.counts()):
            if not first:
                raise self.wrong("repeats a repetition: put the first in parentheses")
            self.next("?")
            if self.next("+"):
                raise self.wrong("has a possessive repetition, which is not understood")
            one, first = repeat(one, *counts), False
        return one

    def counts(self) -> tuple[int, int | None] | None:
        for mark, counts in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self.next(mark):
                return counts
        end = self.text.find("}", self.at)
        low, comma, high = self.text[self.at + 1 : max(end, self.at)].partition(",")
        inside = low + high
        if self.text[self.at] != "{" or end < 0 or not low or not (inside.isascii() and inside.isdigit()):
            return None
        self.at = end + 1
        least = int(low)
        most = least if not comma else int(high) if high else None
        if max(least, most or 0) > MOST:
            raise self.wrong(f"repeats more than {MOST:,} times")
        if most is not None and most < least:
            raise self.wrong("repeats at most fewer times than at least")
        return least, most

    def one(self) -> Expression:
        c = self.text[self.at]
        if self.next("("):
            return self.group()
        if self.next("["):
            return self.encode(self.set())
        if self.next("."):
            return self.encode(ch.without(ch.ANY, ch.characters("\n\r\u2028\u2029")))
        if c == "\\":
            return self.encode(self.escape())
        if c in "*+?":
            raise self.wrong("repeats nothing")
        if c in "^$":
            raise self.wrong(f"has a {c} that is not at its end")
        self.at += 1
        return self.encode(ch.characters(c))

    def group(self) -> Expression:
        if self.next("?"):
            name = self.next("P<") or (self.text[self.at : self.at + 1] == "<" and self.next("<"))
            if name and self.text[self.at : self.at + 1] not in ("=", "!"):
                self.at = self.text.find(">", self.at) + 1 or len(self.text)
            elif name or not self.next(":"):
                raise self.wrong("looks around or sets flags, which is not understood")
        found = self.alternatives()
        if not self.next(")"):
            raise self.wrong("has a ( without a )")
        return found

    def escape(self) -> ch.Ranges:
        self.at += 1
        c = self.text[self.at : self.at + 1]
        self.at += 1
        if c in SETS and c:
            return SETS[c]
        if c in ESCAPES and c:
            return ch.characters(ESCAPES[c])
        digits = {"x": 2, "u": 4}.get(c)
        if digits:
            code, closed = self.text[self.at : self.at + digits], 0
            if c == "u" and self.next("{"):
                code, closed = self.text[self.at : self.text.find("}", self.at)], 1
            try:
                found = int(code, 16)
                chr(found).encode()
            except (ValueError, OverflowError):
                raise self.wrong(f"has a \\{c} without the digits of a character") from None
            self.at += len(code) + closed
            return ((found, found),)
        if not c or c.isalnum():
            raise self.wrong(f"has \\{c}, which is not understood")
        return ch.characters(c)

    def set(self) -> ch.Ranges:
        opposite, found, first = self.next("^"), [], True
        while not self.next("]") or first:
            if self.at >= len(self.text):
                raise self.wrong("has a [ without a ]")
            if first and self.text[self.at - 1] == "]":
                raise self.wrong("has an empty [], or a ] that needs a backslash")
            first = False
            low = self.member()
            ahead = self.text[self.at : self.at + 2]
            if ahead[:1] == "-" and ahead[1:] not in ("", "]") and len(low) == 1 and low[0][0] == low[0][1]:
                self.at += 1
                high = self.member()
                if len(high) != 1 or high[0][0] != high[0][1] or high[0][0] < low[0][0]:
                    raise self.wrong("has a range that ends before it begins")
                low = ((low[0][0], high[0][0]),)
            found += low
        together = ch.ranges(*found)
        return ch.without(ch.ANY, together) if opposite else together

    def member(self) -> ch.Ranges:
        c = self.text[self.at]
        if c == "\\":
            if self.text[self.at + 1 : self.at + 2] == "b":
                self.at += 2
                return ch.characters("\b")
            return self.escape()
        self.at += 1
        return ch.characters(c)
