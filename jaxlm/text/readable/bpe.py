"""Byte-level byte-pair encoding: the tokenizer of GPT-2 and of most language models since, to be read.

Sennrich et al. 2016, "Neural machine translation of rare words with subword units", arXiv:1508.07909; over bytes:
Radford et al. 2019, "Language models are unsupervised multitask learners" (GPT-2). No text is unknown to it.
"""

import copy
import heapq
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np

from jaxlm.errors import UserError
from jaxlm.text.base import EOT, utf8
from jaxlm.text.counts import MOST, Progress, count_words
from jaxlm.text.formats.added import AddedTokens
from jaxlm.text.formats.cutting import compiled, cutter
from jaxlm.text.formats.decoders import BYTES, pieces
from jaxlm.text.formats.layout import CL100K, Json, added_token, bpe, byte_characters, byte_level, document
from jaxlm.text.formats.normalizing import normalizer as normalizer_of
from jaxlm.text.readable.bpe_json import read_bpe
from jaxlm.text.readable.bpe_story import Explanation, Merge, Story, WordStory, word_story
from jaxlm.text.readable.bpe_train import learn
from jaxlm.text.readable.common import ReadableTokenizer

NEVER = 1 << 60  # the rank of a pair that no merge joins
LONG = 64  # bytes: from here on the heap is faster than the lists
READ = 300  # bytes of the longest word that is explained


