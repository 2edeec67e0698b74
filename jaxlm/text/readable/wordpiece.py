"""WordPiece, BERT's tokenizer (Schuster and Nakajima 2012; Devlin et al. 2019, arXiv:1810.04805).

    "El gato desafortunadamente" -> el | gato | des ##afortunad ##amente

A word is cut from the left: the longest token that begins what is left is taken, and marked by "##" inside a word. A
word in which nothing fits is unknown as a whole.
"""

from collections.abc import Iterable, Mapping, Sequence

from jaxlm.errors import UserError, unknown
from jaxlm.text.base import split_at
from jaxlm.text.counts import Progress, count_words
from jaxlm.text.formats.layout import Json, document, wordpiece
from jaxlm.text.readable.bert_text import BertNormalizer, cut, cut_spans
from jaxlm.text.readable.common import JoinedTokenizer
from jaxlm.text.readable.reading import check_specials, check_vocab, read
from jaxlm.text.readable.wordpiece_story import Matching, Step, Training
from jaxlm.text.readable.wordpiece_train import INSIDE, SCORES, learn

PAD, UNK, CLS, SEP, MASK = SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LONGEST_WORD = 100  # characters; longer ones are unknown
JOIN = {"type": "WordPiece", "prefix": INSIDE, "cleanup": True}


