"""A trained encoder-decoder with its parameters and tokenizer: what it makes of a source, and what it writes."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from jaxlm import arguments, convert
from jaxlm import decode as decoding
from jaxlm.api.base import Loaded
from jaxlm.api.model import Generated, written
from jaxlm.axes import Array, Params
from jaxlm.decode import Banned, Forced, Greedy, MinLength, Sampler
from jaxlm.errors import UserError
from jaxlm.models import Seq2SeqConfig
from jaxlm.text import Tokenizer

ROUND = 32  # sources that are decoded from are padded to multiples of so many tokens: few shapes are compiled


@dataclasses.dataclass(frozen=True)
class Writing:
    """How a model's files say that it writes: with which token it starts, which it must and must not choose."""

    start: int | None = None  # the decoder's first token, which is not part of the text
    first: int | None = None  # forced as the first new token
    last: int | None = None  # forced at the last place of the longest text
    banned: tuple[int, ...] = ()  # never chosen
    not_first: tuple[int, ...] = ()  # never chosen as the first new token


def read_writing(folder: Path) -> Writing:
    """What generation_config.json says, and config.json where it says nothing. Raises UserError for what is no id."""
    said: dict[str, Any] = {}
    for name in ("config.json", "generation_config.json"):
        path = folder / name
        value = json.loads(path.read_bytes()) if path.is_file() else {}
        said |= {key: x for key, x in value.items() if x is not None} if isinstance(value, dict) else {}

    def token(*keys: str) -> int | None:
        found = [arguments.integer(said[key], f"{folder}: {key}", 0) for key in keys if key in said]
        return found[0] if found else None

    def several(key: str) -> list[Any]:
        return said[key] if isinstance(said.get(key), list) else []

    words = [word[0] for word in several("bad_words_ids") if isinstance(word, list) and len(word) == 1]
    banned = Banned((*words, *(i for i in several("suppress_tokens") if i != -1))).tokens
    not_first = Banned(tuple(several("begin_suppress_tokens"))).tokens
    start = token("decoder_start_token_id", "bos_token_id")
    return Writing(start, token("forced_bos_token_id"), token("forced_eos_token_id"), banned, not_first)


