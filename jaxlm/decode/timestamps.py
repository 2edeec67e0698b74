"""The rules of Whisper's timestamps, as a sampler."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from jaxlm import arguments, sharding
from jaxlm.axes import Array
from jaxlm.decode.sampling import Choice, Sampler


@struct.dataclass
class Stamps:
    """Of each row: tokens chosen, whether the last and the one before were timestamps, and the latest timestamp."""

    count_B: Array
    last_B: Array
    before_B: Array
    stamp_B: Array


@dataclasses.dataclass(frozen=True)
class Timestamps(Sampler):
    """Timestamps come in pairs, never go back, and stand where their sum is likelier than any text (Radford et al.
    2022, arXiv:2212.04356).

    Ids from `first` on are timestamps, 0.02 s apart; those below `end` are text, `end` ends it. The first token is a
    timestamp of at most `latest` steps. After text and a timestamp comes another one or the end, after two of them
    text. text is excluded where logsumexp(z_timestamps) > max(z_text).
    """

    first: int
    end: int
    latest: int = 50

    def __post_init__(self):
        for name in ("first", "end", "latest"):
            object.__setattr__(self, name, arguments.integer(getattr(self, name), name, 0))

    def start(self, prompt_BT: Array, mask_BT: Array, V: int) -> Stamps:
        whole = lambda x, dtype: sharding.constrain(jnp.full(len(prompt_BT), x, dtype), "batch")
        return Stamps(whole(0, jnp.int32), whole(True, bool), whole(True, bool), whole(self.first - 1, jnp.int32))

    def filter(self, logits_BV: Array, state: Stamps) -> Array:
        ids_1V = jnp.arange(logits_BV.shape[-1])[None]
        is_stamp, is_text = ids_1V >= self.first, ids_1V < self.end
        opening_B1, last_B1, before_B1 = (x[:, None] for x in (state.count_B == 0, state.last_B, state.before_B))
        # A segment may begin when the one before ended, and must not end when it began.
        least_B1 = state.stamp_B[:, None] + ~(last_B1 & ~before_B1)
        banned = (ids_1V == self.first - 1) | (is_stamp & (ids_1V < least_B1))
        paired = jnp.where(before_B1, is_stamp, is_text)
        banned |= jnp.where(opening_B1, ~is_stamp | (ids_1V > self.first + self.latest), last_B1 & paired)
        logits_BV = jnp.where(banned, -jnp.inf, logits_BV)
        stamps_B = jax.nn.logsumexp(jnp.where(is_stamp, logits_BV, -jnp.inf), -1)
        text_B = jnp.max(jnp.where(is_stamp, -jnp.inf, logits_BV), -1)
        return jnp.where((stamps_B > text_B)[:, None] & ~is_stamp, -jnp.inf, logits_BV)

    def after(self, state: Stamps, choice: Choice) -> Stamps:
        is_stamp_B = choice.token_B >= self.first
        stamp_B = jnp.where(is_stamp_B, choice.token_B, state.stamp_B)
        return Stamps(state.count_B + 1, is_stamp_B, state.last_B, stamp_B)
