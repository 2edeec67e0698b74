"""What a generated text may be: one of some choices, what a regular expression matches, JSON of a schema, a grammar.

compiled = JsonSchema({"type": "object", ...}).compile(tokenizer)     # UserError, before anything is decoded
matcher = compiled.matcher()                                         # of one text
matcher.allowed(left)    matcher.advance(token)    matcher.accepting    matcher.ended
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from jaxlm import arguments
from jaxlm.decode.constrained import characters
from jaxlm.decode.constrained.expressions import Expression
from jaxlm.decode.constrained.matching import Automaton, Matcher, Vocabulary
from jaxlm.decode.constrained.regex import regex
from jaxlm.decode.constrained.schema import schema
from jaxlm.errors import UserError
from jaxlm.text import Tokenizer


class Matching(Protocol):
    """One text that is being written. `Matcher` says what each is."""

    ended: bool

    @property
    def accepting(self) -> bool: ...

    def allowed(self, left: int | None = None) -> np.ndarray: ...

    def advance(self, token: int) -> None: ...


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A constraint for one tokenizer. `needed` is the least number of tokens that surely suffices, the end included."""

    matcher: Callable[[], Matching]
    stops: tuple[int, ...]
    needed: int = 1

    def check(self, max_new_tokens: int) -> None:
        if max_new_tokens < self.needed:
            raise UserError(f"what the constraint asks for may need {self.needed} tokens, more than {max_new_tokens}")


class Constraint:
    """The base: a language of texts."""

    def expression(self) -> Expression:
        """Of the bytes of its texts."""
        raise NotImplementedError

    def compile(self, tokenizer: Tokenizer, stops: tuple[int, ...] | None = None) -> Compiled:
        """For texts of these tokens that end with one of `stops`, or the tokenizer's. Raises UserError for a tokenizer
        that has not every ASCII character, and for a constraint that nothing satisfies."""
        return _compiled(self, tokenizer, stops)


@functools.lru_cache(maxsize=32)
def _compiled(constraint: Constraint, tokenizer: Tokenizer, stops: tuple[int, ...] | None) -> Compiled:
    vocabulary, expression = _vocabulary(tokenizer, stops), constraint.expression()
    if expression.shortest == float("inf"):
        raise UserError("no text satisfies the constraint")
    automaton = Automaton(expression, vocabulary)
    return Compiled(functools.partial(Matcher, automaton), vocabulary.stops, int(expression.shortest) + 1)


@functools.lru_cache(maxsize=4)
def _vocabulary(tokenizer: Tokenizer, stops: tuple[int, ...] | None) -> Vocabulary:
    return Vocabulary(tokenizer, stops)


@dataclasses.dataclass(frozen=True)
class Regex(Constraint):
    """Texts that match a regular expression as a whole; `constrained.regex` says what it may hold."""

    pattern: str

    def __post_init__(self):
        regex(self.pattern)

    def expression(self) -> Expression:
        return regex(self.pattern)


@dataclasses.dataclass(frozen=True)
class Choices(Constraint):
    """One of these texts."""

    texts: Sequence[str]

    def __post_init__(self):
        texts = tuple(arguments.texts(self.texts, "choices"))
        if not texts or "" in texts:
            raise UserError("choices must be texts that are not empty, at least one of them")
        object.__setattr__(self, "texts", texts)

    def expression(self) -> Expression:
        return characters.words(self.texts)


@dataclasses.dataclass(frozen=True)
class JsonSchema(Constraint):
    """JSON that satisfies a schema (a dict or its text); `constrained.schema` says what it may hold. {} is any JSON."""

    schema: Mapping[str, Any] | str

    def __post_init__(self):
        schema(self.schema)
        if not isinstance(self.schema, str):
            object.__setattr__(self, "schema", json.dumps(self.schema))

    def expression(self) -> Expression:
        return schema(self.schema)


@dataclasses.dataclass(frozen=True)
class Grammar(Constraint):
    """A context-free grammar in llguidance's form of Lark, by that library (the extra `constrained`). It does not know
    how many tokens are left, so a text may reach the limit before it is complete."""

    lark: str

    def __post_init__(self):
        arguments.text(self.lark, "a grammar")

    def compile(self, tokenizer: Tokenizer, stops: tuple[int, ...] | None = None) -> Compiled:
        try:
            import llguidance  # pyright: ignore[reportMissingImports]
        except ModuleNotFoundError:
            raise UserError("a grammar needs llguidance: pip install 'jaxlm[constrained]'") from None
        grammar = llguidance.LLMatcher.grammar_from_lark(self.lark)
        stops = tokenizer.stops if stops is None else stops
        if not stops:
            raise UserError("a constraint needs a tokenizer with an end token: give one as stop")
        library = _library(tokenizer, stops)
        if error := llguidance.LLMatcher.validate_grammar(grammar, library):
            raise UserError(f"the grammar is not understood: {error}")
        matcher = lambda: LibraryMatcher(llguidance.LLMatcher(library, grammar), tokenizer.V, stops)
        return Compiled(matcher, stops)


@functools.lru_cache(maxsize=4)
def _library(tokenizer: Tokenizer, stops: tuple[int, ...]) -> Any:
    import llguidance  # pyright: ignore[reportMissingImports]

    special = tokenizer.specials
    spelled = lambda i: b"\xff" + special[i].encode() if i in special else bytes(tokenizer.pieces[i])

    class Wrapped:
        def __init__(self):
            self.eos_token_id, self.bos_token_id = stops[0], None
            self.tokens = [spelled(i) for i in range(tokenizer.V)]
            self.special_token_ids = list(special)

        def __call__(self, text: bytes) -> list[int]:
            return tokenizer.encode(text.decode(errors="replace"), literal=True)

    wrapped = llguidance.TokenizerWrapper(Wrapped())
    return llguidance.LLTokenizer(wrapped, n_vocab=tokenizer.V, eos_token=list(stops))


class LibraryMatcher:
    """A matcher of llguidance."""

    def __init__(self, matcher: Any, V: int, stops: tuple[int, ...]):
        self._matcher, self._V, self._stops, self.ended = matcher, V, stops, False

    @property
    def accepting(self) -> bool:
        return self.ended or self._matcher.is_accepting()

    def allowed(self, left: int | None = None) -> np.ndarray:
        if self.ended:
            return np.ones(self._V, bool)
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        found_V = np.unpackbits(bits, bitorder="little")[: self._V].astype(bool)
        if self._matcher.is_error():
            raise UserError(f"the grammar cannot be followed: {self._matcher.get_error()}")
        return found_V

    def advance(self, token: int) -> None:
        if self.ended or token < 0:
            return
        if token in self._stops and self.accepting:
            self.ended = True
        elif not self._matcher.consume_token(int(token)):
            raise UserError(f"token {token} does not fit the constraint here")
