"""A checksum of every array of a tree, computed where the array lives.

orbax keeps none over array data: a flipped bit on disk comes back as a wrong number and no error. The checkpoint
therefore carries this digest, and a restore compares. It reads memory once, moves four bytes per array to the host,
and gives the same value on any mesh and for any layout.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.axes import Array

MULTIPLIER = 2654435761  # Knuth's, about 2**32 / golden ratio


def names(tree: Any) -> list[str]:
    """The path of every leaf, such as "params/blocks/query", in the order of `jax.tree.leaves`."""
    return [
        jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    ]


def digest(tree: Any) -> dict[str, int]:
    """For every array of `tree`, by its path, a number below 2**32 that depends on each bit and where it stands.

    The sum over elements of `mix(bits xor weight(position))` modulo 2**32, where `mix` is the finaliser of MurmurHash3
    (Appleby, 2011). It is a bijection, so a change of a single element is always seen; other damage, such as exchanged
    rows or flipped signs, escapes with a chance of 2**-32. Typed keys are digested as their data. Waits for the arrays.
    """
    sums = jax.device_get([_checksum(x) for x in jax.tree.leaves(tree)])
    return {name: int(s) for name, s in zip(names(tree), sums)}


@jax.jit
def _checksum(x: Array) -> Array:
    x = jax.device_put(x, jax.memory.Space.Device)  # from host memory, where it lies there
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        x = jnp.stack([x.real, x.imag], axis=-1)
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    size = x.dtype.itemsize
    # An 8-byte element becomes two of 4 along a new last axis.
    bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * min(size, 4)}")).astype(jnp.uint32)
    weight = jnp.uint32(0)
    for axis in range(bits.ndim):
        weight = weight * jnp.uint32(MULTIPLIER) + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
    return _mix(bits ^ weight).sum(dtype=jnp.uint32)  # modulo 2**32 the order of summation does not matter


def _mix(h: Array) -> Array:
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
    return h ^ (h >> 16)
