"""Tokenizers of which every word is one token, known or not: what characters and words have in common."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Self

from jaxlm.errors import UserError
from jaxlm.text.base import EOT, split_at
from jaxlm.text.counts import count_words
from jaxlm.text.formats.layout import Json, document
from jaxlm.text.readable.cells import Cell, Counted, Explanation
from jaxlm.text.readable.common import JoinedTokenizer
from jaxlm.text.readable.reading import check_specials, check_vocab, read

UNK = "<unk>"


class WordLevelTokenizer(JoinedTokenizer):
    """A vocabulary, a way to cut a text, and the unknown token for everything else.

    Args:
        vocab: each word, and each special token, to its id.
        specials: the special tokens; the text that spells one becomes its id. A text begins with `<|endoftext|>`, where
            it is one of them, when `special`.
        unk: the special token for words outside the vocabulary.
        name: what stands in error messages.

    Raises:
        UserError: ids that are shared or left out, or an absent special token.
    """

    story: Counted | None = None  # what was counted, where it was trained here
    KIND: ClassVar[str]  # what its words are called
    CUT: ClassVar[Json]  # the cut, as the `pre_tokenizer` of a tokenizer.json
    JOIN: ClassVar[Json | None]  # how tokens are joined, as its `decoder`

    def __init__(
        self, vocab: Mapping[str, int], specials: Sequence[str] = (EOT, UNK), unk: str = UNK, name: str = "vocabulary"
    ) -> None:
        vocab = check_vocab(vocab, [*specials, unk], name)
        self._own_joined(vocab, self.JOIN, specials)
        self.unk = self._unk = vocab[unk]
        if EOT in specials:
            self.eos = vocab[EOT]
            self.stops = self.prefix = (self.eos,)

    def explain(self, text: str) -> Explanation:
        """The words of a text with their ids. Print it, or `draw` it."""
        ids = [(word, *self.encode_word(word)) for word in self.words(text)]
        return Explanation(tuple(Cell(word, (self.token(i),), (i,), i != self._unk) for word, i in ids))

    @staticmethod
    @abstractmethod
    def spans(text: str) -> list[tuple[int, int]]:
        """Where the words of a text begin and end."""

    def words(self, text: str) -> list[str]:
        return [text[start:stop] for start, stop in self.spans(text)]

    def encode_word(self, word: str) -> list[int]:
        return [self.vocab.get(word, self._unk)]

    @classmethod
    def train(cls, texts: Iterable[str], V: int, specials: Sequence[str] = (EOT, UNK)) -> Self:
        """Takes the most frequent ones, of equals the first by code points; their ids follow those of `specials`.

        Raises:
            UserError: no text; V too small for a single one, or more than the text has; special tokens that repeat,
                lack `<unk>` or could be words.
        """
        cut = lambda text: [text[start:stop] for start, stop in cls.spans(text)]
        check_specials(specials, [UNK], cut)
        counts = count_words(texts, cut)
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        least, most = len(specials) + 1, len(specials) + len(ranked)
        if not ranked:
            raise UserError(f"there is no text to take {cls.KIND} from")
        if least > V:
            raise UserError(f"V={V} has no room for {cls.KIND} beside the special tokens: use at least {least}")
        if most < V:
            raise UserError(f"V={V} is more than the {cls.KIND} of this text: use at most {most}, or more text")
        tokenizer = cls({token: i for i, token in enumerate([*specials, *ranked][:V])}, specials)
        kept = tuple((word, counts[word]) for word in ranked[: V - len(specials)])
        tokenizer.story = Counted(kept, counts.total())
        return tokenizer

    @classmethod
    def from_json(cls, spec: Json, name: str = "tokenizer.json") -> Self:
        """From a parsed `tokenizer.json` such as `to_json` makes; UserError names what cannot be expressed."""
        expected = {"normalizer": None, "pre_tokenizer": cls.CUT, "decoder": cls.JOIN}
        model, specials, prefix, suffix = read(spec, name, "WordLevel", expected)
        tokenizer = cls(model["vocab"], specials, model.get("unk_token", UNK), name)
        tokenizer.prefix, tokenizer.suffix = (tuple(map(tokenizer.vocab.__getitem__, t)) for t in (prefix, suffix))
        return tokenizer

    def to_json(self) -> Json:
        model = {"type": "WordLevel", "vocab": self.vocab, "unk_token": self.token(self._unk)}
        specials = {spelling: i for i, spelling in self.specials.items()}
        around = ([self.token(i) for i in ids] for ids in (self.prefix, self.suffix))
        return document(model, specials, None, self.CUT, self.JOIN, *around)

    def _offsets(self, text: str, ids: list[int], first: bool = True) -> list[tuple[int, int]]:
        offsets, at = [], 0
        for part, special in split_at(text, self._special_ids):
            spans = [(0, len(part))] if special is not None else self.spans(part)
            offsets += [(at + start, at + stop) for start, stop in spans]
            at += len(part)
        return offsets
