"""What one rendering may spend: time and memory in one currency, near enough a byte made or a few nanoseconds."""

from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from sys import getsizeof
from typing import Any, NoReturn

BASE = 32_000_000  # what any template may spend: about a second, and a third of 100 MB alive at once
EACH = 128  # and for each byte of the conversation: templates read a message a few times over
SHARE = 8  # no single value may take more than this part of the whole
LONGEST_BITS = 16_384  # of an integer

_HUGE = 2**60  # from a little above, integers can share one hash, and looking them up takes as long as there are many
_CONTAINERS = (list, tuple, dict)
_NUMBERS = (int, float)
_VIEWS = (ItemsView, KeysView, ValuesView)


class TooMuch(Exception):
    """The template loops too long or makes too much text."""

    def __init__(self) -> None:
        super().__init__("stopped: it loops too long, or makes too much, for a conversation of this size")


class Budget:
    """Counts down from an allowance that grows with the conversation, `size` in bytes; below zero the template stops.

    Three prices. What is *made* costs its own size, so all that is alive together is bounded. What is *read* whole
    (compared, searched, written out) costs its weight: its size with everything in it, which can be far more than the
    memory it takes, because `{% set a = [a, a] %}` repeated 50 times is 50 short lists that write out as 2^50. And each
    pass through a loop or a macro costs what `toll.py` counted in its body.
    """

    def __init__(self, size: int) -> None:
        self.left = BASE + EACH * size
        self.most = self.left // SHARE
        self.depth = 0  # of macros that call macros
        self._weights: dict[int, tuple[Any, int]] = {}  # by id; holding the value keeps its id from being reused

    def spend(self, cost: int) -> None:
        """Takes `cost` away, best before the work is done. Raises TooMuch where there is not enough."""
        if not 0 <= cost <= self.most or cost > self.left:  # written so that what is not a number stops too
            self.stop()
        self.left -= cost

    def stop(self) -> NoReturn:
        """Raises TooMuch, now and whenever something is spent: whoever caught it cannot go on either."""
        self.left = -1
        raise TooMuch

    def made(self, value: Any) -> Any:
        """Pays for a new value alone, without what it refers to, and returns it."""
        if isinstance(value, str):
            self.spend(getsizeof(value))
        elif isinstance(value, _CONTAINERS):
            self.spend(128 + 64 * len(value))
        elif isinstance(value, int):
            if value.bit_length() > LONGEST_BITS:
                raise OverflowError("a number is too large")
            self.spend(32)
        else:
            self.spend(400)
        return value

    def weight(self, value: Any) -> int:
        """The size of a value and of everything in it, each occurrence counted; each container is looked at once."""
        if isinstance(value, str):
            return getsizeof(value)
        if value is None or isinstance(value, _NUMBERS):
            return 32 if value is None or -_HUGE < value < _HUGE else 4096
        if isinstance(value, range):
            return len(value) * max(self.weight(value.start), self.weight(value.stop))
        if isinstance(value, _VIEWS):
            return 64 + sum(map(self.weight, value))
        if not isinstance(value, _CONTAINERS):
            return 64
        known = self._weights.get(id(value))
        if known is None:
            parts = sum(map(self.weight, value))
            if isinstance(value, dict):
                parts += sum(map(self.weight, value.values()))
            known = self._weights[id(value)] = value, 64 + 8 * len(value) + parts
        return known[1]

    def counted(self, values: Iterator[Any]) -> Iterator[Any]:
        """The same values, each paid for when it is drawn."""
        for value in values:
            yield self.made(value)
