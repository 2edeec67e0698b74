"""Unigram: the segmentation that a unigram language model finds most likely (Kudo 2018, arXiv:1804.10959).

    x* = argmax over the segmentations x of a text of sum_i log p(x_i)

`lattice.py` searches, `unigram_train.py` learns the pieces and their p, `unigram_story.py` shows both.
"""

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from jaxlm.errors import UserError
from jaxlm.text.base import EOT, utf8
from jaxlm.text.counts import Progress, count_words
from jaxlm.text.formats import layout
from jaxlm.text.formats.layout import Json
from jaxlm.text.readable import lattice, unigram_json
from jaxlm.text.readable.common import JoinedTokenizer
from jaxlm.text.readable.lattice import Arc, Lattice, Trie
from jaxlm.text.readable.steps import Steps
from jaxlm.text.readable.unigram_story import Explanation, Piece, Segmentation, Training
from jaxlm.text.readable.unigram_train import learn

UNK = "<unk>"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
WORDS_KEPT = 200_000  # distinct words that a training learns from, and up to twice as many
LONGEST = 16  # characters of a piece


class UnigramTokenizer(JoinedTokenizer):
    """Pieces with their scores, log p(x), in the order of ids.

    A character that is no piece by itself is unknown and scores 10 less than the worst piece. Unknown characters in a
    row become one `unk` token, or, with `byte_fallback` and all 256 pieces "<0x00>" to "<0xFF>", their UTF-8 bytes.
    Sums are float64, from left to right; of equal ones the one whose last piece is longest wins. So do the sums of the
    `tokenizers` library, whose ids these are.

    Args:
        pieces: (spelling, score). A piece with the score -inf is never found in a text.
        unk: the id of the unknown token; None where there is none, and then such a text is an error.
        byte_fallback: whether unknown characters are spelled in bytes.
        specials: the spellings of the special tokens, all of them pieces.
        prefix, suffix: the special tokens put around a text. The last of them is `eos`, or the first where none comes
            after the text.
        steps: how a text is normalised, cut into words and put together again.

    Raises:
        UserError: a piece twice, a score that is no number, a special token that is no piece, no such `unk`.
    """

    story: Training | None = None

    def __init__(
        self,
        pieces: Sequence[tuple[str, float]],
        unk: int | None,
        byte_fallback: bool = True,
        specials: Sequence[str] = (),
        prefix: Sequence[str] = (),
        suffix: Sequence[str] = (),
        steps: Steps | None = None,
    ) -> None:
        vocab = _checked(pieces)
        if unk is not None and not 0 <= unk < len(pieces):
            raise UserError(f"the unknown token's id {unk} is outside the {len(pieces)} pieces")
        if missing := [special for special in (*specials, *prefix, *suffix) if special not in vocab]:
            raise UserError(f"the special token {missing[0]!r} is not among the pieces: give it an id")
        self.scores = [float(score) for _, score in pieces]
        self.trie = Trie(((s, i, self.scores[i]) for s, i in vocab.items() if self.scores[i] > -math.inf), unk)
        self.unk, self.steps, self.byte_fallback = unk, steps or Steps(), byte_fallback
        self._bytes_ids = [vocab[byte] for byte in BYTES] if byte_fallback and all(b in vocab for b in BYTES) else None
        self._own_joined(vocab, self.steps.decoder, specials)
        self.prefix, self.suffix = (tuple(vocab[token] for token in tokens) for tokens in (prefix, suffix))
        if suffix:
            self.bos, self.eos = self.prefix[0] if prefix else None, self.suffix[-1]
        elif prefix:
            self.eos = self.prefix[0]
        self.stops = () if self.eos is None else (self.eos,)

    def words(self, text: str) -> list[str]:
        return self.steps.words(text)

    def encode_word(self, word: str) -> list[int]:
        return self._ids(word, lattice.viterbi(word, self.trie))

    def _ids(self, text: str, path: Sequence[Arc]) -> list[int]:
        """The ids of a path; unknown characters in a row are one."""
        ids: list[int] = []
        for at, arc in enumerate(path):
            if arc.id != self.unk:
                ids.append(arc.id)
            elif at + 1 == len(path) or path[at + 1].id != self.unk:
                first = at
                while first and path[first - 1].id == self.unk:
                    first -= 1
                ids += self._unknown(text[path[first].start : arc.stop])
        return ids

    def _unknown(self, text: str) -> list[int]:
        known = self.trie.id(text)  # a text that spells the unknown token itself
        if known is None and self._bytes_ids:
            return [self._bytes_ids[byte] for byte in text.encode()]
        known = self.unk if known is None else known
        return [] if known is None else [known]

    def lattice(self, text: str) -> Lattice:
        """All segmentations of a text. Special tokens spelled in it are plain text, here and below."""
        utf8(text)  # refuses lone surrogates
        return Lattice(self.words(text), self.trie)

    def nbest(self, text: str, n: int) -> list[Segmentation]:
        """The n best segmentations, best first."""
        graph = self.lattice(text)
        return self._segmentations(graph, n, graph.log_marginal())

    def sample(self, text: str, rng: np.random.Generator, alpha: float = 0.1, nbest: int = -1) -> list[int]:
        """The ids of a random segmentation, drawn with probability proportional to P(x)^alpha: subword regularisation.

        From all segmentations, or from the `nbest` best where that is positive. `alpha` 0 draws all alike; 0.1 to 0.5
        are usual (Kudo 2018, section 3.3).
        """
        graph = self.lattice(text)
        if nbest < 1:
            return self._ids(graph.text, graph.sample(rng, alpha))
        found = self._segmentations(graph, nbest, 0.0)
        return found[lattice.draw(rng, [math.exp(alpha * (one.score - found[0].score)) for one in found])].ids

    def explain(self, text: str, n: int = 5) -> Explanation:
        """The lattice of a text: pieces with their scores, and the `n` best segmentations. Print it, or `draw` it."""
        graph = self.lattice(text)
        best, shares = {*graph.viterbi()}, graph.posterior()
        pieces = [
            Piece(arc.start, arc.stop, graph.text[arc.start : arc.stop], arc.score, shares[arc], arc in best)
            for arc in graph.arcs
        ]
        total = graph.log_marginal()
        return Explanation(graph.text, tuple(pieces), tuple(self._segmentations(graph, n, total)), total)

    def _segmentations(self, graph: Lattice, n: int, total: float) -> list[Segmentation]:
        found = []
        for path in graph.nbest(n):
            score = sum(arc.score for arc in path)
            tokens = [graph.text[arc.start : arc.stop] for arc in path]
            found.append(Segmentation(self._ids(graph.text, path), tokens, score, math.exp(score - total)))
        return found

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        V: int,
        specials: Sequence[str] = (EOT,),
        byte_fallback: bool = True,
        coverage: float = 0.9995,
        progress: Progress | None = None,
    ) -> "UnigramTokenizer":
        """Learns exactly `V` pieces: special tokens, "<unk>", 256 bytes with `byte_fallback`, and what the texts give.

        The most frequent characters that make up `coverage` of the texts are pieces, however rare; the others are left
        to bytes or to "<unk>". With `byte_fallback` every text comes back exactly. The first special token begins texts
        and ends them. Same texts, same tokenizer; `story` says how it went.

        Raises:
            UserError: no text, a bad special token, V too small for the characters or larger than the texts support.
        """
        steps = Steps()
        _check_specials(specials, steps)
        counts = count_words(texts, steps.words, WORDS_KEPT)
        fixed = [*specials, UNK, *(BYTES if byte_fallback else ())]
        words, characters = _covered(counts, coverage)
        if not words:
            raise UserError("there is no text to train a unigram tokenizer on")
        least = len(fixed) + characters
        if least > V:
            raise UserError(f"V={V} is too small for {characters} characters: use at least {least}, or less coverage")
        pieces, rounds, material = learn([*words], [*words.values()], V - len(fixed), LONGEST, progress)
        if len(pieces) + len(fixed) < V:
            raise UserError(f"V={V} is more than this text supports: use at most {material + len(fixed)}, or more text")
        scored = [(token, 0.0) for token in fixed] + [(piece, round(score, 6)) for piece, score in pieces]
        tokenizer = cls(scored, len(specials), byte_fallback, specials, prefix=specials[:1], steps=steps)
        tokenizer.story = Training(tuple(rounds), sum(len(word) * count for word, count in words.items()))
        return tokenizer

    def to_json(self) -> Json:
        """The same tokenizer as a `tokenizer.json`. Scores of -inf, which it cannot say, become 0."""
        steps, scores = self.steps, [score if score > -math.inf else 0.0 for score in self.scores]
        return layout.document(
            layout.unigram([*zip(self.vocab, scores)], self.unk, self.byte_fallback),
            {spelling: i for i, spelling in self.specials.items()},
            steps.normalizer,
            steps.pre_tokenizer,
            steps.decoder,
            [self.token(i) for i in self.prefix],
            [self.token(i) for i in self.suffix],
        )

    @classmethod
    def from_json(cls, spec: Json, name: str = "tokenizer.json") -> "UnigramTokenizer":
        """Reads a parsed `tokenizer.json` whose model is Unigram.

        Its library reads long decimal fractions to within one unit in the last place, so sums that differ by no more
        may fall either way. UserError for steps that have no readable form: see `Steps`.
        """
        return cls(**unigram_json.read_json(spec, name))

    @classmethod
    def from_sentencepiece(cls, path: str | Path) -> "UnigramTokenizer":
        """The pieces and scores of a SentencePiece unigram `.model`, for texts that the library has normalised.

            tokenizer.encode(processor.normalize(text)) == processor.encode(text)

        Pieces with the score 0 are taken for user-defined ones, which score -0.1 in the library. Versions of it that
        keep their sums in float32 may choose otherwise between segmentations that are nearly as good.

        Raises:
            UserError: not a unigram model.
        """
        return cls(**unigram_json.read_sentencepiece(path))


