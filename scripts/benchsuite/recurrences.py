"""How fast recurrences are in chunks, or by convolution, beside one plain scan over the same steps.

    PYTHONPATH=. python -m scripts.benchsuite.recurrences [T]

Forward and gradient of float32 rows on whatever jax finds, medians of interleaved repeats; what was measured is in
benchmarks/recurrent_xlstm.md. Another recurrence is another entry of `pairs`.
"""

import statistics
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxlm.ops import (
    DPLR,
    diagonal_conv,
    diagonal_step,
    hippo_legs,
    mlstm,
    mlstm_step,
    s4_conv,
    s4_step,
    s4d_rates,
    selective_scan,
    selective_scan_step,
    zero_order_hold,
)

F, Z, H, K, REPEATS = 128, 16, 2, 128, 3
RNG = np.random.default_rng(0)
draw = lambda *shape: jnp.asarray(RNG.normal(size=shape), jnp.float32)


def scanned(step: Any, state: Any, xs: Any) -> Any:
    """One token after the other, and JAX's own gradient."""
    _, y = lax.scan(lambda s, x: step(x, s)[::-1], state, jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), xs))
    return jnp.moveaxis(y, 0, 1)


def pairs(T: int) -> dict[str, tuple[Any, Any, Any]]:
    """By name: ours and the plain scan, functions of the arrays that follow them."""
    heads = draw(1, T, H, K), draw(1, T, H, K), draw(1, T, H, K), draw(1, T, H), draw(1, T, H)
    steers = draw(1, T, F), jax.nn.softplus(draw(1, T, F) - 3), draw(1, T, Z), draw(1, T, Z)
    a_FZ, skip_F = -jnp.exp(draw(F, Z)), jnp.ones(F)
    tile = lambda x_Z: jnp.tile(jnp.asarray(x_Z, jnp.complex64)[None], (F, 1))
    c_FZ, dt_F = lax.complex(draw(F, Z), draw(F, Z)), jnp.exp(draw(F) - 4)
    system = DPLR(*map(tile, hippo_legs(Z)), c_FZ, dt_F)
    log_FZ, read_FZ = zero_order_hold(tile(s4d_rates(Z, "lin")), c_FZ, dt_F)
    zero_FZ = jnp.zeros((1, F, Z), jnp.complex64)
    memory = jnp.zeros((1, H, K, K + 1)), jnp.zeros((1, H))
    return {
        "mLSTM": (
            lambda *xs: mlstm(*xs)[0],
            lambda *xs: scanned(lambda x, s: mlstm_step(*x, s), memory, xs),
            heads,
        ),
        "Mamba": (
            lambda x, d, b, c: selective_scan(x, d, a_FZ, b, c, skip_F)[0],
            lambda *xs: scanned(
                lambda x, s: selective_scan_step(x[0], x[1], a_FZ, x[2], x[3], skip_F, s), jnp.zeros((1, F, Z)), xs
            ),
            steers,
        ),
        "S4": (
            lambda x: s4_conv(x, system, skip_F),
            lambda x: scanned(lambda x, s: s4_step(x, system, skip_F, s), zero_FZ, x),
            steers[:1],
        ),
        "S4D": (
            lambda x: diagonal_conv(x, log_FZ, read_FZ, skip_F),
            lambda x: scanned(lambda x, s: diagonal_step(x, log_FZ, read_FZ, skip_F, s), zero_FZ, x),
            steers[:1],
        ),
    }


def seconds(f: Any, xs: Any) -> float:
    start = time.perf_counter()
    jax.block_until_ready(f(*xs))
    return time.perf_counter() - start


def made(f: Any, xs: Any, gradient: bool) -> Any:
    """Compiled, and called once."""
    loss = lambda *xs: jnp.sum(jnp.sin(f(*xs)))
    f = jax.jit(jax.grad(loss, tuple(range(len(xs)))) if gradient else f)
    seconds(f, xs)
    return f


def main() -> None:
    T = int(sys.argv[1]) if len(sys.argv) > 1 else 4096
    print(f"T={T} F={F} Z={Z} H={H} K={K} jax {jax.__version__} {jax.devices()[0].device_kind}")
    for name, (ours, plain, xs) in pairs(T).items():
        for gradient in (False, True):
            fs = [made(f, xs, gradient) for f in (ours, plain)]
            times = [[seconds(f, xs) for f in fs] for _ in range(REPEATS)]
            a, b = (1000 * statistics.median(one) for one in zip(*times))
            what = "gradient" if gradient else "forward"
            print(f"{name:6} {what:8} ours {a:8.1f} ms, plain {b:8.1f} ms: {b / a:.1f} x", flush=True)


if __name__ == "__main__":
    main()