class Seq2Seq(Loaded):
    """A Flax module, its parameters, its config and its tokenizer (or None). Made by `load`.

    A source is a text, several, or tokens (B, S) with a `mask` that is 1 on real ones, padded on either side: positions
    count from the first real token. Every call is differentiable in `params`, any tree like `self.params`. They raise
    UserError for ids outside the vocabulary, a mask with no real token in a row, and sources longer than the model has
    positions.
    """

    def __init__(
        self,
        config: Seq2SeqConfig,
        params: Params,
        tokenizer: Tokenizer | None,
        source: convert.Source | None = None,
        stops: tuple[int, ...] = (),
        writing: Writing = Writing(),
    ):
        super().__init__(config, params, tokenizer, source)
        self.config: Seq2SeqConfig = config
        self.stops = stops if tokenizer is None else tokenizer.stops
        self.writing = writing
        self._layers: tuple[Params, Any] | None = None

    def encode(self, source: Any, mask: Any = None, params: Params | None = None) -> Array:
        """What the encoder makes of a source, (B, S, D); at padding it means nothing."""
        return _encode(self.model, self._params(params), *self._source_of(source, mask))

    def logits(self, source: Any, target_BT: Any, mask: Any = None, params: Params | None = None) -> Array:
        """float32 (B, T, V) of the tokens that follow each of the target's, whose first is the start token."""
        if not isinstance(target_BT, jax.core.Tracer):
            target_BT = decoding.check_tokens(target_BT, self.config.V)
        ids_BS, mask_BS = self._source_of(source, mask)
        if len(ids_BS) != len(target_BT):
            raise UserError(f"{len(ids_BS)} sources, but {len(target_BT)} targets: give a target for each")
        return _logits(self.model, self._params(params), jnp.asarray(target_BT, jnp.int32), ids_BS, mask_BS)

    def generate(
        self,
        source: Any,
        max_new_tokens: int = 64,
        sampler: Sampler = Greedy(),
        key: Array | None = None,
        stop: int | Sequence[int] | None = None,
        mask: Any = None,
        *,
        start: int | Sequence[int] | None = None,
        first: int | None = None,
        last: int | None = None,
        banned: Sequence[int] = (),
    ) -> Generated:
        """Writes a text for each source, token by token or by a search such as `jaxlm.Beam`: what follows `start`,
        which is the first token or the first few.

        A row ends at the end tokens that the model's files or its tokenizer name, and at those of `stop`. `first` is
        forced as the first new token and `last` as that at `max_new_tokens`; both and `start` are as the files say
        unless given. `banned` ones are never chosen, nor those that the files ban. Raises UserError where no file names
        the start token.
        """
        source_BS, mask_BS = self._rounded(*self._source_of(source, mask))
        new, V, own = arguments.integer(max_new_tokens, "max_new_tokens", 1), self.config.V, self.writing
        start = own.start if start is None else start
        if start is None:
            raise UserError(
                "the model's files name no decoder_start_token_id: give start=, the id that a text begins with"
            )
        begin = [arguments.integer(i, "start", 0, V - 1) for i in np.atleast_1d(np.asarray(start)).tolist()]
        given = {"first": first, "last": last}
        token = {
            name: getattr(own, name) if x is None else arguments.integer(x, name, 0, V - 1) for name, x in given.items()
        }
        stops = [] if stop is None else np.atleast_1d(np.asarray(stop)).tolist()
        stops = [arguments.integer(i, "a stop", 0, V - 1) for i in stops]
        sampler = self._known(sampler)
        if token["first"] is not None or token["last"] is not None:
            sampler = Forced(token["first"], token["last"], new) | sampler
        if own.not_first:
            sampler = MinLength(1, own.not_first) | sampler
        if banned := (*own.banned, *banned):
            sampler = Banned(tuple(banned)) | sampler
        config, layers = self._prepared()
        found = written(
            config,
            layers,
            np.tile(np.array(begin, np.int32), (len(source_BS), 1)),
            key,
            max_new_tokens=new,
            sampler=sampler,
            stop=(*stops, *self.stops),
            inputs={"source_BS": source_BS, "source_segments_BS": mask_BS},
        )
        if self.tokenizer is None:
            return found
        return dataclasses.replace(found, texts=[self._text(row[row >= 0].tolist()) for row in found.tokens])

    def _known(self, sampler: Sampler) -> Sampler:
        """The sampler, kept to tokens that the tokenizer knows."""
        return sampler if self.tokenizer is None else decoding.within(sampler, self.tokenizer.V, self.config.V)

    def _text(self, ids: list[int]) -> str:
        return self._needed_tokenizer().decode(ids, skip_special=True)

    def _prepared(self) -> tuple[Any, Params]:
        if self._layers is None or self._layers[0] is not self.params:
            self._layers = self.params, decoding.prepare(self.config, self.params)
        return self._layers[1]

    def _params(self, params: Params | None) -> Params:
        return self.params if params is None else self._alike(params, "params")

    def _source_of(self, source: Any, mask: Any) -> tuple[Array, Array | None]:
        """Tokens and mask of a source, checked."""
        if isinstance(source, str) or (isinstance(source, list | tuple) and any(isinstance(s, str) for s in source)):
            if mask is not None:
                raise UserError("a mask goes with tokens: texts are padded and masked here")
            source, mask = self._encoded(arguments.texts([source] if isinstance(source, str) else source, "sources"))
        if not isinstance(source, jax.core.Tracer):
            source = decoding.check_tokens(source, self.config.V)
        S, longest = source.shape[1], decoding.longest(self.config)
        if longest < S:
            raise UserError(f"a source of {S} tokens exceeds the {longest} positions of the model: cut it")
        if mask is None:
            mask = np.ones(source.shape, np.int32)
        elif not isinstance(mask, jax.core.Tracer):
            mask = decoding.check_mask(mask, source)
            if not mask.any(1).all():
                raise UserError(f"source {int(np.argmin(mask.any(1)))} has no real token: its mask is all zeros")
        return jnp.asarray(source, jnp.int32), jnp.asarray(mask, jnp.int32)

    def _encoded(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of texts, padded on the right, and their mask."""
        rows = [self._needed_tokenizer().encode(text, special=True) for text in texts]
        if empty := [i for i, row in enumerate(rows) if not row]:
            raise UserError(f"source {empty[0]} is an empty text")
        width = max(map(len, rows), default=0)
        pad = lambda x: np.pad(x, (0, width - len(x)))
        return np.stack([pad(row) for row in rows]), np.stack([pad(np.ones(len(row), np.int32)) for row in rows])

    def _rounded(self, ids_BS: Any, mask_BS: Any) -> tuple[np.ndarray, np.ndarray | None]:
        ids_BS, mask_BS, S = np.asarray(ids_BS), np.asarray(mask_BS), ids_BS.shape[1]
        more = int(min(-S % ROUND, decoding.longest(self.config) - S))
        return np.pad(ids_BS, ((0, 0), (0, more))), np.pad(mask_BS, ((0, 0), (0, more)))


_encode = jax.jit(
    lambda model, params, source_BS, mask_BS: model.apply({"params": params}, source_BS, mask_BS, method="encode"),
    static_argnums=0,
)
_logits = jax.jit(
    lambda model, params, target_BT, source_BS, mask_BS: model.apply(
        {"params": params}, target_BT, source_BS=source_BS, source_segments_BS=mask_BS
    ),
    static_argnums=0,
)
