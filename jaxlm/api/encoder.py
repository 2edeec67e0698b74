"""A trained encoder with its parameters and tokenizer: hidden states, its head, vectors of texts."""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from jaxlm import arguments, convert, models
from jaxlm.api.base import Loaded
from jaxlm.api.sentence import Sentence
from jaxlm.axes import Array, Params
from jaxlm.decode.checks import check_mask, check_tokens
from jaxlm.errors import UserError
from jaxlm.models import EncoderConfig, MaskedHead, ReplacedHead, SequenceHead, SpanHead, TokenHead, flops
from jaxlm.nn import BigBirdConfig, LongformerConfig
from jaxlm.ops.pooling import pool
from jaxlm.text import Tokenizer
from jaxlm.text.truncate import truncated

BATCH = 32  # texts at a time
ROUND = 16  # lengths are rounded up to multiples of so many tokens: one compilation each
Scored = list[tuple[str, float]]  # tokens and their probabilities, best first


@dataclasses.dataclass(frozen=True)
class Classified:
    """What `classify` returns: the likeliest label of each text, and float32 (n, classes) probabilities."""

    labels: list[str]
    probabilities: np.ndarray


@dataclasses.dataclass(frozen=True)
class Answer:
    """What `answer` returns: a part of the text, where it stands there, and the probability of its first token times
    that of its last."""

    text: str
    span: tuple[int, int]
    probability: float


