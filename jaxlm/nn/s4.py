"""S4 and S4D as mixers: the module that owns a state space for every channel, and the gated product behind it."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.errors import unknown
from jaxlm.nn import init
from jaxlm.nn.context import Context
from jaxlm.nn.heads import keep
from jaxlm.nn.mixer import MixerConfig
from jaxlm.nn.state import Recurrent, zeros
from jaxlm.ops.s4 import DPLR, hippo_legs, s4_conv, s4_scan
from jaxlm.ops.ssm import CHUNK, diagonal_conv, diagonal_scan, s4d_rates, zero_order_hold
from jaxlm.sharding import einsum, weight

KINDS = ("legs", "lin", "inv")


@dataclasses.dataclass(frozen=True)
class S4Config(MixerConfig):
    """S4 (Gu et al. 2022, arXiv:2111.00396), and S4D where A is diagonal (arXiv:2206.11893): u = gelu(ssm(x)),
    y = (u out) * sigmoid(u gate).

    Whole texts are convolved by the fast Fourier transform; what goes on from a state is a scan. The channels, which
    are those of the model, are divided over the devices that divide feed-forward layers.
    """

    D: int  # model width, of what the state keeps
    Z: int = 32  # complex states of each channel: half of the N of papers
    kind: str = "legs"  # "legs": HiPPO-LegS with its matrix of rank one (S4); "lin", "inv": diagonal, as those begin
    low: float = 1e-3  # step sizes begin between this
    high: float = 1e-1  # and this
    chunk_size: int = CHUNK  # positions of the scan that are computed in parallel

    def __post_init__(self):
        check(self, D=">= 1", Z=">= 1", low="> 0", high="> 0", chunk_size=">= 1")
        if self.kind not in KINDS:
            raise unknown("kind of state space", self.kind, KINDS)

    def build(self, depth: int, name: str) -> nn.Module:
        return S4(self, depth, name=name)

    def init_cache(self, B: int, length: int, dtype: Any) -> Recurrent:
        """Zeros, complex64 (B, D, Z), whatever the length and the dtype."""
        return Recurrent(zeros((B, self.D, self.Z), "batch", "mlp", None, dtype=jnp.complex64))

    def score_flops(self, T: int) -> float:
        """Of the transforms of x and back, of both lengths twice the text's; the kernel is made once for all rows."""
        return 20 * self.D * max(1.0, math.log2(2 * T))


class S4(nn.Module):
    """x_BTD, context, past -> y_BTD, state: the states behind the last token, which take the place of the past.

    Where positions are divided over devices, each has the whole row: one state runs along it.
    """

    c: S4Config
    depth: int  # layers of the model, for the initial size of the output projection

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, past: Recurrent | None = None) -> tuple[Array, Recurrent]:
        c, (_, T, D), segments_BT = self.c, x_BTD.shape, context.whole_segments_BT
        (x_BTF,) = keep(sharding.constrain(x_BTD, "batch", None, "mlp"))
        dt_F = jnp.exp(weight(self, "log_dt", (D,), ("mlp",), steps(c.low, c.high)))
        skip_F = weight(self, "skip", (D,), ("mlp",), nn.initializers.normal(1.0))
        read_FZ = complex_weight(self, "c", (D, c.Z), nn.initializers.normal(0.5**0.5))
        state = None if past is None else past.value
        if c.kind == "legs":
            a, p, b = hippo_legs(c.Z)
            system = DPLR(
                rates(self, D, a),
                complex_weight(self, "p", (D, c.Z), constant(p)),
                complex_weight(self, "b", (D, c.Z), constant(b)),
                read_FZ,
                dt_F,
            )
            scanned, last = s4_scan(x_BTF, system, skip_F, state, segments_BT, c.chunk_size)
            y_BTF = scanned if past is not None else s4_conv(x_BTF, system, skip_F, segments_BT)
        else:
            log_FZ, read_FZ = zero_order_hold(rates(self, D, s4d_rates(c.Z, c.kind)), read_FZ, dt_F)
            scanned, last = diagonal_scan(x_BTF, log_FZ, read_FZ, skip_F, state, segments_BT, c.chunk_size)
            y_BTF = scanned if past is not None else diagonal_conv(x_BTF, log_FZ, read_FZ, skip_F, segments_BT)
        u_BTF = sharding.constrain(jax.nn.gelu(y_BTF, approximate=False), *sharding.rows(T)[:2], "mlp")
        y_BTD, gate_BTD = (out(self, name, u_BTF, D, self.depth) for name in ("o", "o_gate"))
        return checkpoint_name(y_BTD * jax.nn.sigmoid(gate_BTD), "out"), Recurrent(last)


def out(module: nn.Module, name: str, u_BTF: Array, D: int, depth: int) -> Array:
    """A product into the residual stream."""
    w_FD = weight(module, name, (u_BTF.shape[-1], D), ("mlp", "embed"), init.residual((0,), depth), (0,))
    return einsum("btf,fd->btd", u_BTF, w_FD.astype(u_BTF.dtype), out=sharding.stream(u_BTF.shape[1]))


def complex_weight(module: nn.Module, name: str, shape: tuple[int, int], start: Any) -> Array:
    """(F, Z) complex, as two weights; `start` is their initialiser, or (real, imaginary) of them."""
    starts = start if isinstance(start, tuple) else (start, start)
    parts = zip(("real", "imag"), starts)
    real, imag = (weight(module, f"{name}_{part}", shape, ("mlp", None), one) for part, one in parts)
    return lax.complex(real, imag)


def rates(module: nn.Module, F: int, a_Z: Any) -> Array:
    """A of every channel, whose real parts stay negative."""
    shape, start_Z = (F, len(a_Z)), jnp.log(-jnp.asarray(a_Z.real, jnp.float32))
    real_FZ = -jnp.exp(weight(module, "log_a_real", shape, ("mlp", None), lambda *_: jnp.tile(start_Z[None], (F, 1))))
    imag = lambda *_: jnp.tile(jnp.asarray(a_Z.imag, jnp.float32)[None], (F, 1))
    return lax.complex(real_FZ, weight(module, "a_imag", shape, ("mlp", None), imag))


def constant(x_Z: Any) -> tuple[Any, Any]:
    """The same for every channel to begin with."""
    one = lambda part_Z: lambda key, shape, dtype: jnp.tile(jnp.asarray(part_Z, dtype)[None], (shape[0], 1))
    return one(x_Z.real), one(x_Z.imag)


def steps(low: float, high: float) -> Any:
    """Logarithms of step sizes, uniform."""
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, math.log(low), math.log(high))
