"""Attention problems, and attention as three loops: what every implementation must equal."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.axes import Array
from jaxlm.ops import attention
from jaxlm.ops.rule import Extras, Rule


@dataclasses.dataclass(frozen=True)
class Case:
    T: int = 13
    H: int = 4
    G: int = 2
    K: int = 8
    J: int = 8
    B: int = 2
    causal: bool = True
    window: int | None = None
    chunk: int | None = None
    softcap: float | None = None
    packed: bool = False
    biased: bool = False
    sinks: bool = False

    def __str__(self) -> str:
        numbers = {"w": self.window, "chunk": self.chunk, "cap": self.softcap}
        words = [f"T{self.T}", f"H{self.H}G{self.G}", "causal" if self.causal else "full"]
        words += [f"{name}{n}" for name, n in numbers.items() if n is not None]
        words += [f"J{self.J}"] * (self.J != self.K)
        return "-".join(words + [name for name in ("packed", "biased", "sinks") if getattr(self, name)])

    def rule(self, scale: float | None = None) -> Rule:
        return Rule(self.causal, self.window, self.chunk, self.K**-0.5 if scale is None else scale, self.softcap)

    def options(self) -> dict:
        """What `attention` is told beside the arrays."""
        return {name: getattr(self, name) for name in ("causal", "window", "chunk", "softcap")}

    def arrays(self, dtype=jnp.float32) -> tuple[Array, Array, Array, Array, Extras]:
        """q, k, v, the cotangent of the output, and the rest (documents in a row, padding on both sides)."""
        rng = np.random.default_rng(0)
        draw = lambda heads, width: jnp.asarray(rng.normal(size=(self.B, self.T, heads, width)), dtype)
        qkv_do = draw(self.H, self.K), draw(self.G, self.K), draw(self.G, self.J), draw(self.H, self.J)
        segments = positions = bias = sinks = None
        at = np.arange(self.T)[None]
        if self.packed:
            cuts = np.stack([[self.T // 2, self.T], [self.T // 5, self.T - 1 - self.T // 8]])
            segments = 1 + (at >= cuts[:, :1]) - 2 * (at >= cuts[:, 1:])
            segments[1, 0] = 0
            segments = segments[-self.B :]
            starts = np.diff(segments, prepend=-1) != 0
            positions = at - np.maximum.accumulate(np.where(starts, at, 0), 1)
            segments, positions = jnp.asarray(segments, jnp.int32), jnp.asarray(positions, jnp.int32)
        if self.biased:
            bias = jnp.asarray(rng.normal(size=(self.H, 2 * self.T - 1)), jnp.float32)
        if self.sinks:
            sinks = jnp.asarray(rng.normal(size=self.H), jnp.float32)
        return *qkv_do, Extras(segments, positions, bias, sinks)

    def mask(self) -> np.ndarray:
        """(B or 1, T, T)"""
        at = np.arange(self.T)
        back = (at[:, None] - at)[None]
        mask = back >= 0 if self.causal else np.ones_like(back, bool)
        if self.window is not None:
            mask = mask & (abs(back) < self.window)
        extras = self.arrays()[-1]
        pairs = lambda x: x[:, :, None] == x[:, None, :]
        if self.packed:
            mask = mask & pairs(np.asarray(extras.segments_BT))
        if self.chunk is not None:
            positions = at[None] if extras.positions_BT is None else np.asarray(extras.positions_BT)
            mask = mask & (abs(back) < self.chunk) & pairs(positions // self.chunk)
        return mask

    def bias(self) -> np.ndarray | None:
        """(1, H, T, T)"""
        table, at = self.arrays()[-1].bias_HZ, np.arange(self.T)
        return None if table is None else np.asarray(table)[None, :, at[:, None] - at + self.T - 1]


CASES = [
    Case(),
    Case(G=4, packed=True),
    Case(G=1, window=3),
    Case(causal=False),
    Case(causal=False, packed=True),
    Case(causal=False, window=4),
    Case(window=1),
    Case(window=5, packed=True),
    Case(window=100),
    Case(T=1, packed=True),
    Case(chunk=5, J=3),
    Case(chunk=3, packed=True, J=12),
    Case(causal=False, chunk=5, softcap=0.7, packed=True),
    Case(softcap=1.5, biased=True),
    Case(G=1, sinks=True, packed=True),
    Case(causal=False, biased=True, sinks=True, J=3),
    Case(G=4, window=4, biased=True, packed=True),
    Case(window=6, chunk=4, softcap=0.9, sinks=True, biased=True, packed=True, J=5),
    Case(T=1, biased=True, sinks=True),
]
EVERYTHING = CASES[-2]


def naive(q, k, v, mask, scale, softcap=None, bias=None, sinks=None) -> np.ndarray:
    """One softmax at a time, in float64. A query that sees nothing gives zero."""
    q, k, v, mask = np.float64(q), np.float64(k), np.float64(v), np.asarray(mask)
    o = np.zeros((*q.shape[:3], v.shape[-1]))
    for b, t, h in np.ndindex(q.shape[:3]):
        g, row = h // (q.shape[2] // k.shape[2]), mask[b % len(mask), t]
        if row.any():
            s = scale * k[b, row, g] @ q[b, t, h]
            s = s if softcap is None else softcap * np.tanh(s / softcap)
            s = s if bias is None else s + np.asarray(bias)[b % len(bias), h, t, row]
            p = np.exp(s - s.max())
            rest = 0 if sinks is None else np.exp(sinks[h] - s.max())
            o[b, t, h] = p @ v[b, row, g] / (p.sum() + rest)
    return o


def with_gradients(f, case: Case, dtype=jnp.float32):
    """Output and gradients (of q, k, v, bias, sinks, those that are there) of `f(q, k, v, extras)`."""
    *qkv, do, extras = case.arrays(dtype)

    @jax.jit
    def run(q, k, v, do, extras):
        learned = extras.bias_HZ, extras.sinks_H
        with_learned = lambda q, k, v, bias, sinks: f(q, k, v, extras._replace(bias_HZ=bias, sinks_H=sinks))
        o, pull = jax.vjp(with_learned, q, k, v, *learned)
        return o, pull(do)

    return run(*qkv, do, extras)


@functools.lru_cache
def reference(case: Case, dtype=jnp.float32, scale: float | None = None):
    """What `with_gradients` should give."""
    f = functools.partial(attention, **case.options(), scale=scale, implementation="reference")
    return with_gradients(lambda q, k, v, e: f(q, k, v, *e[:2], bias_HZ=e[2], sinks_H=e[3]), case, dtype)
