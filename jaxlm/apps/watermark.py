"""A watermark in what a model writes, and its detector (Kirchenbauer et al. 2023, arXiv:2301.10226).

The token before and a key make a share gamma of the vocabulary green; its logits gain delta. A text of T tokens, g of
them green behind their neighbours, has

    z = (g - gamma T) / sqrt(T gamma (1 - gamma)),

normal in unmarked text. A pair of tokens counts once, since a repeated one is no new evidence.
"""

import dataclasses
import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlm import arguments
from jaxlm.axes import Array
from jaxlm.decode.sampling import Choice, Sampler
from jaxlm.errors import UserError


def green(before: Any, token: Any, gamma: float, key: int, xp: Any = np) -> Any:
    """Whether `token` is green behind `before`, by a hash of 32 bits (Wellons' lowbias32) that numpy and jax.numpy
    (`xp`) compute alike."""
    word = lambda x: xp.asarray(x).astype(xp.uint32)

    def mix(x: Any) -> Any:
        x = (x ^ (x >> xp.uint32(16))) * xp.uint32(0x7FEB352D)
        x = (x ^ (x >> xp.uint32(15))) * xp.uint32(0x846CA68B)
        return x ^ (x >> xp.uint32(16))

    with np.errstate(over="ignore"):
        mixed = mix(mix(word(before) ^ xp.uint32(key)) + word(token) * xp.uint32(2654435769))
    return mixed < xp.uint32(min(int(gamma * 2**32), 2**32 - 1))


@dataclasses.dataclass(frozen=True)
class Watermark(Sampler):
    """Logits of green tokens gain `delta`: put it before what draws, `Watermark(key=7) | Temperature(0.8)`."""

    gamma: float = 0.25
    delta: float = 2.0
    key: int = 15485863

    def __post_init__(self):
        if not 0 < arguments.number(self.gamma, "gamma") < 1:
            raise UserError(f"gamma, the share of green tokens, must lie between 0 and 1, got {self.gamma:g}")
        if not 0 < arguments.number(self.delta, "delta") < math.inf:
            raise UserError(f"delta must be above 0, got {self.delta:g}")
        arguments.integer(self.key, "key", 0, 2**32 - 1)

    def start(self, prompt_BT: Array, mask_BT: Array, V: int) -> Array:
        """The last token of each prompt (B,)."""
        return prompt_BT[:, -1].astype(jnp.int32)

    def filter(self, logits_BV: Array, state: Array) -> Array:
        token_V = jnp.arange(logits_BV.shape[-1])
        marked = green(state[:, None], token_V[None], self.gamma, self.key, jnp)
        return jnp.where(marked, logits_BV + self.delta, logits_BV)

    def after(self, state: Array, choice: Choice) -> Array:
        return jnp.where(choice.token_B >= 0, choice.token_B, state).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Detected:
    """z, its one-sided p-value, and of how many different pairs of tokens how many are green."""

    z: float
    p: float
    green: int
    pairs: int

    @property
    def marked(self) -> bool:
        """At z above 4: 3e-5 of unmarked texts."""
        return self.z > 4


def detect(tokens: Sequence[int] | Any, mark: Watermark = Watermark()) -> Detected:
    """Whether tokens, the prompt's last one first, were written with this mark. Raises UserError for less than two."""
    ids = np.asarray(tokens)
    if ids.ndim != 1 or len(ids) < 2 or ids.dtype.kind not in "iu":
        raise UserError("the detector reads a row of at least two token ids")
    pairs = np.unique(ids[:-1].astype(np.int64) << 32 | ids[1:])
    found, T = int(green(pairs >> 32, pairs & 0xFFFFFFFF, mark.gamma, mark.key).sum()), len(pairs)
    z = (found - mark.gamma * T) / math.sqrt(T * mark.gamma * (1 - mark.gamma))
    return Detected(z, 1 - NormalDist().cdf(z), found, T)