class Encoder(Loaded):
    """A Flax module, its parameters, its config and its tokenizer (or None). Made by `load`.

    Every call takes tokens (B, T), and `mask_BT`, 1 on real tokens; `types_BT`, 1 on those of a second text;
    `global_BT`, 1 on tokens with global attention (Longformer); and is differentiable in `params`, any tree like
    `self.params`. Positions count real tokens, so padding changes nothing; what stands at padding means nothing. Pad on
    the right where a text's vector is read from its first token, and for BigBird.

    They raise UserError for ids outside the vocabulary or the types, a mask with no real token in a row, more tokens
    than the model has positions, and a head that the model has not.
    """

    def __init__(
        self,
        config: EncoderConfig,
        params: Params,
        tokenizer: Tokenizer | None,
        source: convert.Source | None = None,
        sentence: Sentence | None = None,
    ):
        super().__init__(config, params, tokenizer, source)
        self.config: EncoderConfig = config
        self.sentence = sentence

    def hidden(
        self,
        tokens_BT: Any,
        mask_BT: Any = None,
        types_BT: Any = None,
        global_BT: Any = None,
        params: Params | None = None,
    ) -> Array:
        """(B, T, D) after the last layer, in the dtype of the computation."""
        return _forward(self.model, *self._inputs(tokens_BT, mask_BT, types_BT, global_BT, params)).encoded.last_BTD

    def pooled(
        self,
        tokens_BT: Any,
        mask_BT: Any = None,
        types_BT: Any = None,
        global_BT: Any = None,
        params: Params | None = None,
    ) -> Array:
        """(B, D) of each text, by the pooler that the model was trained with."""
        if not self.config.pooler:
            raise UserError("this encoder has no pooler: take hidden(...), or embed(texts)")
        inputs = self._inputs(tokens_BT, mask_BT, types_BT, global_BT, params, first=True)
        return _forward(self.model, *inputs).encoded.pooled_BD

    def logits(
        self,
        tokens_BT: Any,
        mask_BT: Any = None,
        types_BT: Any = None,
        global_BT: Any = None,
        params: Params | None = None,
    ) -> Array:
        """The head's float32 logits: (B, T, V) of hidden tokens, (B, T) that a token was replaced, (B, classes) of a
        text, (B, T, classes) of tokens, (B, T, 2) of where an answer begins and ends."""
        of_text = self._needed_head().of_text
        inputs = self._inputs(tokens_BT, mask_BT, types_BT, global_BT, params, first=of_text)
        found = _logits(self.model, *inputs)
        if isinstance(self.config.head, ReplacedHead):
            return found[..., 0]
        return found[:, 0] if isinstance(self.config.head, SequenceHead) else found

    def next_sentence(
        self,
        tokens_BT: Any,
        mask_BT: Any = None,
        types_BT: Any = None,
        global_BT: Any = None,
        params: Params | None = None,
    ) -> Array:
        """float32 logits (B, 2): that the second text follows the first, and that it does not."""
        if not self.config.next_sentence:
            raise UserError("this encoder has no head for the next sentence")
        inputs = self._inputs(tokens_BT, mask_BT, types_BT, global_BT, params, first=True)
        return _forward(self.model, *inputs).encoded.next_B2

    # Texts -----------------------------------------------------------------------------------------------------------

    def embed(
        self, texts: str | Sequence[str], pooling: str | None = None, normalize: bool = True, max_length: Any = None
    ) -> np.ndarray:
        """A vector for each text, float32 (n, D), of unit length unless `normalize` is false; see `ops.pooling`.

        `pooling` is what the folder says where it is sentence-transformers', else "mean". Texts are cut after
        `max_length` tokens, special ones included: by default where such a folder says so, as that library does.
        """
        said = self.sentence or Sentence()
        most = said.max_length if max_length is None else arguments.integer(max_length, "max_length", 3)
        rows = self._encoded(texts, most)
        found = np.zeros((len(rows), self.config.D), np.float32)
        for at, tokens_BT, mask_BT in self._batches(rows):
            hidden_BTD = self.hidden(tokens_BT, mask_BT)
            found[at] = np.asarray(_pool(hidden_BTD, mask_BT, pooling or said.pooling))[: len(at)]
        return found / np.maximum(np.linalg.norm(found, axis=-1, keepdims=True), 1e-12) if normalize else found

    def fill(self, text: str, k: int = 5) -> Scored | list[Scored]:
        """The k likeliest tokens for "[MASK]" (as the tokenizer spells it) in a text, with their probabilities; where
        it is there more than once, a list of them for each."""
        self._needed_head(MaskedHead, "hidden tokens")
        tokenizer, mask = self._needed_tokenizer(), self.mask
        k = arguments.integer(k, "k", 1, self.config.V)
        ids = tokenizer.encode(arguments.text(text, "the text"), special=True)
        if mask not in ids:
            raise UserError(f"the text has no {tokenizer.token(mask)}, which stands for the token that is sought")
        ((_, tokens_BT, mask_BT),) = self._batches([ids])
        at = np.flatnonzero(np.array(ids) == mask)
        chances, found = jax.lax.top_k(jax.nn.softmax(self.logits(tokens_BT, mask_BT)[0, at]), k)
        spell = lambda i: tokenizer.spell(i) if i < tokenizer.V else f"<{i}>"
        filled = [[(spell(i), p) for i, p in zip(*row)] for row in zip(found.tolist(), chances.tolist())]
        return filled[0] if len(filled) == 1 else filled

    def classify(self, texts: str | Sequence[str]) -> Classified:
        """The class of each text, by the head and the labels of the config."""
        head = self._needed_head(SequenceHead, "classes of texts")
        rows = self._encoded(texts)
        found = np.zeros((len(rows), len(head.labels)), np.float32)
        for at, tokens_BT, mask_BT in self._batches(rows):
            found[at] = np.asarray(jax.nn.softmax(self.logits(tokens_BT, mask_BT)))[: len(at)]
        return Classified([head.labels[i] for i in found.argmax(-1)], found)

    def tag(self, texts: str | Sequence[str]) -> list[list[tuple[str, str]]]:
        """(token, label) of every token of each text, special tokens left out."""
        head, tokenizer = self._needed_head(TokenHead, "classes of tokens"), self._needed_tokenizer()
        rows = self._encoded(texts)
        found: list[list[tuple[str, str]]] = [[] for _ in rows]
        for at, tokens_BT, mask_BT in self._batches(rows):
            best_BT = np.asarray(self.logits(tokens_BT, mask_BT)).argmax(-1)
            for n, best_T in zip(at, best_BT):
                pairs = zip(rows[n], best_T)
                found[n] = [(tokenizer.token(i), head.labels[c]) for i, c in pairs if i not in tokenizer.specials]
        return found

    def answer(self, question: str, text: str, longest: int = 30) -> Answer:
        """The likeliest part of the text, of at most `longest` tokens, that answers the question: the largest sum of
        the logits of its first and its last token (SQuAD's; arXiv:1810.04805). Question and text are joined as the
        tokenizer joins two; with Longformer's the question's tokens see all."""
        self._needed_head(SpanHead, "answers in a text")
        tokenizer, longest = self._needed_tokenizer(), arguments.integer(longest, "longest", 1)
        question, text = arguments.text(question, "the question"), arguments.text(text, "the text")
        found = tokenizer.encoding(question, text, special=True)
        full = np.array([b > a for a, b in found.offsets or [(0, 0)] * len(found.ids)])
        asked = int(full.argmax()) + len(tokenizer.encode(question))  # places up to the question's end
        at = asked + np.flatnonzero(full[asked:])
        if not len(at):
            raise UserError("there is no text to find an answer in, or the tokenizer does not tell where tokens stand")
        ((_, tokens_BT, mask_BT),) = self._batches([found.ids])
        pad = lambda x: np.pad(np.array(x, np.int32), (0, tokens_BT.shape[1] - len(found.ids)))[None]
        more = {"types_BT": pad(found.types)} if self.config.types > 1 else {}
        if self._has(LongformerConfig):
            more["global_BT"] = pad(np.arange(len(found.ids)) < asked)
        chances_A2 = np.asarray(jax.nn.softmax(self.logits(tokens_BT, mask_BT, **more)[0, at], 0))
        both_AA = np.triu(np.tril(np.outer(chances_A2[:, 0], chances_A2[:, 1]), longest - 1))
        first, last = np.unravel_index(both_AA.argmax(), both_AA.shape)
        assert found.offsets is not None
        start, end = found.offsets[at[first]][0], found.offsets[at[last]][1]
        return Answer(text[start:end].strip(), (start, end), float(both_AA[first, last]))

    @property
    def mask(self) -> int:
        """The id that stands for a hidden token. Raises UserError where the tokenizer has none."""
        tokenizer = self._needed_tokenizer()
        said = tokenizer.settings.roles.get("mask", {}).get("content")
        for spelling in (said, "[MASK]", "<mask>"):
            if spelling is not None and (i := tokenizer.id(spelling)) is not None:
                return i
        raise UserError("this tokenizer has no mask token")

    # What is given ---------------------------------------------------------------------------------------------------

    def _needed_head(self, kind: type = object, what: str = "") -> Any:
        head = self.config.head
        if head is None:
            raise UserError("this encoder has no head, so no logits: its files name none under architectures")
        if not isinstance(head, kind):
            raise UserError(f"this encoder has no head for {what}: its head is a {type(head).__name__}")
        return head

    def _encoded(self, texts: Any, most: int | None = None) -> list[list[int]]:
        texts = arguments.texts([texts] if isinstance(texts, str) else texts)
        if not texts:
            raise UserError("no texts were given")
        tokenizer = self._needed_tokenizer()
        rows = tokenizer.encode_batch(texts, special=True)
        too_long = lambda row: most is not None and len(row) > most
        return [truncated(tokenizer, text, most) if too_long(row) else row for text, row in zip(texts, rows)]

    def _batches(self, rows: list[list[int]]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Which rows, and their tokens and mask (B, T): rows of like length together, padded on the right."""
        order = np.argsort([len(row) for row in rows], kind="stable")
        longest, pad = getattr(self.config.positions, "length", math.inf), self._needed_tokenizer().pad or 0
        for i in range(0, len(rows), BATCH):
            at = order[i : i + BATCH]
            T = max(len(rows[n]) for n in at)
            if longest < T:
                raise UserError(f"a text of {T} tokens, but the model has {longest} positions: cut it, or split it")
            T = int(min(-(-T // ROUND) * ROUND, longest))
            B = len(at) if len(rows) < BATCH else BATCH
            tokens_BT, mask_BT = np.full((B, T), pad, np.int32), np.zeros((B, T), np.int32)
            mask_BT[len(at) :, 0] = 1  # rows that fill the last batch
            for b, n in enumerate(at):
                tokens_BT[b, : len(rows[n])], mask_BT[b, : len(rows[n])] = rows[n], 1
            yield at, tokens_BT, mask_BT

    def _inputs(
        self, tokens_BT: Any, mask_BT: Any, types_BT: Any, global_BT: Any, params: Params | None, first: bool = False
    ) -> tuple[Any, ...]:
        """Parameters, tokens, positions, segments, types and global places of a forward pass, of which the `first`
        tokens may be read."""
        params = self.params if params is None else self._alike(params, "params")
        if not isinstance(tokens_BT, jax.core.Tracer):
            tokens_BT = check_tokens(tokens_BT, self.config.V)
        if mask_BT is not None and not isinstance(mask_BT, jax.core.Tracer):
            mask_BT = check_mask(mask_BT, tokens_BT)
            if not mask_BT.any(-1).all():
                raise UserError(f"row {int(mask_BT.any(-1).argmin())} of the mask has no real token")
            if (first or self._has(BigBirdConfig)) and not mask_BT[:, 0].all():
                raise UserError(f"pad on the right: row {int(mask_BT[:, 0].argmin())} begins with padding")
        if types_BT is not None and not isinstance(types_BT, jax.core.Tracer):
            types_BT = self._types(types_BT, tokens_BT)
        global_BA = self._global(global_BT, mask_BT, tokens_BT)
        as_ints = lambda x: None if x is None else jnp.asarray(x, jnp.int32)
        tokens_BT, mask_BT, types_BT, global_BA = map(as_ints, (tokens_BT, mask_BT, types_BT, global_BA))
        positions_BT = None if mask_BT is None else jnp.maximum(jnp.cumsum(mask_BT, -1) - 1, 0)
        return params, tokens_BT, positions_BT, mask_BT, types_BT, global_BA

    def _has(self, kind: type) -> bool:
        """Whether a layer's mixer is of this kind."""
        return any(isinstance(mixer, kind) for mixer in flops.mixers(self.config))

    def _types(self, types_BT: Any, tokens_BT: Any) -> np.ndarray:
        if not self.config.types:
            raise UserError("this encoder knows one kind of token: leave types_BT out")
        types_BT = check_tokens(types_BT, self.config.V)
        if types_BT.max() >= self.config.types:
            raise UserError(f"types must lie in 0..{self.config.types - 1}, got {types_BT.max()}")
        return _same_shape(types_BT, tokens_BT, "types_BT")

    def _global(self, global_BT: Any, mask_BT: Any, tokens_BT: Any) -> Any:
        """The places of the tokens with global attention. A text's class is read from the first token, so that has it
        unless others are named."""
        able = self._has(LongformerConfig)
        if global_BT is None:
            head = self.config.head
            if not able or head is None or not head.of_text:
                return None
            return np.zeros((len(tokens_BT), 1), np.int32)
        if not able:
            raise UserError("this encoder has no global attention: leave global_BT out")
        if isinstance(global_BT, jax.core.Tracer) or isinstance(mask_BT, jax.core.Tracer):
            raise UserError("global_BT and the mask beside it must be known when a function is traced: give arrays")
        global_BT = _same_shape(check_mask(global_BT, tokens_BT), tokens_BT, "global_BT")
        return places(global_BT if mask_BT is None else global_BT & mask_BT)


def places(mask_BT: np.ndarray) -> np.ndarray:
    """Where each row of the mask is one, int32 (B, A) with -1 behind them; A is a power of two: few compilations."""
    most = int(mask_BT.sum(-1).max(initial=0))
    found_BA = np.full((len(mask_BT), 1 << max(most - 1, 0).bit_length()), -1, np.int32)
    for row_A, row_T in zip(found_BA, mask_BT):
        at = np.flatnonzero(row_T)
        row_A[: len(at)] = at
    return found_BA


def _same_shape(x: np.ndarray, tokens_BT: Any, name: str) -> np.ndarray:
    if x.shape != tokens_BT.shape:
        raise UserError(f"{name} has the shape {x.shape}, the tokens {tokens_BT.shape}")
    return x


@functools.partial(jax.jit, static_argnums=0)
def _forward(model, params, *inputs):
    return dataclasses.replace(models.forward(model, params, *inputs), states=None, statistics={})


@functools.partial(jax.jit, static_argnums=0)
def _logits(model, params, *inputs):
    return model.apply({"params": params}, *inputs)


_pool = jax.jit(pool, static_argnums=2)
