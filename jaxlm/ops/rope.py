"""Rotary positions (RoPE; Su et al. 2021, arXiv:2104.09864) and the ways they are stretched to longer texts.

Pair i of a head turns by the angle t w_i at position t, with w_i = base^(-2i/K), so the product of two rotated vectors
depends on their distance only. A scaling is a small frozen object that gives the frequencies w of one head and a factor
on the rotated vectors; two of them depend on the length of the whole text, and say so by `dynamic`.
"""

import dataclasses
import math
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from jaxlm.axes import Array
from jaxlm.config_check import check, within
from jaxlm.errors import UserError


def frequencies(K: int, base: float) -> np.ndarray:
    """w_i = base^(-2i/K), (K/2,)."""
    return base ** -(np.arange(0, K, 2) / K)


def rotate(x_BTHK: Array, positions_BT: Array, w_k: Array, factor: float = 1.0, interleaved: bool = False) -> Array:
    """The first 2k entries of each head, rotated by the angles t w; the others stay. Computed in float32.

    Pairs are (x[i], x[i + k]), or (x[2i], x[2i + 1]) where `interleaved`. `positions_BT` may have one row, for all.
    """
    k = w_k.shape[0]
    angle_BT1k = positions_BT.astype(jnp.float32)[:, :, None, None] * w_k.astype(jnp.float32)[None, None, None]
    cos, sin = jnp.cos(angle_BT1k) * factor, jnp.sin(angle_BT1k) * factor
    x = x_BTHK[..., : 2 * k].astype(jnp.float32)
    if interleaved:
        pairs = x.reshape(*x.shape[:-1], k, 2)
        a, b = pairs[..., 0], pairs[..., 1]
        turned = jnp.stack([a * cos - b * sin, b * cos + a * sin], -1).reshape(x.shape)
    else:
        a, b = jnp.split(x, 2, -1)
        turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
    turned = turned.astype(x_BTHK.dtype)
    return turned if 2 * k == x_BTHK.shape[-1] else jnp.concatenate([turned, x_BTHK[..., 2 * k :]], -1)


@dataclasses.dataclass(frozen=True)
class Unscaled:
    """The frequencies as they are."""

    dynamic: ClassVar[bool] = False  # whether frequencies depend on the length of the text

    def turns(self, length: int) -> bool:
        """Whether a text of so many tokens has other frequencies than one that is a token shorter."""
        return False

    @property
    def attention_factor(self) -> float:
        """What rotated queries and keys are multiplied by."""
        return 1.0

    def frequencies(self, K: int, base: float, length: Array | int) -> Array:
        """w (K/2,) of a head of width K, for a text of `length` tokens."""
        return jnp.asarray(frequencies(K, base), jnp.float32)


@dataclasses.dataclass(frozen=True)
class Reversed(Unscaled):
    """Pairs turn the other way, by -t w_i (nanochat; Karpathy 2025): the distance counts as before."""

    def frequencies(self, K: int, base: float, length: Array | int) -> Array:
        return -super().frequencies(K, base, length)


@dataclasses.dataclass(frozen=True)
class Linear(Unscaled):
    """Position interpolation: w / factor (Chen et al. 2023, arXiv:2306.15595)."""

    factor: float

    def __post_init__(self):
        _positive(self, "factor")

    def frequencies(self, K: int, base: float, length: Array | int) -> Array:
        return jnp.asarray(frequencies(K, base) / self.factor, jnp.float32)


@dataclasses.dataclass(frozen=True)
class DynamicNTK(Unscaled):
    """A base that grows with the text beyond `length` tokens: base (factor s / length - factor + 1)^(K / (K - 2)) at s
    tokens (bloc97 and emozilla 2023; Peng et al. 2023, arXiv:2309.00071, appendix B)."""

    dynamic: ClassVar[bool] = True
    factor: float
    length: int  # positions of the training

    def __post_init__(self):
        _positive(self, "factor", "length")

    def turns(self, length: int) -> bool:
        return length > self.length

    def frequencies(self, K: int, base: float, length: Array | int) -> Array:
        longer = jnp.maximum(length, self.length).astype(jnp.float32)
        grown = base * (self.factor * longer / self.length - (self.factor - 1)) ** (K / max(K - 2, 1))
        return grown ** -(jnp.arange(0, K, 2, dtype=jnp.float32) / K)


