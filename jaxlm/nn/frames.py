"""Frames of sound become positions of an encoder, by Whisper's two convolutions (Radford et al. 2022,
arXiv:2212.04356)."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.errors import UserError, unknown
from jaxlm.nn import init
from jaxlm.ops.activations import ACTIVATIONS
from jaxlm.sharding import einsum, weight


@dataclasses.dataclass(frozen=True)
class FramesConfig:
    """A log-mel spectrogram, two frames a position: convolutions of width 3, the second of stride 2, and a table of
    positions that begins as sinusoids.

    x = gelu(conv2(gelu(conv1(mel)))) + positions
    """

    bands: int  # mel bands of a frame
    length: int  # positions: half as many as frames
    activation: str = "gelu"  # a name of ops.activations

    def __post_init__(self):
        check(self, bands=">= 1", length=">= 1")
        if self.activation not in ACTIVATIONS:
            raise unknown("activation", self.activation, ACTIVATIONS)

    def build(self, D: int, name: str) -> nn.Module:
        return Frames(self, D, name=name)


class Frames(nn.Module):
    """mel_BSM, S frames of M bands -> x_BTD of T = S / 2 (rounded up) positions."""

    c: FramesConfig
    D: int

    @nn.compact
    def __call__(self, mel_BSM: Array, dtype: jnp.dtype) -> Array:
        c, act = self.c, ACTIVATIONS[self.c.activation]
        if mel_BSM.ndim != 3 or mel_BSM.shape[-1] != c.bands:
            raise UserError(f"frames must be (B, S, {c.bands}), {c.bands} mel bands each, got {mel_BSM.shape}")
        if mel_BSM.shape[1] > 2 * c.length:
            raise UserError(f"{mel_BSM.shape[1]} frames, but the model has positions for {2 * c.length}: cut them")
        x_BTD = act(self._conv("conv1", mel_BSM.astype(dtype), 1))
        x_BTD = act(self._conv("conv2", x_BTD, 2))
        T = x_BTD.shape[1]
        table_SD = weight(self, "positions", (c.length, self.D), (None, "embed"), _sinusoids)
        x_BTD += sharding.constrain(table_SD, None, None)[None, :T].astype(dtype)
        return sharding.constrain(x_BTD, *sharding.stream(T))

    def _conv(self, name: str, x_BSM: Array, stride: int) -> Array:
        """Zeros before the first frame and behind the last: as many positions as S / stride, rounded up."""
        S, M = x_BSM.shape[1:]
        w_WMD = weight(self, name, (3, M, self.D), (None, None, "embed"), init.fan_in((0, 1)), (0, 1))
        w_FD = w_WMD.astype(x_BSM.dtype).reshape(3 * M, self.D)
        b_D = weight(self, f"{name}_bias", (self.D,), (None,)).astype(x_BSM.dtype)
        x_BSM = jnp.pad(sharding.constrain(x_BSM, "batch", None, None), ((0, 0), (1, 1), (0, 0)))
        taps_BTF = jnp.concatenate([x_BSM[:, w : w + S : stride] for w in range(3)], -1)
        return einsum("btf,fd->btd", taps_BTF, w_FD, out=("batch", None, None)) + b_D[None, None]


def _sinusoids(key: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    """All sines, then all cosines; the lowest frequency is 1e-4 of the first whatever the width."""
    S, D = shape
    at_S1, rate_1D = np.arange(S)[:, None], np.exp(-np.log(1e4) / max(D // 2 - 1, 1) * np.arange(D // 2))[None]
    return jnp.asarray(np.concatenate([f(at_S1 * rate_1D) for f in (np.sin, np.cos)], 1), dtype)
