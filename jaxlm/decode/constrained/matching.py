"""Which tokens may come next: an expression over bytes, walked by all tokens of a vocabulary at once."""

from collections import OrderedDict

import numpy as np

from jaxlm.decode.constrained.expressions import NOTHING, Expression
from jaxlm.errors import UserError
from jaxlm.text import Tokenizer

KEPT = 256  # states whose tokens are remembered


class Vocabulary:
    """The bytes of every token of a tokenizer, special ones having none, and the ids that end a text."""

    def __init__(self, tokenizer: Tokenizer, stops: tuple[int, ...] | None = None):
        without = {*tokenizer.specials, tokenizer.unk, *(stops or ())}
        pieces = [b"" if i in without else bytes(tokenizer.pieces[i]) for i in range(tokenizer.V)]
        self.V = len(pieces)
        self.lengths_V = np.array([len(piece) for piece in pieces])
        self.bytes_VL = np.zeros((self.V, int(self.lengths_V.max(initial=1))), np.uint8)
        for row, piece in zip(self.bytes_VL, pieces):
            row[: len(piece)] = np.frombuffer(piece, np.uint8)
        self.stops = tuple(i for i in (tokenizer.stops if stops is None else stops) if i < self.V)
        if not self.stops:
            raise UserError("a constraint needs a tokenizer with an end token: give one as stop")
        single = {piece[0] for piece in pieces if len(piece) == 1}
        if absent := [chr(byte) for byte in range(32, 127) if byte not in single]:
            raise UserError(
                f"a constraint needs a tokenizer with every ASCII character as a token, this one lacks {absent[0]!r}"
            )


class Automaton:
    """States and the tokens between them, found when they are first needed.

    `shortest` of a state is how many bytes the shortest end takes, and no more tokens than that are needed, as every
    byte is one.
    """

    def __init__(self, expression: Expression, vocabulary: Vocabulary):
        self.vocabulary = vocabulary
        self.states: list[Expression] = []
        self.ids: dict[Expression, int] = {}
        self.table = np.zeros((64, 256), np.int32)
        self.filled = np.zeros(64, bool)
        self.after: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        assert self.state(NOTHING) == 0
        self.first = self.state(expression)

    def state(self, expression: Expression) -> int:
        found = self.ids.get(expression)
        if found is None:
            found = self.ids[expression] = len(self.states)
            self.states.append(expression)
            if found >= len(self.table):
                self.table = np.concatenate([self.table, np.zeros_like(self.table)])
                self.filled = np.concatenate([self.filled, np.zeros_like(self.filled)])
        return found

    def fill(self, states: np.ndarray) -> None:
        """Table rows of these states: the state after each byte, 0 where nothing may follow."""
        for state in states[~self.filled[states]].tolist():
            row = np.zeros(256, np.int32)
            for mask in self.states[state].classes:
                after = self.states[state].step((mask & -mask).bit_length() - 1)
                if after is not NOTHING and after.shortest != float("inf"):
                    bits = np.unpackbits(np.frombuffer(mask.to_bytes(32, "little"), np.uint8), bitorder="little")
                    row[bits.astype(bool)] = self.state(after)
            self.table[state], self.filled[state] = row, True

    def tokens(self, state: int) -> tuple[np.ndarray, np.ndarray]:
        """The state after each token, 0 where it may not come, and the bytes needed then, (V,) each."""
        if state in self.after:
            self.after.move_to_end(state)
            return self.after[state]
        v = self.vocabulary
        after_V = np.where(v.lengths_V > 0, state, 0).astype(np.int32)
        live = np.flatnonzero(after_V)
        for at in range(v.bytes_VL.shape[1]):
            if not len(live):
                break
            self.fill(np.unique(after_V[live]))
            after_V[live] = self.table[after_V[live], v.bytes_VL[live, at]]
            live = live[(after_V[live] > 0) & (v.lengths_V[live] > at + 1)]
        needed = {int(one): self.states[one].shortest for one in np.unique(after_V)}
        needed_V = np.zeros(v.V, np.float32)
        for one, length in needed.items():
            needed_V[after_V == one] = length
        self.after[state] = after_V, needed_V
        if len(self.after) > KEPT:
            self.after.popitem(last=False)
        return self.after[state]


class Matcher:
    """One text that is being written: which tokens may come, and what came."""

    def __init__(self, automaton: Automaton):
        self.automaton, self.state, self.ended = automaton, automaton.first, False

    @property
    def accepting(self) -> bool:
        """Whether the text may end here."""
        return self.ended or self.automaton.states[self.state].nullable

    def allowed(self, left: int | None = None) -> np.ndarray:
        """bool (V,) of the tokens that may come next, end tokens where the text may end; with `left` more tokens, that
        one included, only those after which it can still be ended. After the end all are."""
        v = self.automaton.vocabulary
        if self.ended:
            return np.ones(v.V, bool)
        after_V, needed_V = self.automaton.tokens(self.state)
        found_V = after_V > 0
        if left is not None:
            found_V = found_V & (needed_V + 2 <= left)
        found_V[list(v.stops)] = self.accepting
        if not found_V.any():
            raise UserError("the tokens of this tokenizer cannot spell what the constraint asks for")
        return found_V

    def advance(self, token: int) -> None:
        """Go on after this token. Raises UserError for one that may not come."""
        if self.ended or token < 0:
            return
        if token in self.automaton.vocabulary.stops and self.accepting:
            self.ended = True
            return
        after = int(self.automaton.tokens(self.state)[0][token]) if token < self.automaton.vocabulary.V else 0
        if not after:
            raise UserError(f"token {token} does not fit the constraint here")
        self.state = after


def packed(allowed_V: np.ndarray, V: int) -> np.ndarray:
    """The bits of a mask as uint32 (V / 32 rounded up,), bit i of word i // 32 being token i's."""
    found = np.zeros(-(-V // 32) * 32, bool)
    found[: len(allowed_V)] = allowed_V
    return np.packbits(found, bitorder="little").view("<u4").astype(np.uint32)
