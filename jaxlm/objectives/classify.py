"""Classification: the label of a text."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.axes import Array, Params
from jaxlm.config_check import check
from jaxlm.models import EncoderConfig, ModelConfig, SequenceHead, forward, logits
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
            l_BC = logits(model, out)[:, 0]
            label_B, weight_B = batch["labels"][:, 0], batch["weights"][:, 0]
            one_BC = label_B[:, None] == jnp.arange(l_BC.shape[1])[None]
            logprob_BC = jax.nn.log_softmax(l_BC)
            nll_B = -jnp.sum(jnp.where(one_BC, logprob_BC, 0), -1)
            smoothing = 0.0 if key is None else self.label_smoothing
            loss_B = (1 - smoothing) * nll_B - smoothing * jnp.mean(logprob_BC, -1)
            hit_B = (jnp.argmax(l_BC, -1) == label_B) * weight_B
        shown = {"nll": jnp.sum(nll_B * weight_B), "accuracy": jnp.sum(hit_B)}
        return Sums(jnp.sum(loss_B * weight_B), jnp.sum(weight_B), shown), out.statistics

    @property
    def adds(self) -> bool:
        return self.label_smoothing > 0
