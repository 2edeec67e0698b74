"""Denoising: the pretraining of BART, in which a decoder writes the text whose spoilt form the encoder reads."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array, Params
from jaxlm.config_check import check
from jaxlm.models import ModelConfig, Seq2SeqConfig
from jaxlm.objectives.objective import Batch, Objective, Spec, Sums, tokens, unfit
from jaxlm.objectives.sequence_to_sequence import of_text
from jaxlm.ops import spans


@dataclasses.dataclass(frozen=True)
class Denoising(Objective):
    """Mean negative log-likelihood of a text given its sentences in another order, with masks in place of spans (Lewis
    et al. 2019, arXiv:1910.13461, 2.2).

        text     Thank you for inviting me . It was fun .
        source   It <mask> fun . Thank <mask> inviting me <mask> . </s>
        target   Thank you for inviting me . It was fun . </s>

    Rows are cut as they come: documents that share one stay together. What is spoilt is a pure function of batch and
    key; evaluation spoils the same every time.
    """

    mask: int  # BART: 50264
    ends: tuple[int, ...] = ()  # tokens that end a sentence; (): their order stays
    end: int = 2  # the id at the end of source and target
    start: int = 2  # the id before the target
    rate: float = 0.3  # the share of tokens that are cut out; 0: none
    mean: float = 3.0  # tokens of a span, on average

    def __post_init__(self):
        check(self, mask=">= 0", end=">= 0", start=">= 0", rate="[0, 1)", mean="> 0")

    def check(self, model: ModelConfig) -> None:
        if not isinstance(model, Seq2SeqConfig):
            raise unfit(self, model, "it reads no source; try MaskedTokens or NextToken")
        if max(self.mask, self.end, self.start, *self.ends) >= model.V:
            raise unfit(
                self, model, f"mask={self.mask}, end={self.end}, start={self.start} and ends must be below its V"
            )

    def spec(self, data: Any) -> dict[str, Spec]:
        return tokens(data.T)

    def lengths(self, data: Any) -> dict[str, int]:
        return {"S": data.T + 2, "T": data.T + 1}

    def spoil(self, tokens_BT: Array, key: Array) -> dict[str, Array]:
        """Sources (B, T + 2), padded, and targets (B, T + 1): a pure function of the tokens and the key."""
        B, T = tokens_BT.shape

        def one(tokens_T: Array, key: Array) -> tuple[Array, Array]:
            order, cut = jax.random.split(key)
            if self.ends:
                tokens_T = spans.permuted(order, tokens_T, jnp.array(self.ends))
            found, n = jnp.append(tokens_T, 0), jnp.asarray(T)
            if self.rate:
                found, n = spans.infilled(cut, tokens_T, self.mask, self.rate, self.mean)
            place = jnp.arange(T + 2)
            source = jnp.where(place == n, self.end, jnp.where(place < n, jnp.append(found, 0), 0))
            return source, (place <= n).astype(jnp.int32)

        rows = sharding.constrain(tokens_BT, None, None)
        source_BS, segments_BS = jax.vmap(one)(rows, jax.random.split(key, B))
        edge = lambda i: jnp.full_like(rows[:, :1], i)
        found = {
            "source": source_BS,
            "source_segments": segments_BS,
            "tokens": jnp.concatenate([edge(self.start), rows], 1),
            "labels": jnp.concatenate([rows, edge(self.end)], 1),
        }
        return {name: sharding.constrain(x, "batch", None) for name, x in found.items()}

    def loss(
        self, model: ModelConfig, params: Params, batch: Batch, key: Array | None = None
    ) -> tuple[Sums, dict[Any, tuple]]:
        return of_text(self.spoil, model, params, batch, key)
