"""HGRN as a mixer: a gated recurrence of single units (`ops.blocked_scan`) whose forget gates have lower bounds."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.nn.context import Context
from jaxlm.nn.gated_linear import forget, gated
from jaxlm.nn.heads import heads, merge
from jaxlm.nn.mixer import MixerConfig
from jaxlm.nn.state import Recurrent, zeros
from jaxlm.ops.blocked_scan import CHUNK, blocked_scan
from jaxlm.ops.norms import grouped_rms_norm
from jaxlm.sharding import weight


@dataclasses.dataclass(frozen=True)
class HGRNConfig(MixerConfig):
    """HGRN (Qin et al. 2023, arXiv:2311.04823), its real form: h_t = f h_(t-1) + (1 - f) silu(x W), y = (norm(h) *
    silu(x gate)) out, f as in `HGRN2Config`. H K units; H says how they may be divided over devices."""

    H: int
    K: int
    eps: float = 1e-5  # of the norm
    chunk_size: int = CHUNK  # positions of a block, see ops.blocked_scan

    def __post_init__(self):
        check(self, **dict.fromkeys(("H", "K", "chunk_size"), ">= 1"), eps="> 0")

    def build(self, depth: int, name: str) -> nn.Module:
        return HGRN(self, depth, name=name)

    def init_cache(self, B: int, length: int, dtype: Any) -> Recurrent:
        """Zeros, float32 (B, H, K), whatever the length and the dtype."""
        return Recurrent(zeros((B, self.H, self.K), "batch", "heads", None))

    def score_flops(self, T: int) -> float:
        """Of the recurrence."""
        return 6 * self.H * self.K


class HGRN(nn.Module):
    """x_BTD, context, past -> y_BTD, state: h behind the last token.

    Where positions are divided over devices, each has the whole row: one state runs along it.
    """

    c: HGRNConfig
    depth: int  # layers of the model, for the lower bounds and the initial size of the output projection

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, past: Recurrent | None = None) -> tuple[Array, Recurrent]:
        c, state = self.c, None if past is None else past.value
        x_BTHK, gate_BTHK = (heads(self, name, x_BTD, c.H, c.K).astype(jnp.float32) for name in ("x", "forget"))
        bound_HK = weight(self, "bound", (c.H, c.K), ("heads", None))
        log_BTHK, new_BTHK = forget(gate_BTHK, bound_HK[None, None], context, self.depth)
        h_BTHK, state = blocked_scan(
            log_BTHK, new_BTHK * jax.nn.silu(x_BTHK), state, context.whole_segments_BT, c.chunk_size
        )
        scale_HK = weight(self, "norm", (c.H, c.K), ("heads", None), nn.initializers.ones_init())
        y_BTHK = grouped_rms_norm(h_BTHK.astype(x_BTD.dtype), scale_HK, 1, c.eps)
        return merge(self, "o", gated(self, y_BTHK, x_BTD), x_BTD.shape[-1], self.depth), Recurrent(state)
