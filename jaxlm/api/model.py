"""A trained model with its parameters and tokenizer: scoring, writing, saving."""

import bisect
import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from jaxlm import arguments, convert, models
from jaxlm import decode as decoding
from jaxlm.api import embeddings
from jaxlm.api.adapters import Adaptable, Adapter
from jaxlm.axes import Array, Params
from jaxlm.convert import gguf
from jaxlm.decode import Constraint, DecodeState, Draft, Greedy, Lookup, Sampler
from jaxlm.decode.cache import in_int8
from jaxlm.errors import UserError
from jaxlm.losses import token_logprobs
from jaxlm.paths import expand
from jaxlm.text import TextStream, Tokenizer
from jaxlm.text.formats.gguf import gguf_values

STREAM = 8  # tokens decoded between two looks at them


@dataclasses.dataclass(frozen=True)
class Generated:
    """What `generate` returns: new tokens only, int32 (B, new), -1 after the stop; float32 log probabilities, 0 after
    the stop, of the model before any sampler; where there is a tokenizer, the texts, such that prompt + text reads on.
    """

    tokens: np.ndarray
    logprobs: np.ndarray
    texts: list[str] | None
    scores: np.ndarray | None = None  # (B,), of beam search
    alternatives: tuple[np.ndarray, np.ndarray] | None = None  # (B, A, new), (B, A), best first
    tokens_per_pass: float | None = None  # of speculative decoding: what one pass of the model gave a row


def written(
    config: Any, layers: Params, tokens_BT: Any, key: Array | None, *, sampler: Sampler, **how: Any
) -> Generated:
    """What a model writes, token by token or by a search; all else as `decode.generate` has it."""
    search = decoding.parted(sampler)[1]
    if search is None:
        return Generated(*decoding.generate(config, layers, tokens_BT, sampler=sampler, key=key, **how), None)
    if isinstance(search, decoding.Contrastive):
        return Generated(*decoding.contrastive_search(config, layers, tokens_BT, sampler=sampler, **how), None)
    texts = decoding.beam_search(config, layers, tokens_BT, sampler=sampler, key=key, **how)
    tokens_BAT, logprobs_BAT, scores_BA = map(np.asarray, (texts.tokens_BAT, texts.logprobs_BAT, texts.score_BA))
    tokens, logprobs = tokens_BAT[:, 0].copy(), logprobs_BAT[:, 0].copy()  # a stop text may cut them
    return Generated(tokens, logprobs, None, scores_BA[:, 0], (tokens_BAT, scores_BA))


