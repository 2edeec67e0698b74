"""Next-token prediction of answers alone, with how many of them are right."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxlm.axes import Array, Params
from jaxlm.models import ModelConfig, forward, logits
from jaxlm.objectives.next_token import NextToken
from jaxlm.objectives.objective import Batch, Sums


@dataclasses.dataclass(frozen=True)
class Answers(NextToken):
    """As NextToken, of rows in which only an answer has weight, and of small vocabularies: evaluation has all logits.

    It shows beside "nll" the "accuracy" of single tokens and the share of rows that are "exact", both with the true
    tokens before each.
    """

    def loss(
        self, model: ModelConfig, params: Params, batch: Batch, key: Array | None = None
    ) -> tuple[Sums, dict[tuple[str, ...], tuple]]:
        if key is not None:
            return super().loss(model, params, batch, key)
        out = forward(model.build(), params, batch["tokens"], batch["positions"], batch["segments"])
        logp_BTV = jax.nn.log_softmax(logits(model, out))
        hot_BTV = jax.nn.one_hot(batch["labels"], logp_BTV.shape[-1])
        nll = -jnp.sum(jnp.sum(logp_BTV * hot_BTV, -1) * batch["weights"])
        asked_BT = batch["weights"] > 0
        right_BT = jnp.argmax(logp_BTV, -1) == batch["labels"]
        rows_B, all_B = asked_BT.any(1), (right_BT | ~asked_BT).all(1)
        shown = {"nll": nll, "accuracy": jnp.sum(right_BT * batch["weights"])}
        shown |= {"rows": jnp.sum(rows_B, dtype=jnp.float32), "exact": jnp.sum(rows_B & all_B, dtype=jnp.float32)}
        return Sums(nll, jnp.sum(batch["weights"]), shown), out.statistics
