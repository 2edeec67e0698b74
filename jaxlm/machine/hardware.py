"""What the machine can do: datasheet and measured matmul rates, memory in use and in all."""

import resource
import sys
import time

import jax
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.machine import chips
from jaxlm.machine.host import memory_limit as memory_limit


def datasheet_flops() -> float | None:
    """Peak of one device by its maker, or None where it is not in the table (any CPU)."""
    chip = chips.of_kind(jax.devices()[0].device_kind)
    return None if chip is None else chip.flops


def matmul_flops(dtype: str, size: int | None = None) -> float:
    """FLOP/s of a large square product of random numbers on one device, measured: the best of a few."""
    size = size or (1024 if jax.default_backend() == "cpu" else 8192)
    best = float("inf")
    with jax.set_mesh(sharding.make_mesh(sharding.MeshConfig(data=1), jax.local_devices()[:1])):
        x = jax.random.normal(jax.random.key(0), (size, size), jnp.dtype(dtype))
        product = jax.jit(lambda x: x @ x)
        product(x).block_until_ready()
        for _ in range(4):
            start = time.perf_counter()
            product(x).block_until_ready()
            best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def memory_used() -> int:
    """Peak bytes in use: of the first device, or on CPU of this process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return stats.get("peak_bytes_in_use") or peak
