"""Ulysses (all-to-all) sequence parallelism: attention of rows whose positions are divided, by giving each device whole
rows of some heads instead: q, k and v are exchanged by an all-to-all each, and the result once more (DeepSpeed-Ulysses;
Jacobs et al. 2023, arXiv:2309.14509)."""

import math
from collections.abc import Callable

import jax.numpy as jnp
from jax import lax

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.ops.rule import Extras, Rule

(AXIS,) = sharding.RULES["positions"]


def ulysses_lacks(q_BTHK: Array, k_BTGK: Array, v_BTGJ: Array, extras: Extras, rule: Rule) -> str:
    """It divides the query heads over all devices that divide heads or positions."""
    H, n = q_BTHK.shape[2], sharding.mesh_size("spread_heads")
    axes = " x ".join(sharding.divided("spread_heads"))
    return f"{H} heads on mesh {axes}={n} (it takes multiples of {n})" if H % n else ""


def ulysses_attention(
    q_BTHK: Array,
    k_BTGK: Array,
    v_BTGJ: Array,
    extras: Extras,
    rule: Rule,
    local: Callable[..., Array],
    kernel: bool = False,
) -> Array:
    """`local(q, k, v, extras, rule)`, an attention of whole rows, on every device for its heads; (B, T, H, J).

    Where a device would have less than one key head, each is repeated as often as needed. `kernel`: whether `local` is
    a Pallas kernel. Segments and positions, a number a token, are whole on every device.
    """
    n = sharding.mesh_size("positions")

    def one(q_BTHK, k_BTGK, v_BTGJ, *rest):
        repeats = n // math.gcd(k_BTGK.shape[2], n)
        if repeats > 1:
            k_BTGK, v_BTGJ = (jnp.repeat(x, repeats, 2) for x in (k_BTGK, v_BTGJ))
        whole = (lax.all_to_all(x, AXIS, 2, 1, tiled=True) for x in (q_BTHK, k_BTGK, v_BTGJ))
        return lax.all_to_all(local(*whole, Extras(*rest).varying(q_BTHK), rule), AXIS, 1, 2, tiled=True)

    heads, extras = ("batch", "positions", "heads", None), extras.numbered(*q_BTHK.shape[::2])
    ins = [heads] * 3 + extras.names(None, "spread_heads")
    return sharding.shard_map(one, ins, heads, q_BTHK, k_BTGK, v_BTGJ, *extras, kernel=kernel)