class WordPieceTokenizer(JoinedTokenizer):
    """A vocabulary of words and parts of words, matched greedily.

    The normaliser changes the text, and white space is lost: decoding puts words apart by one space, and takes it away
    before punctuation and English contractions. `special` gives `[CLS] x [SEP]`.

    Args:
        vocab: each token to its id; "##" begins those inside a word.
        normalizer: what is done to a text before it is cut into words.
        specials: the special tokens; the text that spells one becomes its id.
        prefix, suffix: those put around a text.
        unk: what an unknown word becomes.
        max_input_chars_per_word: longer words are unknown.
        name: what stands in error messages.

    Attributes:
        story: the merges that made the vocabulary, where it was trained here; None otherwise.

    Raises:
        UserError: ids that are shared or left out, or an absent special token.
    """

    def __init__(
        self,
        vocab: Mapping[str, int],
        normalizer: BertNormalizer = BertNormalizer(),
        specials: Sequence[str] = SPECIALS,
        prefix: Sequence[str] = (CLS,),
        suffix: Sequence[str] = (SEP,),
        unk: str = UNK,
        max_input_chars_per_word: int = LONGEST_WORD,
        name: str = "vocabulary",
    ) -> None:
        vocab = check_vocab(vocab, [*specials, *prefix, *suffix, unk], name)
        self._own_joined(vocab, JOIN, specials)
        self.normalizer = normalizer
        self.max_input_chars_per_word = max_input_chars_per_word
        self.prefix, self.suffix = (tuple(vocab[token] for token in tokens) for tokens in (prefix, suffix))
        self.unk = self._unk = vocab[unk]
        self.pad = vocab.get(PAD)
        self.bos, self.eos = vocab.get(CLS), vocab.get(SEP)
        self.stops = () if self.eos is None else (self.eos,)
        self.story: Training | None = None
        self._longest = max(len(token.removeprefix(INSIDE)) for token in vocab)

    def words(self, text: str) -> list[str]:
        return cut(self.normalizer(text))

    def encode_word(self, word: str) -> list[int]:
        found, matched = self.match(word)
        return [i for _, _, i in found] if matched == len(word) else [self._unk]

    def match(self, word: str) -> tuple[list[tuple[int, int, int]], int]:
        """(start, stop, id) of each token found in a word, and how far they reach: less than its end if it is unknown.

        No more characters are tried at a time than the longest token has, so time grows with the length of the word.
        """
        found: list[tuple[int, int, int]] = []
        start = 0
        while start < len(word) <= self.max_input_chars_per_word:
            mark = INSIDE if start else ""
            for stop in range(min(len(word), start + self._longest), start, -1):
                i = self.vocab.get(mark + word[start:stop])
                if i is not None:
                    break
            else:
                break
            found.append((start, stop, i))
            start = stop
        return found, start

    def explain(self, text: str) -> Matching:
        """How the words of a text were matched: every prefix that was tried, and the one that was taken."""
        return Matching(tuple((word, self._steps(word)) for word in self.words(text)))

    def _steps(self, word: str) -> tuple[Step, ...]:
        found, matched = self.match(word)
        stuck = [(matched, matched + 1, None)] if matched < len(word) <= self.max_input_chars_per_word else []
        steps = []
        for start, stop, i in [*found, *stuck]:
            stops = range(min(len(word), start + self._longest), stop - 1, -1)
            taken = None if i is None else self.token(i)
            steps.append(Step(start, tuple(word[start:tried] for tried in stops), taken))
        return tuple(steps)

    def _offsets(self, text: str, ids: list[int], first: bool = True) -> list[tuple[int, int]]:
        """Where each token comes from in the text as it was given, before normalising."""
        offsets, at = [], 0
        for part, special in split_at(text, self._special_ids):
            if special is not None:
                offsets.append((at, at + len(part)))
            else:
                normal, source = self.normalizer.aligned(part)
                for begin, end in cut_spans(normal):
                    found, matched = self.match(normal[begin:end])
                    spans = [(begin + start, begin + stop) for start, stop, _ in found]
                    for start, stop in spans if matched == end - begin else [(begin, end)]:
                        offsets.append((at + source[start], at + source[stop - 1] + 1))
            at += len(part)
        return offsets

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        V: int,
        normalizer: BertNormalizer = BertNormalizer(),
        score: str = "likelihood",
        alphabet: int = 1000,
        least: int = 1,
        specials: Sequence[str] = SPECIALS,
        progress: Progress | None = None,
    ) -> "WordPieceTokenizer":
        """Learns a vocabulary of exactly V tokens: `specials`, characters, and merges in their order.

        Args:
            score: which pair is merged next, "likelihood", "ratio" or "frequency": the equations are at the top of
                `wordpiece_train`. Pairs of equal score are merged in the order in which they were met. On Don Quijote
                8,000 tokens cut a word that was held out into 1.12, 2.69 and 1.12 parts.
            alphabet: the most frequent characters that get tokens, of equals the first by code point.
            least: pairs that occur less often are not merged.

        Raises:
            UserError: no text; V too small for the alphabet, or more than the text supports; an unknown score; special
                tokens that repeat, lack `[UNK]`, `[CLS]` or `[SEP]`, or could be words.
        """
        if score not in SCORES:
            raise unknown("score", score, SCORES)
        check_specials(specials, [UNK, CLS, SEP], cut)
        known = lambda text: [word for word in cut(normalizer(text)) if len(word) <= LONGEST_WORD]
        words = count_words(texts, known)
        if not words:
            raise UserError("there is no text to train a WordPiece tokenizer on")
        tokens, merges = learn(words, V, specials, alphabet, score, least, progress)
        tokenizer = cls({token: i for i, token in enumerate(tokens)}, normalizer, specials)
        tokenizer.story = Training(score, tuple(merges))
        return tokenizer

    @classmethod
    def from_json(cls, spec: Json, name: str = "tokenizer.json") -> "WordPieceTokenizer":
        """From a parsed `tokenizer.json` with BERT's normaliser and cut; UserError names what cannot be expressed."""
        normalizer = BertNormalizer.from_json(spec.get("normalizer"), name)
        expected = {"pre_tokenizer": {"type": "BertPreTokenizer"}, "decoder": JOIN}
        model, specials, prefix, suffix = read(spec, name, "WordPiece", expected)
        if (mark := model.get("continuing_subword_prefix", INSIDE)) != INSIDE:
            raise UserError(
                f"{name}: tokens inside words begin with {mark!r}, not {INSIDE!r}: open it with FastTokenizer"
            )
        limit = model.get("max_input_chars_per_word", LONGEST_WORD)
        return cls(model["vocab"], normalizer, specials, prefix, suffix, model.get("unk_token", UNK), limit, name)

    def to_json(self) -> Json:
        model = wordpiece(self.vocab, self.token(self._unk), self.max_input_chars_per_word)
        specials = {spelling: i for i, spelling in self.specials.items()}
        around = ([self.token(i) for i in ids] for ids in (self.prefix, self.suffix))
        return document(model, specials, self.normalizer.to_json(), {"type": "BertPreTokenizer"}, JOIN, *around)