class BPETokenizer(ReadableTokenizer):
    """A text is cut into words by a pattern; in each word, pairs of tokens are merged, the best pair first.

        tokens(word) = its bytes; while a pair of neighbours is in `merges`: join the pair of lowest rank, the leftmost
        of equals

    Bytes are spelled as visible characters (`layout.byte_characters`): " la" is "Ġla".

    Args:
        vocab: the spelling of each token to its id. Every byte has a token.
        merges: pairs of spellings, their rank is their place; what they join is in `vocab`.
        pattern: what a word is, as a regular expression, or the `pre_tokenizer` of a tokenizer.json. The default is
            that of GPT-4 and Llama 3: at most three digits together, so that numbers are cut alike, and line ends
            apart from the words after them.
        added: special and other added tokens as in a tokenizer.json; see `layout.added_token` and `AddedTokens`.
        normalizer: Unicode normalisation as in a tokenizer.json, {"type": "NFC"} for example.
        prefix, suffix: spellings of the added tokens that `special` puts around a text.
        ignore_merges: whether a word that is in the vocabulary is taken whole, whatever the merges make of it.
        counts: how often each merge was seen when it was learned, for `story`.
        name: stands in error messages.

    Raises:
        UserError: ids missing or shared, a byte without a token, or a merge of or into unknown tokens.
    """

    def __init__(
        self,
        vocab: Mapping[str, int],
        merges: Sequence[tuple[str, str]],
        pattern: str | Json = CL100K,
        added: Sequence[Json] = (),
        normalizer: Json | None = None,
        prefix: Sequence[str] = (),
        suffix: Sequence[str] = (),
        ignore_merges: bool = False,
        counts: Sequence[int | None] | None = None,
        name: str = "this BPE vocabulary",
    ) -> None:
        self.merges, self.ignore_merges = [*merges], ignore_merges
        self._model_vocab, self._added, self._counts = dict(vocab), [*added], counts
        self._normalizer = normalizer
        self._pre_tokenizer = byte_level(pattern)[0] if isinstance(pattern, str) else pattern
        self._normalize = normalizer_of(normalizer, name)
        self._cut = cutter(self._pre_tokenizer, name)

        whole = _whole(vocab, added, name)
        spelled = [""] * (1 + max(whole.values()))
        for spelling, i in whole.items():
            spelled[i] = spelling
        said = list(pieces({"type": "ByteLevel"}, spelled).later)  # pyright: ignore[reportOptionalMemberAccess]
        for token in added:
            if token["special"]:
                said[token["id"]] = b""
        self._own(whole, said, [token["content"] for token in added if token["special"]])
        self._marks = AddedTokens(added, self._normalize)
        self._prefix, self._suffix = tuple(prefix), tuple(suffix)
        self.prefix, self.suffix = (tuple(self._id(s, name) for s in around) for around in (prefix, suffix))
        self.eos = next((token["id"] for token in added if token["content"] == EOT), None)
        self.stops = () if self.eos is None else (self.eos,)

        if lacking := [byte for byte, character in enumerate(byte_characters()) if character not in vocab]:
            raise UserError(f"{name}: the byte {lacking[0]:#04x} has no token: a byte-level vocabulary has all 256")
        self._byte_ids = [vocab[character] for character in byte_characters()]
        self._ranks: dict[tuple[int, int], int] = {}
        self._made: list[int] = []  # the id that the merge of each rank makes
        for rank, (left, right) in enumerate(self.merges):
            if not (left in vocab and right in vocab and left + right in vocab):
                missing = next(token for token in (left, right, left + right) if token not in vocab)
                raise UserError(f"{name}: merge {rank}, {left!r} and {right!r}, needs the token {missing!r}: add it")
            self._ranks[vocab[left], vocab[right]] = rank
            self._made.append(vocab[left + right])
        self._words = {said[i]: [i] for token, i in vocab.items() if ignore_merges and all(c in BYTES for c in token)}

    def _id(self, spelling: str, name: str) -> int:
        if spelling not in self.vocab:
            raise UserError(f"{name}: there is no token {spelling!r}, which is needed: add it")
        return self.vocab[spelling]

    def words(self, text: str) -> list[str]:
        return self._cut(self._normalize(text))

    def marked(self, text: str, literal: bool) -> Iterable[tuple[str, int | None]]:
        return self._marks.split(text, literal)

    def encode_word(self, word: str) -> list[int]:
        data = word.encode()
        if self.ignore_merges and data in self._words:
            return self._words[data]
        return self._merge_short(data) if len(data) < LONG else self._merge_long(data)

    def _merge_short(self, data: bytes, seen: list[tuple[int, int]] | None = None) -> list[int]:
        """The algorithm, on lists. `seen` collects (rank, place) of the merges."""
        rank_of, made = self._ranks.get, self._made
        ids = [-1, *[self._byte_ids[byte] for byte in data], -1]  # nothing merges with the ends
        ranks = [rank_of(pair, NEVER) for pair in zip(ids, ids[1:])]  # of the pair that begins at each token
        while (best := min(ranks)) != NEVER:
            at = ranks.index(best)
            ids[at] = made[best]
            del ids[at + 1], ranks[at]
            ranks[at - 1] = rank_of((ids[at - 1], ids[at]), NEVER)
            ranks[at] = rank_of((ids[at], ids[at + 1]), NEVER)
            if seen is not None:
                seen.append((best, at - 1))
        return ids[1:-1]

    def _merge_long(self, data: bytes, dropout: float = 0.0, rng: np.random.Generator | None = None) -> list[int]:
        """The same with a heap of pairs and a linked list of tokens: n log n.

        With `dropout`, before each merge every pair sits out with that probability. Going through the pairs from the
        best and asking each until one does not sit out is the same, and asks few.
        """
        ids = [self._byte_ids[byte] for byte in data]
        after, before = [*range(1, len(ids) + 1)], [*range(-1, len(ids) - 1)]
        heap = [(self._ranks[pair], at) for at, pair in enumerate(zip(ids, ids[1:])) if pair in self._ranks]
        heapq.heapify(heap)
        sitting_out: list[tuple[int, int]] = []
        while heap:
            rank, at = heapq.heappop(heap)
            right = after[at]
            if right == len(ids) or self._ranks.get((ids[at], ids[right])) != rank:
                continue  # one of the two was merged since
            if rng is not None and rng.random() < dropout:
                sitting_out.append((rank, at))
                continue
            ids[at], ids[right] = self._made[rank], -1
            after[at] = beyond = after[right]
            if beyond < len(ids):
                before[beyond] = at
            for pair in ((before[at], at), (at, beyond)):
                if pair[0] >= 0 and pair[1] < len(ids):
                    new = self._ranks.get((ids[pair[0]], ids[pair[1]]))
                    if new is not None:
                        heapq.heappush(heap, (new, pair[0]))
            for entry in sitting_out:
                heapq.heappush(heap, entry)
            sitting_out.clear()
        return [i for i in ids if i >= 0]

    def sample(self, text: str, dropout: float, rng: np.random.Generator) -> list[int]:
        """BPE-dropout: one of the ways to spell a text, at random (Provilkov et al. 2020, arXiv:1910.13267).

        Before each merge every possible one is left out with probability `dropout`; the best of the rest is done, and
        where none is left the word is finished. 0 gives the ids of `encode`, 1 single bytes.

        Raises:
            UserError: `dropout` is outside [0, 1].
        """
        if not 0 <= dropout <= 1:
            raise UserError(f"dropout={dropout} is not a probability: use a number from 0 to 1, say 0.1")
        if dropout == 0:
            return self.encode(text)
        utf8(text)
        ids: list[int] = []
        for part, marked in self.marked(text, literal=False):
            if marked is not None:
                ids.append(marked)
                continue
            for word in self.words(part):
                ids += self._merge_long(word.encode(), dropout, rng)
        return ids

    @cached_property
    def story(self) -> Story:
        """The merges in the order they were learned, with their counts where this tokenizer was trained here."""
        said = lambda spelling: self.pieces[self._model_vocab[spelling]]
        counts = self._counts or [None] * len(self.merges)
        return Story(Merge(said(left), said(right), count) for (left, right), count in zip(self.merges, counts))

    def explain(self, text: str) -> Explanation:
        """How each word of a text is merged, from bytes to tokens: print it, or `draw` it.

        Raises:
            UserError: a word is longer than anybody would read.
        """
        utf8(text)
        stories = []
        for part, marked in self.marked(text, literal=False):
            words = [word for word in self.words(part) if word] if marked is None else []
            stories += map(self._explain_word, words)
            if marked is not None:
                stories.append(WordStory(part, (part.encode(),), (marked,), ()))
        return Explanation(tuple(stories))

    def _explain_word(self, word: str) -> WordStory:
        data, seen = word.encode(), []
        if len(data) > READ:
            raise UserError(f"the word {word[:20]!r}... has {len(data)} bytes: explain words of at most {READ}")
        merged, ids = self._merge_short(data, seen), self.encode_word(word)
        return word_story(word, [self.pieces[i] for i in ids], ids, seen if merged == ids else ())

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        V: int,
        pattern: str = CL100K,
        specials: Sequence[str] = (EOT,),
        most_words: int = MOST,
        progress: Progress | None = None,
    ) -> "BPETokenizer":
        """Learns a vocabulary of exactly `V` tokens: the special ones, the 256 bytes, and the merges of `learn`.

        Special tokens spelled in the texts are text, like the rest. `most_words` bounds the memory; see `count_words`.

        Raises:
            UserError: no text, V too small, or larger than the text supports, or bad `specials` or `pattern`.
        """
        compiled(pattern, "training")
        least = 256 + len(specials)
        if least > V:
            raise UserError(f"V={V} is too small for a byte-level BPE vocabulary: use at least {least}, say 4096")
        characters = byte_characters()
        vocab = {token: i for i, token in enumerate([*specials, *sorted(characters)])}
        if len(vocab) < least or "" in specials:
            raise UserError(f"special tokens {[*specials]} must differ, and be longer than one byte: use <|names|>")
        counts = count_words(texts, cutter(byte_level(pattern)[0], "training"), most_words)
        if not any(counts):
            raise UserError("there is no text to train a BPE tokenizer on")
        alphabet = {bytes([byte]): vocab[character] for byte, character in enumerate(characters)}
        story = learn(counts, alphabet, V, progress)
        spell = lambda piece: "".join([characters[byte] for byte in piece])
        merges = [(spell(merge.left), spell(merge.right)) for merge in story]
        for left, right in merges:
            if left + right in specials:
                raise UserError(f"the special token {left + right!r} is a word of the text: spell it as <|a name|>")
            vocab[left + right] = len(vocab)
        added = [added_token(i, token) for i, token in enumerate(specials)]
        prefix = [EOT] if EOT in specials else []
        return cls(vocab, merges, pattern, added, prefix=prefix, counts=[merge.count for merge in story])

    @classmethod
    def from_json(cls, spec: Json, name: str = "tokenizer.json") -> "BPETokenizer":
        """The byte-level BPE of a parsed tokenizer.json.

        Raises:
            UserError: a part that this class does not do, which is named, or what the constructor refuses.
        """
        try:
            return cls(**read_bpe(spec, name), name=name)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{name}: not a whole tokenizer.json: {error!r}") from None

    def __reduce__(self):  # the functions that cut words do not travel between processes; what they do can be said
        return BPETokenizer.from_json, (self.to_json(),)

    def to_json(self) -> Json:
        model = bpe(self._model_vocab, self.merges, ignore_merges=self.ignore_merges)
        around = {spelling: self.vocab[spelling] for spelling in (*self._prefix, *self._suffix)}
        _, decoder = byte_level("")
        steps = copy.deepcopy((self._normalizer, self._pre_tokenizer))
        whole = document(model, around, *steps, decoder, self._prefix, self._suffix)
        return whole | {"added_tokens": [dict(token) for token in self._added]}


def _whole(vocab: Mapping[str, int], added: Sequence[Json], name: str) -> dict[str, int]:
    """The vocabulary with the added tokens, by id. Gaps are allowed where ids above the model's own are reserved."""
    owner: dict[int, str] = {}
    for token, i in [*vocab.items(), *((token["content"], token["id"]) for token in added)]:
        if owner.setdefault(i, token) != token:
            raise UserError(f"{name}: tokens {owner[i]!r} and {token!r} share the id {i}: give each its own")
        if i < 0:
            raise UserError(f"{name}: the token {token!r} has the id {i}: ids begin at 0")
    missing = next((i for i in range(max(vocab.values(), default=0)) if i not in owner), None)
    if missing is not None:
        raise UserError(f"{name}: no token has the id {missing}: number the vocabulary without gaps")
    whole = {owner[i]: i for i in sorted(owner)}
    twice = next((owner[i] for i in owner if whole[owner[i]] != i), None)
    if twice is not None:
        raise UserError(f"{name}: the token {twice!r} has more than one id: give it one")
    return whole
