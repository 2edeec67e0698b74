"""Masked language modelling: restore hidden tokens from both sides."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array, Params
from jaxlm.config_check import check
from jaxlm.losses import cross_entropy
from jaxlm.models import EncoderConfig, MaskedHead, Output, Seq2SeqConfig, forward
from jaxlm.objectives.objective import Batch, Objective, Spec, Sums, is_causal, tokens, unfit


@dataclasses.dataclass(frozen=True)
class MaskedTokens(Objective):
    """Mean negative log-likelihood of hidden tokens, -log p(x_t | the others), in nats (BERT; Devlin et al. 2019,
    arXiv:1810.04805).

    A share `rate` of the real tokens is chosen; of these 80 % become `mask`, 10 % a random token of the first
    `vocabulary` ones, 10 % stay. Which is a pure function of batch and key; evaluation hides the same ones every time.
    With `whole_words` words are chosen instead, all tokens of each; the data must tell them (`DataConfig.words`).
    """

    mask: int  # the id that stands for a hidden token
    rate: float = 0.15
    vocabulary: int | None = None  # ids from which random ones are drawn; None: all of the model's
    whole_words: bool = False

    def __post_init__(self):
        check(self, mask=">= 0", rate="(0, 1]", vocabulary=">= 1")

    def check(self, model: Any) -> None:
        if isinstance(model, Seq2SeqConfig):
            raise unfit(self, model, "it reads a source beside the text; try SequenceToSequence")
        if is_causal(model):
            raise unfit(self, model, "its attention is causal, so no token sees what stands behind it; try NextToken")
        if isinstance(model, EncoderConfig) and not isinstance(model.head, MaskedHead):
            raise unfit(self, model, "it has no head for hidden tokens: give it head=MaskedHead()")
        if self.mask >= model.V:
            raise unfit(self, model, f"mask={self.mask} is no id of its vocabulary of {model.V}")

    def spec(self, data: Any) -> dict[str, Spec]:
        more = {"words": Spec((data.T,), jnp.int32, ("positions",))} if self.whole_words else {}
        return tokens(data.T) | more

    def hide(self, batch: Batch, key: Array, V: int) -> tuple[Array, Array]:
        """The tokens (B, T) that the model is shown, and where they were chosen, boolean (B, T)."""
        tokens_BT = batch["tokens"]
        where = sharding.out_sharding("batch", "positions")
        draw = lambda key: jax.random.uniform(key, tokens_BT.shape, out_sharding=where)
        choice_BT, change_BT, other_BT = map(draw, jax.random.split(key, 3))
        if self.whole_words:  # as its first token is
            rows = "batch", None
            choice_BT, words_BT = sharding.constrain(choice_BT, *rows), sharding.constrain(batch["words"], *rows)
            choice_BT = sharding.constrain(jnp.take_along_axis(choice_BT, words_BT, 1), "batch", "positions")
        chosen_BT = (choice_BT < self.rate) & (batch["segments"] > 0)
        if "weights" in batch:  # special tokens and padding are not hidden
            chosen_BT &= batch["weights"] > 0
        random_BT = (other_BT * (self.vocabulary or V)).astype(tokens_BT.dtype)
        hidden_BT = jnp.where(change_BT < 0.8, self.mask, jnp.where(change_BT < 0.9, random_BT, tokens_BT))
        return jnp.where(chosen_BT, hidden_BT, tokens_BT), chosen_BT

    def loss(self, model: Any, params: Params, batch: Batch, key: Array | None = None) -> tuple[Sums, dict[Any, tuple]]:
        hide, drop = (jax.random.key(0), None) if key is None else jax.random.split(key)
        shown_BT, chosen_BT = self.hide(batch, hide, model.V)
        out = forward(model.build(), params, shown_BT, batch["positions"], batch["segments"], dropout_key=drop)
        with jax.named_scope("loss"):
            total, weight = restored(model, out, batch["tokens"], chosen_BT)
        return Sums(total, weight, {}), out.statistics


def restored(model: Any, out: Output, tokens_BT: Array, chosen_BT: Array) -> tuple[Array, Array]:
    """The summed negative log-likelihood of the chosen tokens, and how many there are."""
    weights_BT = chosen_BT.astype(jnp.float32)
    found = cross_entropy(out.hidden_BTD, out.head_VD, tokens_BT, weights_BT, softcap=model.softcap, bias_V=out.bias_V)
    return found.total, found.weight