def _checked(pieces: Sequence[tuple[str, float]]) -> dict[str, int]:
    vocab: dict[str, int] = {}
    for i, (token, score) in enumerate(pieces):
        if vocab.setdefault(token, i) != i:
            raise UserError(f"the piece {token!r} has the ids {vocab[token]} and {i}: keep one")
        if not isinstance(score, (int, float)) or math.isnan(score) or score == math.inf:
            raise UserError(f"the piece {token!r} has the score {score!r}: a score is a number, a log-probability")
    return vocab


def _check_specials(specials: Sequence[str], steps: Steps) -> None:
    for special in specials:
        if specials.count(special) > 1 or special == UNK or special in BYTES:
            raise UserError(f"the special token {special!r} would be there twice: name each once")
        if len(steps.words(special)) < 2:
            raise UserError(f"the special token {special!r} looks like a word: put it in marks, such as <|{special}|>")


def _covered(counts: dict[str, int], coverage: float) -> tuple[dict[str, int], int]:
    """The words cut at the characters that are not covered, with their counts, and how many characters are left."""
    if not 0 < coverage <= 1:
        raise UserError(f"coverage={coverage}: give the part of the text that single characters cover, up to 1")
    found: dict[str, int] = {}
    for word, count in counts.items():
        for character in word:
            found[character] = found.get(character, 0) + count
    enough, covered = coverage * sum(found.values()), 0
    rare: list[str] = []
    for character, count in sorted(found.items(), key=lambda item: -item[1]):
        if covered >= enough:
            rare.append(character)
        covered += count
    if not rare:
        return counts, len(found)
    between = re.compile(f"[{re.escape(''.join(rare))}]+")
    cut: dict[str, int] = {}
    for word, count in counts.items():
        for part in filter(None, between.split(word)):
            cut[part] = cut.get(part, 0) + count
    return cut, len(found) - len(rare)
