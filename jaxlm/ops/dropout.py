"""Dropout as a function of an explicit key (Srivastava et al. 2014)."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm import sharding
from jaxlm.axes import Array


def dropout(x: Array, rate: float, key: Array, *names: str | None) -> Array:
    """Zero a fraction `rate` of x and scale the rest by 1 / (1 - rate). `names`: x's logical axes.

    The mask does not depend on the mesh: a run draws the same one on any number of devices.
    """
    kept = jax.random.uniform(key, x.shape, out_sharding=sharding.out_sharding(*names)) >= rate
    return jnp.where(kept, x / (1 - rate), jnp.zeros((), x.dtype)).astype(x.dtype)


def kept_pairs(rate: float, key: Array, numbers_BH: Array, query_T: Array, key_S: Array) -> Array:
    """Which probabilities of attention a dropout of `rate` keeps, boolean (B, H, S, T): keys stand first.

    Whether a pair is kept depends on the number of its row and head and on the places of its query and its key alone.
    So every implementation draws the same mask, in blocks of any size and on any mesh.
    """
    fold = jax.random.fold_in

    def draw(key, numbers_BH, query_T, key_S):
        bits = lambda number, s, t: jax.random.key_data(fold(fold(fold(key, number), t), s))[0]
        of_heads = jax.vmap(jax.vmap(jax.vmap(bits, (None, None, 0)), (None, 0, None)), (0, None, None))
        return jax.vmap(of_heads, (0, None, None))(numbers_BH, key_S, query_T)

    pairs = ("batch", "heads")
    ins, out = [(), pairs, (None,), (None,)], (*pairs, None, None)
    bits_BHST = sharding.shard_map(draw, ins, out, key, numbers_BH, query_T, key_S)
    return bits_BHST >= np.uint32(round(rate * 2**32))