class LanguageModel(Adaptable):
    """A Flax module, its parameters, its config and its tokenizer (or None). Made by `load`.

    `source` tells how to write a model that came in Hugging Face's layout as it was, `stops` are the ids that end a
    text where there is no tokenizer to say it.
    """

    def __init__(
        self,
        config: models.LMConfig,
        params: Params,
        tokenizer: Tokenizer | None,
        source: convert.Source | None = None,
        stops: tuple[int, ...] = (),
    ):
        super().__init__(config, params, tokenizer, source)
        self.config: models.LMConfig = config
        self.stops = stops if tokenizer is None else tokenizer.stops
        self._layers: tuple[Params, Any] | None = None

    def save_gguf(self, path: str | Path, kind: str = "F16", say: Callable[[str], None] = lambda line: None) -> None:
        """Write the model and its tokenizer as one GGUF file, matrices of `kind`: "F32", "F16", "Q8_0" or "Q4_0".

        Raises UserError for a family or a tokenizer that is not written.
        """
        values = gguf_values(self.tokenizer, str(path)) if self.tokenizer else {}
        gguf.save(expand(path), self.config, self.params, self._source(), values, kind, say)

    def logits(
        self, tokens_BT: Any, mask_BT: Any = None, params: Params | None = None, adapter: Adapter = None
    ) -> Array:
        """float32 (B, T, V). Rows may be padded on the left: `mask_BT` is 1 on real tokens. Differentiable in `params`
        (any tree like `self.params`). `adapter` is a name of `add_adapter`, or one for each row. Raises UserError for
        ids outside the vocabulary."""
        return _logits(self.model, *self._inputs(tokens_BT, mask_BT, params, adapter))

    def logprobs(
        self,
        texts: str | Sequence[str] | Any,
        mask_BT: Any = None,
        params: Params | None = None,
        adapter: Adapter = None,
    ) -> Array:
        """The log probability of each next token, float32 (B, T - 1), without ever holding (B, T, V).

            logprobs[b, t] = log softmax(logits[b, t])[tokens[b, t + 1]]

        Of texts, encoded as `generate` encodes prompts and padded on the left; or of a (B, T) array of tokens, which
        `mask_BT` may show to be padded. It is 0 where either of the two tokens is padding, so that a row's sum is the
        log probability of its text after the first token. Differentiable in `params`; errors as in `logits`.

            -lm.logprobs("def f(x):").sum()  # nats
        """
        if _are_texts(texts):
            texts, mask_BT = self._prompts(texts, mask_BT)
        return _logprobs(self.model, *self._inputs(texts, mask_BT, params, adapter))

    def _inputs(self, tokens_BT: Any, mask_BT: Any, params: Params | None, adapter: Adapter) -> tuple[Any, ...]:
        """Parameters, tokens, positions and segments of a forward pass; the last two are None without a mask."""
        params = self.params if params is None else self._alike(params, "params")
        if not isinstance(tokens_BT, jax.core.Tracer):
            tokens_BT = decoding.check_tokens(tokens_BT, self.config.V)
        tokens_BT = jnp.asarray(tokens_BT, jnp.int32)
        params = self._adapted(params, adapter, len(tokens_BT))
        if mask_BT is None:
            return params, tokens_BT, None, None
        if not isinstance(mask_BT, jax.core.Tracer):
            mask_BT = decoding.check_mask(mask_BT, tokens_BT)
        mask_BT = jnp.asarray(mask_BT, jnp.int32)
        return params, tokens_BT, jnp.maximum(jnp.cumsum(mask_BT, -1) - 1, 0), mask_BT

    def generate(
        self,
        prompts: str | Sequence[str] | Any,
        max_new_tokens: int = 64,
        sampler: Sampler = Greedy(),
        key: Array | None = None,
        stop: str | int | Sequence[str | int] | None = None,
        mask_BT: Any = None,
        constraint: Constraint | None = None,
        draft: "Lookup | Draft | LanguageModel | None" = None,
        adapter: Adapter = None,
    ) -> Generated:
        """Continues texts, or a (B, T) array of tokens, which `mask_BT` may show to be padded on the left.

        A row ends at the end-of-text tokens that the model's files or its tokenizer name, and at a `stop`: a token id,
        or a text, which is then cut from the texts (and everything after it from the tokens). A special token's
        spelling is its id, also within a text: "<end>\\n" is that token and a line feed. A text that begins with the
        token that the tokenizer would put there, as `chat_text` makes it, is read as `encode_chat` reads it. With a
        `constraint`, such as jaxlm.JsonSchema(schema), new texts are what that allows, and end within `max_new_tokens`.
        With a `draft`, jaxlm.Lookup() or a smaller model of its tokens, fewer passes find the same (greedy), or what
        is distributed alike (sampled): see `decode.speculative`. `adapter` is a name of `add_adapter`, or one for each
        row. Raises UserError for what cannot be decoded.
        """
        tokens_BT, mask_BT = self._prompts(prompts, mask_BT)
        ids, stops, marks = self.ended_by(stop)
        if constraint is not None:
            if draft is not None:
                raise UserError("a constraint is not followed by a draft: leave one of them out")
            return self._constrained(constraint, stop, tokens_BT, mask_BT, max_new_tokens, sampler, key, adapter)
        config, layers = self._prepared_with(adapter, len(tokens_BT))
        how = {"max_new_tokens": max_new_tokens, "sampler": self._within(sampler), "stop": ids}
        if draft is None:
            found = written(config, layers, tokens_BT, key, mask_BT=mask_BT, **how)
        else:
            part = decoding.Draft(*draft.prepared()) if isinstance(draft, LanguageModel) else draft
            found_BT = decoding.speculative(config, layers, tokens_BT, part, mask_BT=mask_BT, key=key, **how)
            found = Generated(*found_BT[:2], None, tokens_per_pass=found_BT[2])
        if self.tokenizer is None:
            return found
        tokens, logprobs = found.tokens, found.logprobs
        tokens_BT, texts = np.asarray(tokens_BT), []
        mask_BT = np.ones(tokens_BT.shape) if mask_BT is None else np.asarray(mask_BT)
        for b, real_T in enumerate(mask_BT.astype(bool)):
            count, text = self._cut(tokens_BT[b][real_T], tokens[b][tokens[b] >= 0], stops, marks)
            tokens[b, count:], logprobs[b, count:] = -1, 0
            texts.append(text)
        return dataclasses.replace(found, texts=texts)

    def _constrained(
        self,
        constraint: Constraint,
        stop: Any,
        tokens_BT: Any,
        mask_BT: Any,
        new: int,
        sampler: Sampler,
        key: Any,
        adapter: Adapter,
    ) -> Generated:
        if not isinstance(constraint, Constraint):
            raise UserError(
                f"a constraint must be one of jaxlm's, such as Regex or JsonSchema, got {arguments.kind(constraint)}"
            )
        if stop is not None:
            raise UserError("a constraint says where a text ends: leave stop out")
        if (search := decoding.parted(sampler)[1]) is not None:
            raise UserError(f"{search.what} does not follow a constraint: use another sampler")
        compiled = constraint.compile(tokenizer := self._needed_tokenizer())
        how = {"mask_BT": mask_BT, "max_new_tokens": new, "sampler": sampler, "key": key}
        tokens, logprobs = decoding.constrained(
            *self._prepared_with(adapter, len(tokens_BT)), tokens_BT, compiled, **how
        )
        ends = {-1, *compiled.stops, *tokenizer.specials}
        texts = [b"".join(tokenizer.pieces[i] for i in row if i not in ends) for row in tokens.tolist()]
        return Generated(tokens, logprobs, [text.decode("utf-8", "replace") for text in texts])

    def stream(
        self,
        prompt: str,
        max_new_tokens: int = 64,
        sampler: Sampler = Greedy(),
        key: Array | None = None,
        stop: str | int | Sequence[str | int] | None = None,
        adapter: str | None = None,
    ) -> Iterator[str]:
        """The text of `generate(prompt, ...)`, in pieces as it is decoded; never half a character.

        Errors are raised, and the prompt is read, before the first piece is asked for.
        """
        tokenizer, (ids, stops, marks) = self._needed_tokenizer(), self.ended_by(stop)
        tokens_BT, mask_BT = self._prompts(arguments.text(prompt, "the prompt of a stream"), None)
        config, layers = self._prepared_with(adapter, 1)
        sampler = self._within(sampler)
        state, how = decoding.prefill(config, layers, tokens_BT, mask_BT, max_new_tokens, sampler, key, ids)
        max_new_tokens = int(max_new_tokens)  # whole, now that it is checked
        text = TextStream(tokenizer, skip_special=True)
        text.push(tokens_BT[0])

        def pieces(state: DecodeState) -> Iterator[str]:
            held, seen, keep = "", 0, max((len(stop) - 1 for stop in stops), default=0)
            for until in itertools.chain(range(1, max_new_tokens, STREAM), [max_new_tokens]):
                state = decoding.decode(how, layers, state, until)
                new_BT, _, done_B = map(np.asarray, decoding.results(state))
                held += push(text, [i for i in new_BT[0, seen:until] if i >= 0], marks)
                seen, ended = until, done_B[0] or until == max_new_tokens
                held += text.flush() if ended else ""
                at = stop_at(held, stops)
                ended |= at is not None
                ready = at if at is not None else len(held) if ended else max(0, len(held) - keep)
                if piece := unmarked(held[:ready]):  # the rest may be the beginning of a stop
                    yield piece
                if ended:
                    return
                held = held[ready:]

        return pieces(state)

    def explain(self, text: str, k: int = 10, sampler: Sampler = Sampler()) -> str:
        """The table of the k likeliest next tokens after a text: probabilities, their running sum, and where a sampler
        is given the probability with which it draws each. Print it."""
        tokenizer, k = self._needed_tokenizer(), arguments.integer(k, "k", 1)
        if (search := decoding.parted(sampler)[1]) is not None:
            raise UserError(f"{search.what} chooses by whole texts: give a sampler that draws tokens")
        tokens_BT, mask_BT = self._prompts(arguments.text(text, "the text to explain"), None)
        V = min(tokenizer.V, self.config.V)
        logits_BV = self.logits(tokens_BT)[:, -1, :V]
        prompt_BT, mask_BT = jnp.asarray(tokens_BT), jnp.asarray(mask_BT)
        drawn_BV = sampler.filter(logits_BV, sampler.start(prompt_BT, mask_BT, V))
        return decoding.candidates(logits_BV[0], drawn_BV[0], k, tokenizer.spell)

    def vectors(self, words: str | Sequence[str]) -> Array:
        """The vectors (words, D) of words in the embedding table. Raises UserError for a word that is not one token,
        as it is written: a space before it counts."""
        words = [words] if isinstance(words, str) else arguments.texts(words, "words")
        return embeddings.vectors(self.params, self._needed_tokenizer(), words)

    def neighbours(self, word: str, k: int = 8) -> list[tuple[str, float]]:
        """The k tokens whose vectors are nearest to that of `word`, and their cosines, best first."""
        return embeddings.neighbours(self.params, self._needed_tokenizer(), word, k)

    def analogy(self, a: str, b: str, c: str, k: int = 8) -> list[tuple[str, float]]:
        """a - b + c: `analogy("king", "man", "woman")` asks what is to woman as king is to man. As `neighbours`."""
        return embeddings.analogy(self.params, self._needed_tokenizer(), a, b, c, k)

    def quantize_cache(self) -> Self:
        """The same model that keeps keys and values of earlier tokens in int8 while it writes, see
        `decode.cache.in_int8`."""
        other = self._with(self.params)
        other.config = in_int8(self.config)
        other.model, other._layers = other.config.build(), None
        return other

    def prepared(self) -> tuple[models.LMConfig, Params]:
        """Config and parameters in the layout of decoding, made once."""
        if self._layers is None or self._layers[0] is not self.params:
            self._layers = self.params, decoding.prepare(self.config, self.params)
        return self._layers[1]

    def _prepared_with(self, adapter: Adapter, B: int) -> tuple[models.LMConfig, Params]:
        """`prepared`, for rows of these adapters."""
        config, layers = self.prepared()
        return config, self._adapted(layers, adapter, B)

    def _within(self, sampler: Sampler) -> Sampler:
        """The sampler kept from ids that the tokenizer has not."""
        return sampler if self.tokenizer is None else decoding.within(sampler, self.tokenizer.V, self.config.V)

    def _prompts(self, prompts: Any, mask_BT: Any) -> tuple[Any, Any]:
        """Tokens and their mask, as they are given or of texts: decoding checks them."""
        prompts = [prompts] if isinstance(prompts, str) else prompts
        if not isinstance(prompts, list | tuple | np.ndarray | jax.Array) or not getattr(prompts, "ndim", 1):
            raise UserError(
                f"prompts must be texts, or an array of tokens (rows, positions), got {arguments.kind(prompts)}"
            )
        if len(prompts) == 0:
            raise UserError("no prompts were given")
        if not any(isinstance(prompt, str) for prompt in prompts):
            return prompts, mask_BT
        if not all(isinstance(prompt, str) for prompt in prompts):
            raise UserError("prompts must be all texts or all tokens")
        if mask_BT is not None:
            raise UserError("a mask goes with tokens: texts are padded and masked here")
        return decoding.left_pad([self._needed_tokenizer().encode_prompt(text) for text in prompts])

    def ended_by(self, stop: Any) -> tuple[tuple[int, ...], list[str], dict[int, str]]:
        """The ids and the texts that end a row, and the marks of special tokens that stand within the texts."""
        several = isinstance(stop, list | tuple | np.ndarray | jax.Array) and getattr(stop, "ndim", 1)
        stops = [] if stop is None else list(stop) if several else [stop]
        name, last = "a stop is a text or a token id: what is no text", self.config.V - 1
        stops = [s if isinstance(s, str) else arguments.integer(s, name, 0, last) for s in stops]
        if "" in stops:
            raise UserError("a stop text must not be empty")
        texts = [s for s in stops if isinstance(s, str)]
        special = {spelling: i for i, spelling in self._needed_tokenizer().specials.items()} if texts else {}
        ids = [special.get(s) if isinstance(s, str) else s for s in stops]  # the texts leave special tokens out
        marked, marks = _marked([s for s in texts if s not in special], special)
        return tuple(i for i in ids if i is not None) + self.stops, texts + marked, marks

    def _cut(self, prompt_T: np.ndarray, new_T: np.ndarray, stops: list[str], marks: dict[int, str]) -> tuple[int, str]:
        """How many of a row's new tokens stay, and their text before the stop text that is complete first."""

        def text(count: int) -> str:
            stream = TextStream(self._needed_tokenizer(), skip_special=True)
            stream.push(prompt_T)  # a space after it, or the rest of a character, belongs to the continuation
            return push(stream, new_T[:count], marks) + stream.flush()

        whole = text(len(new_T))
        at = stop_at(whole, stops)
        if at is None:
            return len(new_T), unmarked(whole)
        written = lambda count: text(count).startswith(whole[:at])
        return bisect.bisect_left(range(len(new_T)), True, key=written), unmarked(whole[:at])


