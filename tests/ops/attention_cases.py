"""Attention problems, and attention as three loops: what every implementation must equal."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.axes import Array
from jaxlm.ops import reference_attention, visible


@dataclasses.dataclass(frozen=True)
class Case:
    T: int = 13
    H: int = 4
    G: int = 2
    K: int = 8
    B: int = 2
    causal: bool = True
    window: int | None = None
    packed: bool = False

    def __str__(self) -> str:
        kind = "causal" if self.causal else "full"
        window = "" if self.window is None else f"-w{self.window}"
        return f"T{self.T}-H{self.H}G{self.G}-{kind}{window}{'-packed' if self.packed else ''}"

    def arrays(self, dtype=jnp.float32) -> tuple[Array, Array, Array, Array, Array | None]:
        """q, k, v, the cotangent of the output, and segments (documents in a row, padding on both sides)."""
        rng = np.random.default_rng(0)
        draw = lambda heads: jnp.asarray(rng.normal(size=(self.B, self.T, heads, self.K)), dtype)
        segments = None
        if self.packed:
            at = np.arange(self.T)[None]
            cuts = np.stack([[self.T // 2, self.T], [self.T // 5, self.T - 1 - self.T // 8]])
            segments = jnp.asarray(1 + (at >= cuts[:, :1]) - 2 * (at >= cuts[:, 1:]), jnp.int32)
            segments = segments.at[1, 0].set(0)[-self.B :]
        return draw(self.H), draw(self.G), draw(self.G), draw(self.H), segments

    def mask(self, segments: Array | None) -> Array:
        index = jnp.arange(self.T)[None]
        return visible(index, index, segments, segments, causal=self.causal, window=self.window)


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
]


def naive(q, k, v, mask, scale) -> np.ndarray:
    """One softmax at a time, in float64. A query that sees nothing gives zero."""
    q, k, v, mask = np.float64(q), np.float64(k), np.float64(v), np.asarray(mask)
    o = np.zeros_like(q)
    for b, t, h in np.ndindex(q.shape[:3]):
        g, row = h // (q.shape[2] // k.shape[2]), mask[b % len(mask), t]
        if row.any():
            s = scale * k[b, row, g] @ q[b, t, h]
            p = np.exp(s - s.max())
            o[b, t, h] = p @ v[b, row, g] / p.sum()
    return o


def with_gradients(f, case: Case, dtype=jnp.float32) -> tuple[Array, tuple[Array, Array, Array]]:
    """Output and gradients of `f(q, k, v, segments)`."""
    *qkv, do, segments = case.arrays(dtype)

    @jax.jit
    def run(q, k, v, do, segments):
        o, pull = jax.vjp(lambda q, k, v: f(q, k, v, segments), q, k, v)
        return o, pull(do)

    return run(*qkv, do, segments)


@functools.lru_cache
def reference(case: Case, dtype=jnp.float32, scale: float | None = None):
    """What `with_gradients` should give."""
    how = case.K**-0.5 if scale is None else scale
    return with_gradients(lambda q, k, v, s: reference_attention(q, k, v, case.mask(s), how), case, dtype)
