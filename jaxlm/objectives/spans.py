"""Span corruption: the pretraining of T5, in which a decoder writes what was cut out of the encoder's text."""

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
class SpanCorruption(Objective):
    """Mean negative log-likelihood of the spans that were cut out of a text, given the rest (Raffel et al. 2019,
    arXiv:1910.10683, 3.1.4).

        text     Thank you for inviting me to your party last week
        source   Thank you <X> me to your party <Y> week </s>
        target   <X> for inviting <Y> last <Z>

    Rows are cut as they come: documents that share one stay together. Marks are the ids from `marks` downwards. Which
    spans is a pure function of batch and key; evaluation cuts the same ones every time.
    """

    marks: int  # the id of the first mark; of the second it is one less, ... (T5: 32099)
    end: int = 1  # the id at the end of source and target
    start: int = 0  # the id before the target
    rate: float = 0.15  # the share of tokens in spans
    mean: float = 3.0  # tokens of a span, on average

    def __post_init__(self):
        check(self, marks=">= 0", end=">= 0", start=">= 0", rate="(0, 1)", mean=">= 1")

    def check(self, model: ModelConfig) -> None:
        if not isinstance(model, Seq2SeqConfig):
            raise unfit(self, model, "it reads no source; try MaskedTokens or NextToken")
        if max(self.marks, self.end, self.start) >= model.V:
            raise unfit(
                self, model, f"marks={self.marks}, end={self.end} and start={self.start} must be below V={model.V}"
            )

    def spec(self, data: Any) -> dict[str, Spec]:
        return tokens(data.T)

    def lengths(self, data: Any) -> dict[str, int]:
        noise, parts = spans.counts(data.T, self.rate, self.mean)
        return {"S": data.T - noise + parts + 1, "T": noise + parts + 1}

    def corrupt(self, tokens_BT: Array, key: Array) -> dict[str, Array]:
        """A batch of sources and targets, of one length each; a pure function of the tokens and the key."""
        B, T = tokens_BT.shape
        noise, parts = spans.counts(T, self.rate, self.mean)
        marks_P = self.marks - jnp.arange(parts + 1)

        def one(tokens_T: Array, key: Array) -> tuple[Array, Array]:
            span_T = spans.random_spans(key, T, self.rate, self.mean)
            source = spans.replaced(tokens_T, span_T, marks_P, T - noise + parts)
            target = spans.replaced(tokens_T, ~span_T, marks_P, noise + parts)
            return jnp.append(source, self.end), jnp.append(target, self.end)

        rows = sharding.constrain(tokens_BT, None, None)
        source_BS, labels_BT = jax.vmap(one)(rows, jax.random.split(key, B))
        source_BS, labels_BT = (sharding.constrain(x, "batch", None) for x in (source_BS, labels_BT))
        shifted_BT = jnp.concatenate([jnp.full_like(labels_BT[:, :1], self.start), labels_BT[:, :-1]], 1)
        return {
            "source": source_BS,
            "source_segments": jnp.ones_like(source_BS),
            "tokens": shifted_BT,
            "labels": labels_BT,
        }

    def loss(
        self, model: ModelConfig, params: Params, batch: Batch, key: Array | None = None
    ) -> tuple[Sums, dict[Any, tuple]]:
        return of_text(self.corrupt, model, params, batch, key)
