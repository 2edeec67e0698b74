"""Classification: the label of a text, or of each of its words."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.axes import Array, Params
from jaxlm.config_check import check
from jaxlm.models import EncoderConfig, ModelConfig, SequenceHead, TokenHead, forward, logits
from jaxlm.objectives.objective import Batch, Objective, Spec, Sums, tokens, unfit


@dataclasses.dataclass(frozen=True)
class Classify(Objective):
    """Mean negative log-likelihood of texts' labels, -log p(y | x), in nats, and the accuracy: the share of texts whose
    label is the likeliest. Smoothing (Szegedy et al. 2016, arXiv:1512.00567) in training only."""

    label_smoothing: float = 0.0

    def __post_init__(self):
        check(self, label_smoothing="[0, 1)")

    def check(self, model: ModelConfig) -> None:
        if not isinstance(model, EncoderConfig) or not isinstance(model.head, SequenceHead):
            raise unfit(self, model, "it has no head for classes of texts: give an encoder head=SequenceHead(labels)")

    def spec(self, data: Any) -> dict[str, Spec]:
        row = tokens(data.T)
        of_text = {"labels": Spec((1,), jnp.int32, (None,)), "weights": Spec((1,), jnp.float32, (None,))}
        return {name: row[name] for name in ("tokens", "segments", "positions")} | of_text

    def loss(
        self, model: ModelConfig, params: Params, batch: Batch, key: Array | None = None
    ) -> tuple[Sums, dict[Any, tuple]]:
        out = forward(model.build(), params, batch["tokens"], batch["positions"], batch["segments"], dropout_key=key)
        with jax.named_scope("loss"):
            l_BTC = logits(model, out)  # of a text T is 1
            label_BT, weight_BT = batch["labels"], batch["weights"]
            one_BTC = label_BT[..., None] == jnp.arange(l_BTC.shape[-1])[None, None]
            logprob_BTC = jax.nn.log_softmax(l_BTC)
            nll_BT = -jnp.sum(jnp.where(one_BTC, logprob_BTC, 0), -1)
            smoothing = 0.0 if key is None else self.label_smoothing
            loss_BT = (1 - smoothing) * nll_BT - smoothing * jnp.mean(logprob_BTC, -1)
            hit_BT = (jnp.argmax(l_BTC, -1) == label_BT) * weight_BT
        shown = {"nll": jnp.sum(nll_BT * weight_BT), "accuracy": jnp.sum(hit_BT)}
        return Sums(jnp.sum(loss_BT * weight_BT), jnp.sum(weight_BT), shown), out.statistics

    @property
    def adds(self) -> bool:
        return self.label_smoothing > 0


@dataclasses.dataclass(frozen=True)
class TagTokens(Classify):
    """The same of each token that has a label, such as the first of each word (`data.TaggedWords`)."""

    def check(self, model: ModelConfig) -> None:
        if not isinstance(model, EncoderConfig) or not isinstance(model.head, TokenHead):
            raise unfit(self, model, "it has no head for classes of tokens: give an encoder head=TokenHead(labels)")

    def spec(self, data: Any) -> dict[str, Spec]:
        return tokens(data.T)
