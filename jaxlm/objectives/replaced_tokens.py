"""ELECTRA's joint training: a generator restores hidden tokens, a discriminator tells its mistakes from the text."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array, Params
from jaxlm.config_check import check
from jaxlm.models import ElectraConfig, forward, logits
from jaxlm.objectives.masked_tokens import MaskedTokens, restored
from jaxlm.objectives.objective import Batch, Sums, unfit

LEAST = 1e-20  # of a random number whose logarithm is taken


@dataclasses.dataclass(frozen=True)
class ReplacedTokens(MaskedTokens):
    """L = mean of -log p_G(x_t | the others) over hidden tokens + `factor` times the mean over all real tokens of
    -log p_D(whether x'_t = x_t), where x' has the generator's samples in place of hidden tokens (ELECTRA; Clark et al.
    2020, arXiv:2003.10555). No gradient goes through the samples. All hidden tokens become `mask`.

    Shown are the generator's loss, the discriminator's, and its accuracy.
    """

    factor: float = 50.0

    def __post_init__(self):
        super().__post_init__()
        check(self, factor="> 0")

    def check(self, model: Any) -> None:
        if not isinstance(model, ElectraConfig):
            raise unfit(self, model, "it takes a generator and a discriminator: give an ElectraConfig of both")
        super().check(model.generator)

    def hide(self, batch: Batch, key: Array, V: int) -> tuple[Array, Array]:
        _, chosen_BT = super().hide(batch, key, V)
        return jnp.where(chosen_BT, self.mask, batch["tokens"]), chosen_BT

    def loss(self, model: Any, params: Params, batch: Batch, key: Array | None = None) -> tuple[Sums, dict[Any, tuple]]:
        hide, draw, drop = jax.random.split(jax.random.key(0) if key is None else key, 3)
        drops = (None, None) if key is None else jax.random.split(drop)
        hidden_BT, chosen_BT = self.hide(batch, hide, model.V)
        module, more = model.build(), (batch["positions"], batch["segments"])
        made = forward(module, params, hidden_BT, *more, generator=True, dropout_key=drops[0])
        with jax.named_scope("loss"):
            total, weight = restored(model, made, batch["tokens"], chosen_BT)
            shown_BT = jnp.where(chosen_BT, sample(logits(model.generator, made), draw), batch["tokens"])
        out = forward(module, params, shown_BT, *more, dropout_key=drops[1])
        with jax.named_scope("loss"):
            replaced_BT, l_BT = shown_BT != batch["tokens"], logits(model.discriminator, out)[..., 0]
            real_BT = (batch["segments"] > 0) & (batch["weights"] > 0)
            mean = lambda x_BT: jnp.sum(jnp.where(real_BT, x_BT, 0)) / jnp.maximum(jnp.sum(real_BT), 1)
            told = mean(jax.nn.softplus(jnp.where(replaced_BT, -l_BT, l_BT)))
            hits = mean(((l_BT > 0) == replaced_BT).astype(jnp.float32))
        shown = {"generator": total, "discriminator": told * weight, "accuracy": hits * weight}
        return Sums(total + self.factor * told * weight, weight, shown), made.statistics | out.statistics


def sample(logits_BTV: Array, key: Array) -> Array:
    """Tokens (B, T) drawn by softmax(logits), as the largest of logits + Gumbel noise; no gradient."""
    l_BTV = jax.lax.stop_gradient(sharding.constrain(logits_BTV, "batch", "positions", None))
    where = sharding.out_sharding("batch", "positions", None)
    u_BTV = jax.random.uniform(key, l_BTV.shape, minval=LEAST, out_sharding=where)
    return jnp.argmax(l_BTV - jnp.log(-jnp.log(u_BTV)), -1).astype(jnp.int32)