MARKS = range(0xD800, 0xE000)  # lone surrogates, which no decoded text has: each stands for one special token
_NO_MARKS = dict.fromkeys(MARKS)


def _are_texts(given: Any) -> bool:
    several = isinstance(given, list | tuple | np.ndarray) and getattr(given, "ndim", 1)
    return isinstance(given, str) or bool(several and any(isinstance(one, str) for one in given))


def _marked(texts: list[str], special: dict[str, int]) -> tuple[list[str], dict[int, str]]:
    """The texts that have spellings of special tokens within, with marks for these, and the marks by id. As they are
    spelled, in letters, the texts are stops too."""
    spellings = sorted((s for s in special if s and any(s in text for text in texts)), key=len, reverse=True)
    marks = {spelling: chr(mark) for spelling, mark in zip(spellings, MARKS)}
    if not marks:
        return [], {}
    pattern = re.compile("|".join(map(re.escape, marks)))
    found = [pattern.sub(lambda m: marks[m[0]], text) for text in texts if pattern.search(text)]
    return found, {special[spelling]: mark for spelling, mark in marks.items()}


def push(stream: TextStream, ids: Sequence[int] | np.ndarray, marks: dict[int, str]) -> str:
    """What the stream makes of the ids, with a mark in place of each special token that has one."""
    if not marks:
        return stream.push(ids)
    return "".join(stream.push([i]) + marks.get(int(i), "") for i in ids)


def unmarked(text: str) -> str:
    return text.translate(_NO_MARKS) if not text.isascii() else text


def stop_at(text: str, stops: list[str]) -> int | None:
    """Where the text ends: before the stop that is complete first, whatever is decoded at a time."""
    return min(((text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text), default=(0, None))[1]


_logits = jax.jit(
    lambda model, params, tokens_BT, positions_BT, segments_BT: model.apply(
        {"params": params}, tokens_BT, positions_BT, segments_BT
    ),
    static_argnums=0,
)


@functools.partial(jax.jit, static_argnums=0)
def _logprobs(model, params, tokens_BT, positions_BT, mask_BT):
    out = models.forward(model, params, tokens_BT, positions_BT, mask_BT)
    labels_BT = jnp.roll(tokens_BT, -1, 1)  # the last of a row has none
    found_BT, _ = token_logprobs(out.hidden_BTD, out.head_VD, labels_BT, softcap=model.c.softcap, bias_V=out.bias_V)
    if mask_BT is not None:
        found_BT = jnp.where((mask_BT * jnp.roll(mask_BT, -1, 1)) == 1, found_BT, 0)
    return found_BT[:, :-1]
