"""Samplers that remember what a row has said."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxlm import arguments, sharding
from jaxlm.axes import Array
from jaxlm.decode.sampling import Choice, Sampler
from jaxlm.errors import UserError


@dataclasses.dataclass(frozen=True)
class RepetitionPenalty(Sampler):
    """Repetition penalty: logits of tokens that stand in the prompt or were chosen: divided by p where positive, else
    multiplied (Keskar et al. 2019, arXiv:1909.05858). Above 1 they become less likely, below 1 more; how often a token
    was said is all one.
    """

    p: float

    def __post_init__(self):
        object.__setattr__(self, "p", arguments.number(self.p, "repetition penalty"))
        if not 0 < self.p < math.inf:
            raise UserError(f"repetition penalty must be above 0 (1 is none), got {self.p:g}")

    def start(self, prompt_BT: Array, mask_BT: Array, V: int) -> Array:
        """Which tokens were said, bool (B, V)."""
        said = lambda ids_T: jnp.zeros(V, bool).at[ids_T].set(True, mode="drop")
        seen_BV = jax.vmap(said)(jnp.where(mask_BT > 0, prompt_BT, V))
        return sharding.constrain(seen_BV, "batch", None)

    def filter(self, logits_BV: Array, state: Array) -> Array:
        return jnp.where(state, jnp.where(logits_BV > 0, logits_BV / self.p, logits_BV * self.p), logits_BV)

    def after(self, state: Array, choice: Choice) -> Array:
        return state | (jnp.arange(state.shape[1])[None] == choice.token_B[:, None])