@dataclasses.dataclass(frozen=True)
class Yarn(Unscaled):
    """YaRN (Peng et al. 2023, arXiv:2309.00071): fast pairs keep w, slow ones have w / factor, between them a ramp.

    A pair is fast when it turns more than `beta_fast` times within `length` positions, slow below `beta_slow`. Rotated
    vectors are multiplied by `attention`, or else by m(factor) = 0.1 ln(factor) + 1; DeepSeek divides two such terms.
    """

    factor: float
    length: int  # positions of the training before it was stretched
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True  # round the ramp's ends outwards to whole pairs
    attention: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None

    def __post_init__(self):
        _positive(self, "factor", "length", "beta_fast", "beta_slow")

    @property
    def attention_factor(self) -> float:
        if self.attention is not None:
            return self.attention
        if self.mscale and self.mscale_all_dim:
            return yarn_magnitude(self.factor, self.mscale) / yarn_magnitude(self.factor, self.mscale_all_dim)
        return yarn_magnitude(self.factor)

    def frequencies(self, K: int, base: float, length: Array | int) -> Array:
        pair = lambda turns: K * math.log(self.length / (turns * 2 * math.pi)) / (2 * math.log(base))
        low, high = pair(self.beta_fast), pair(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, K - 1)
        ramp_k = np.clip((np.arange(K // 2) - low) / (high - low if high != low else 0.001), 0, 1)
        w_k = frequencies(K, base)
        return jnp.asarray(w_k * (1 - ramp_k) + w_k / self.factor * ramp_k, jnp.float32)


def yarn_magnitude(factor: float, mscale: float = 1.0) -> float:
    """m(factor) = 0.1 mscale ln(factor) + 1: by how much attention is sharpened over a stretched context."""
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


@dataclasses.dataclass(frozen=True)
class Llama3(Unscaled):
    """Llama 3.1 (arXiv:2407.21783): pairs of wavelength below length / high keep w, above length / low have w / factor,
    between them a line in length / wavelength. With low = high (Llama 4 Scout) there is nothing between them."""

    factor: float
    length: int  # positions of the training before it was stretched
    low: float = 1.0
    high: float = 4.0

    def __post_init__(self):
        _positive(self, "factor", "length", "low", "high")
        if self.low > self.high:
            raise UserError(f"rotary positions: low={self.low} must not be above high={self.high}")

    def frequencies(self, K: int, base: float, length: Array | int) -> Array:
        w_k = frequencies(K, base)
        turns_k = self.length * w_k / (2 * math.pi)
        if self.low == self.high:
            keep_k = np.float64(turns_k >= self.low)
        else:
            keep_k = np.clip((turns_k - self.low) / (self.high - self.low), 0, 1)
        return jnp.asarray(w_k * keep_k + w_k / self.factor * (1 - keep_k), jnp.float32)


@dataclasses.dataclass(frozen=True)
class LongRope(Unscaled):
    """LongRoPE (Ding et al. 2024, arXiv:2402.13753): w / short while the text has at most `length` tokens, else
    w / long, for all its positions. Rotated vectors are multiplied by `attention`, or else by
    sqrt(1 + ln(factor) / ln(length))."""

    dynamic: ClassVar[bool] = True
    short: tuple[float, ...]
    long: tuple[float, ...]
    length: int  # positions of the training before it was stretched
    factor: float  # by how much it was stretched
    attention: float | None = None

    def __post_init__(self):
        check(self, factor="> 0", length="> 1")
        for name in ("short", "long"):
            for i, value in enumerate(getattr(self, name)):
                within(f"{name}.{i}", value, "> 0")

    @property
    def attention_factor(self) -> float:
        if self.attention is not None:
            return self.attention
        return math.sqrt(1 + math.log(self.factor) / math.log(self.length)) if self.factor > 1 else 1.0

    def turns(self, length: int) -> bool:
        return length == self.length + 1

    def frequencies(self, K: int, base: float, length: Array | int) -> Array:
        if not len(self.short) == len(self.long) == K // 2:
            found = f"{len(self.short)} short and {len(self.long)} long"
            raise UserError(f"rotary positions: {found} factors, but {K // 2} pairs are rotated")
        w_k = frequencies(K, base)
        short_k, long_k = (jnp.asarray(w_k / np.array(by), jnp.float32) for by in (self.short, self.long))
        return jnp.where(length > self.length, long_k, short_k)


Scaling = Unscaled | Reversed | Linear | DynamicNTK | Yarn | Llama3 | LongRope


def _positive(scaling: Unscaled, *names: str) -> None:
    check(scaling, **dict.fromkeys(names, "> 0"))
