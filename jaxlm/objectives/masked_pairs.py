"""The pretraining of BERT: hidden tokens of two texts, and whether the second follows the first."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.axes import Array, Params
from jaxlm.models import EncoderConfig, forward
from jaxlm.objectives.masked_tokens import MaskedTokens, restored
from jaxlm.objectives.objective import Batch, Spec, Sums, unfit


@dataclasses.dataclass(frozen=True)
class MaskedPairs(MaskedTokens):
    """Mean of -log p(x_t | the others) over hidden tokens, plus mean of -log p(follows | both texts) over pairs, in
    nats (BERT; Devlin et al. 2019, arXiv:1810.04805). Both are shown too, and the accuracy of the second. The data is
    `data.SentencePairs`."""

    def check(self, model: Any) -> None:
        super().check(model)
        if not isinstance(model, EncoderConfig) or not (model.next_sentence and model.types > 1):
            raise unfit(self, model, "it has no head for the next sentence: set pooler, next_sentence and types=2")

    def spec(self, data: Any) -> dict[str, Spec]:
        one = {"follows": Spec((1,), jnp.int32, (None,)), "pair_weights": Spec((1,), jnp.float32, (None,))}
        found = super().spec(data) | {"types": Spec((data.T,), jnp.int32, ("positions",))} | one
        return {name: own for name, own in found.items() if name != "labels"}

    def loss(self, model: Any, params: Params, batch: Batch, key: Array | None = None) -> tuple[Sums, dict[Any, tuple]]:
        hide, drop = (jax.random.key(0), None) if key is None else jax.random.split(key)
        shown_BT, chosen_BT = self.hide(batch, hide, model.V)
        args = shown_BT, batch["positions"], batch["segments"], batch["types"]
        out = forward(model.build(), params, *args, dropout_key=drop)
        with jax.named_scope("loss"):
            total, weight = restored(model, out, batch["tokens"], chosen_BT)
            # As transformers has them, the first class says that the second text follows.
            class_B, weight_B = 1 - batch["follows"][:, 0], batch["pair_weights"][:, 0]
            next_B2, pairs = out.encoded.next_B2, jnp.maximum(jnp.sum(weight_B), 1)
            logprob_B2 = jax.nn.log_softmax(next_B2)
            nll_B = -jnp.where(class_B == 0, logprob_B2[:, 0], logprob_B2[:, 1])
            mean = lambda x_B: jnp.sum(x_B * weight_B) / pairs
            after, hits = mean(nll_B), mean((jnp.argmax(next_B2, -1) == class_B).astype(jnp.float32))
        # What is a mean already counts once a hidden token: all is divided by their number.
        shown = {"masked": total, "next_sentence": after * weight, "accuracy": hits * weight}
        return Sums(total + after * weight, weight, shown), out.statistics
