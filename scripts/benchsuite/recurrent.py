"""The suite `recurrent`: every recurrence as the package computes it beside one plain scan over the same steps, forward
and with the gradient, float32 on one core."""

import functools
import statistics
from collections.abc import Callable
from typing import Any

from benchsuite.bench import Bench, Family, Rows
from benchsuite.row import Row, facts

CORES, PLATFORM = 1, "cpu"
NAMES = ("gated_linear.head", "gated_linear.channels", "gated_linear.bonus", "delta_rule", "mlstm", "ssd", "mamba")
NAMES += ("wkv", "rg_lru", "hgrn", "s4", "s4d")
EFFORT, TINY = {"T": 4096, "H": 4, "K": 64, "repeats": 5}, {"T": 32, "H": 2, "K": 4, "repeats": 2}


def families(tiny: bool) -> list[Family]:
    """Two rows of each recurrence, which are one piece."""
    effort = TINY if tiny else EFFORT
    return [Family(_ids(name), functools.partial(_rows, name=name, effort=effort)) for name in NAMES]


def _ids(name: str) -> tuple[str, str]:
    return f"{name}.forward", f"{name}.gradient"


def _rows(bench: Bench, name: str, effort: dict[str, int]) -> Rows:
    piece = bench.run("recurrent:compared", {"name": name} | effort)
    for id, (ours, plain) in zip(_ids(name), piece["seconds"]):
        value, peer = (1000 * statistics.median(x) for x in (ours, plain))
        note = f"the peer is a plain scan; T={effort['T']} H={effort['H']} K={effort['K']}"
        goal = "ratio >= 5" if id.endswith("gradient") else ""
        repeats = tuple(1000 * x for x in ours)
        yield Row(id, value, "ms", peer, peer / value, goal, repeats, note=note, facts=facts(piece))


# Pieces -------------------------------------------------------------------------------------------------------------


def compared(name: str, T: int, H: int, K: int, repeats: int) -> dict[str, Any]:
    """Seconds of ours and of the plain scan, interleaved, of the forward pass and of it with the gradient."""
    import time

    import jax
    import jax.numpy as jnp

    ours, plain, xs = pair(name, T, H, K)
    found = []
    for gradient in (False, True):
        programs = []
        for f in (ours, plain):
            loss = lambda *xs, f=f: jnp.sum(jnp.sin(f(*xs)))
            programs.append(jax.jit(jax.grad(loss, tuple(range(len(xs)))) if gradient else f).lower(*xs).compile())
        times: list[list[float]] = [[], []]
        for i in range(repeats + 1):
            for program, kept in zip(programs, times):
                start = time.perf_counter()
                jax.block_until_ready(program(*xs))
                kept += [time.perf_counter() - start] * (i > 0)  # the first warms up
        found.append(times)
    return {"seconds": found}


def pair(name: str, T: int, H: int, K: int) -> tuple[Callable, Callable, tuple]:
    """Ours, the plain scan, and the arrays that both take; of one row."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax import lax

    from jaxlm import ops

    rng, F, Z = np.random.default_rng(0), H * K // 2, 16
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    gates = lambda *shape: jax.nn.log_sigmoid(draw(*shape) + 3)
    zeros = lambda *shape: jnp.zeros((1, *shape))

    def scanned(step: Callable, state: Any) -> Callable:
        """`step(x, state) -> y, state`, one token after the other."""

        def run(*xs):
            _, y = lax.scan(lambda s, x: step(x, s)[::-1], state, jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), xs))
            return jnp.moveaxis(y, 0, 1)

        return run

    q, k, v = (draw(1, T, H, K) for _ in range(3))
    if name.startswith("gated_linear"):
        log, u = gates(1, T, H, 1 if name.endswith("head") else K), draw(H, K) if name.endswith("bonus") else None
        step = lambda x, s: ops.gated_linear_step(*x, u, s)
        return lambda *xs: ops.gated_linear(*xs, u)[0], scanned(step, zeros(H, K, K)), (q, k, v, log)
    if name == "delta_rule":
        xs = q, k / jnp.linalg.norm(k, axis=-1, keepdims=True), v, jax.nn.sigmoid(draw(1, T, H)), gates(1, T, H, 1)
        return lambda *xs: ops.delta_rule(*xs)[0], scanned(lambda x, s: ops.delta_step(*x, s), zeros(H, K, K)), xs
    if name == "mlstm":
        state = zeros(H, K, K + 1), zeros(H)
        xs = q, k, v, draw(1, T, H), draw(1, T, H)
        return lambda *xs: ops.mlstm(*xs)[0], scanned(lambda x, s: ops.mlstm_step(*x, s), state), xs
    if name == "ssd":
        a, d = -jnp.exp(draw(H)), jnp.ones(H)
        xs = v, jax.nn.softplus(draw(1, T, H) - 3), draw(1, T, 1, K), draw(1, T, 1, K)
        step = lambda x, s: ops.ssd_step(x[0], x[1], a, x[2], x[3], d, s)
        ours = lambda x, delta, b, c: ops.ssd(x, delta, a, b, c, d)[0]
        return ours, scanned(step, zeros(H, K, K)), xs
    if name == "mamba":
        a, d = -jnp.exp(draw(F, Z)), jnp.ones(F)
        xs = draw(1, T, F), jax.nn.softplus(draw(1, T, F) - 3), draw(1, T, Z), draw(1, T, Z)
        step = lambda x, s: ops.selective_scan_step(x[0], x[1], a, x[2], x[3], d, s)
        return lambda x, delta, b, c: ops.selective_scan(x, delta, a, b, c, d)[0], scanned(step, zeros(F, Z)), xs
    if name == "wkv":
        w, u, zero = jnp.exp(draw(H * K)), draw(H * K), zeros(H * K)
        step = lambda x, s: ops.wkv_step(*x, w, u, s)
        xs = draw(1, T, H * K), draw(1, T, H * K)
        return lambda *xs: ops.wkv(*xs, w, u)[0], scanned(step, (zero - 1e30, zero, zero)), xs
    if name == "rg_lru":
        weights, first = draw(H, K), jnp.zeros((1, T), bool)
        step = lambda x, s: (ops.rg_lru_step(*x, weights, jnp.zeros(1, bool), s),) * 2
        return lambda *xs: ops.rg_lru(*xs, weights, first)[0], scanned(step, zeros(H, K)), (q, k, v)
    if name == "hgrn":
        step = lambda x, s: (ops.blocked_scan_step(*x, s),) * 2
        return lambda *xs: ops.blocked_scan(*xs)[0], scanned(step, zeros(H, K)), (gates(1, T, H, K), v)
    tile = lambda x_Z: jnp.tile(jnp.asarray(x_Z, jnp.complex64)[None], (F, 1))
    c, dt, d = lax.complex(draw(F, Z), draw(F, Z)), jnp.exp(draw(F) - 4), jnp.ones(F)
    zero, x = zeros(F, Z).astype(jnp.complex64), (draw(1, T, F),)
    if name == "s4":
        system = ops.DPLR(*map(tile, ops.hippo_legs(Z)), c, dt)
        step = lambda x, s: ops.s4_step(x[0], system, d, s)
        return lambda x: ops.s4_conv(x, system, d), scanned(step, zero), x
    log, read = ops.zero_order_hold(tile(ops.s4d_rates(Z, "lin")), c, dt)
    step = lambda x, s: ops.diagonal_step(x[0], log, read, d, s)
    return lambda x: ops.diagonal_conv(x, log, read, d), scanned(step, zero), x
