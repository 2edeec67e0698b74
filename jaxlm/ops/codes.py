"""Weights in codes of a few bits: groups of numbers that share a scale, w = scale level[code].

| kind | levels | scale |
|---|---|---|
| int4 | -8, ..., 7 | largest / 7 |
| nf4 | quantiles of a normal distribution, -1 to 1 (Dettmers et al. 2023, arXiv:2305.14314) | largest |
| ternary | -1, 0, 1 (Ma et al. 2024, arXiv:2402.17764, who have one scale for a matrix) | mean |

of the absolute values of a group. A byte has the first code in its highest bits.
"""

import functools

import jax.numpy as jnp
import numpy as np

from jaxlm import sharding
from jaxlm.axes import Array

BITS = {"int4": 4, "nf4": 4, "ternary": 2}
NF4 = np.array(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ],
    np.float32,
)
BLOCK = 256  # scales that share one, where they are quantised too


def quantize(rows: Array, kind: str, group: int, scale: Array | None = None) -> tuple[Array, Array]:
    """float32 (..., N) as packed codes uint8 (..., N bits / 8) and scales float32 (..., N / group), by default those of
    `scale_of`."""
    x = rows.reshape(*rows.shape[:-1], -1, group)
    scale = scale_of(rows, kind, group) if scale is None else scale
    y = x / jnp.where(scale == 0, 1, scale)[..., None]
    low = {"int4": 8, "ternary": 1}
    code = _nearest(y, NF4) if kind == "nf4" else nearest_level(y, kind) + low[kind]
    return pack(code.astype(jnp.uint8).reshape(rows.shape), BITS[kind]), scale


def scale_of(rows: Array, kind: str, group: int) -> Array:
    """The scale of each group of float32 (..., N), as the table has it: (..., N / group)."""
    size = jnp.abs(rows.reshape(*rows.shape[:-1], -1, group))
    scale = jnp.mean(size, -1) if kind == "ternary" else jnp.max(size, -1)
    return scale / 7 if kind == "int4" else scale


def nearest_level(y: Array, kind: str) -> Array:
    """The level nearest to each number, float32."""
    if kind == "nf4":
        return sharding.constrain(jnp.asarray(NF4), None)[_nearest(y, NF4)]
    return jnp.clip(jnp.round(y), -8, 7) if kind == "int4" else jnp.clip(jnp.round(y), -1, 1)


def unpack(packed: Array, kind: str) -> Array:
    """The levels float32 (..., N) of packed codes."""
    bits = BITS[kind]
    code = jnp.stack([(packed >> np.uint8(at)) & np.uint8(2**bits - 1) for at in range(8 - bits, -1, -bits)], -1)
    code = code.reshape(*packed.shape[:-1], -1)
    if kind == "nf4":  # compared, not looked up: it fuses, and is as the codes are on a mesh
        first = jnp.full_like(code, NF4[0], jnp.float32)
        return functools.reduce(lambda w, i: jnp.where(code == i, NF4[i], w), range(1, 16), first)
    return code.astype(jnp.float32) - (8 if kind == "int4" else 1)


def pack(code: Array, bits: int) -> Array:
    """uint8 (..., N) of so many bits each as (..., N bits / 8)."""
    parts = code.reshape(*code.shape[:-1], -1, 8 // bits)
    shifted = (parts[..., i] << np.uint8(8 - bits * (i + 1)) for i in range(8 // bits))
    return functools.reduce(jnp.bitwise_or, shifted)


def quantize_scales(scale_LN: Array) -> tuple[Array, Array, Array]:
    """Double quantisation of each layer's scales: codes uint8 (L, N), what each block of 256 is divided by float32
    (L, blocks), and the mean float32 (L,) that is taken off first."""
    L, N = scale_LN.shape
    mean_L = jnp.mean(scale_LN, -1)
    x = jnp.pad(scale_LN - mean_L[:, None], ((0, 0), (0, -N % BLOCK))).reshape(L, -1, BLOCK)
    largest = jnp.max(jnp.abs(x), -1)
    code = _nearest(x / jnp.where(largest == 0, 1, largest)[..., None], dynamic_levels())
    return code.astype(jnp.uint8).reshape(L, -1)[:, :N], largest, mean_L


def scales(code_LN: Array, largest: Array, mean_L: Array) -> Array:
    """The inverse of `quantize_scales`, float32 (L, N)."""
    L, N = code_LN.shape
    level = sharding.constrain(jnp.asarray(dynamic_levels()), None)[code_LN]
    level = jnp.pad(level, ((0, 0), (0, -N % BLOCK))).reshape(L, -1, BLOCK)
    return (level * largest[..., None]).reshape(L, -1)[:, :N] + mean_L[:, None]


@functools.cache
def dynamic_levels() -> np.ndarray:
    """The 256 levels of the dynamic 8-bit type (Dettmers 2015, arXiv:1511.04561), ascending: a sign, an exponent of
    ten that takes from 0 to 6 bits, and a fraction in those that are left."""
    found = [0.0, 1.0]
    for exponent in range(-6, 1):
        edges = np.linspace(0.1, 1, 2 ** (exponent + 6) + 1, dtype=np.float32)
        middle = (edges[:-1] + edges[1:]) / np.float32(2) * np.float32(10.0**exponent)
        found += [*middle, *-middle]
    return np.sort(np.array(found, np.float32))


def _nearest(x: Array, levels: np.ndarray) -> Array:
    return jnp.searchsorted(jnp.asarray((levels[1:] + levels[:-1]) / 2), x)
