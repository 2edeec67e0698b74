"""One optimizer step and one evaluation step, as pure functions of state and batch."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from jaxlm import optim, sharding
from jaxlm.axes import Array, Params
from jaxlm.errors import UserError
from jaxlm.losses import TokenLoss, cross_entropy
from jaxlm.models.lm import LM, LMConfig, forward
from jaxlm.train import balance
from jaxlm.train.run import RunConfig
from jaxlm.train.state import State, optimizer

Batch = dict[str, Array]  # tokens, labels, positions, segments, weights: (B, T), see data.pack


def token_loss(
    config: LMConfig,
    params: Params,
    batch: Batch,
    key: Array | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> tuple[TokenLoss, Any]:
    """Summed next-token loss of a batch, and the model's statistics; dropout is on where a key is given."""
    out = forward(LM(config), params, batch["tokens"], batch["positions"], batch["segments"], dropout_key=key)
    labels, weights = batch["labels"], batch["weights"]
    how = {"label_smoothing": label_smoothing, "z_loss": z_loss, "softcap": config.softcap}
    with jax.named_scope("loss"):
        return cross_entropy(out.hidden_BTD, out.head_VD, labels, weights, **how), out.statistics


def make_train_step(run: RunConfig) -> Callable[[State, Batch], tuple[State, dict[str, Array]]]:
    """state, batch -> state, metrics. The batch's leading axis is `accumulate` parts, whose gradients are summed.

    A step whose loss or gradient is not finite changes no weight and no moment, and reports `skipped` = 1. Counters go
    on, the optimizer's too: the learning rate belongs to the step, whatever became of those before it.
    """
    tx, rate = optimizer(run), optim.schedule(run.optimizer, run.steps)

    def loss(params: Params, batch: Batch, key: Array) -> tuple[Array, tuple[TokenLoss, Any]]:
        out, statistics = token_loss(
            run.model, params, batch, key, label_smoothing=run.label_smoothing, z_loss=run.z_loss
        )
        # The sum over parts is divided by all their tokens: what is a mean already counts once a token.
        extra = balance.auxiliary_loss(statistics, run.balance_loss, run.router_z_loss) * out.weight
        out = dataclasses.replace(out, total=out.total + extra)
        return out.total, (out, statistics)

    def gradient(params: Params, batch: Batch, key: Array) -> tuple[Params, tuple[TokenLoss, Any]]:
        grad = jax.grad(loss, has_aux=True)
        if run.accumulate == 1:
            return grad(params, jax.tree.map(lambda x: x[0], batch), key)

        def add(total, part):
            batch, i = part
            grads, (sums, statistics) = grad(params, batch, jax.random.fold_in(key, i))
            return jax.tree.map(jnp.add, total, (grads, sums)), statistics

        zero = jnp.zeros(())
        start = jax.tree.map(jnp.zeros_like, params), TokenLoss(zero, zero, zero)
        (grads, sums), statistics = jax.lax.scan(add, start, (batch, jnp.arange(run.accumulate)))
        return grads, (sums, jax.tree.map(lambda x: x.mean(0), statistics))

    def step(state: State, batch: Batch) -> tuple[State, dict[str, Array]]:
        grads, (sums, statistics) = gradient(state.params, batch, jax.random.fold_in(state.key, state.step))
        tokens = jnp.maximum(sums.weight, 1)
        with jax.named_scope("optimizer"):
            grads = jax.tree.map(lambda g: g / tokens, grads)
            norm = optax.tree.norm(grads)
            if run.optimizer.offload:
                state = dataclasses.replace(state, opt_state=jax.device_put(state.opt_state, jax.memory.Space.Device))
            updates, opt_state = tx.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            params = balance.rebalance(params, state.params, statistics, run.balance_rate)
            new = State(state.step + 1, params, opt_state, state.key, _average(run.ema, state, params))
            finite = jnp.isfinite(sums.total) & jnp.isfinite(norm)
            keep = lambda a, b: a if jnp.issubdtype(a.dtype, jnp.integer) else jnp.where(finite, a, b)
            kept = jax.tree.map(keep, _weights(new), _weights(state))
        metrics = {
            "loss": sums.total / tokens,
            "nll": sums.nll / tokens,
            "grad_norm": norm,
            "learning_rate": jnp.asarray(rate(state.step), jnp.float32),
            "tokens": sums.weight,
            "skipped": 1 - finite.astype(jnp.int32),
            **balance.report(statistics),
        }
        return dataclasses.replace(new, params=kept[0], opt_state=kept[1], ema=kept[2]), metrics

    return step


def make_eval_step(config: LMConfig) -> Callable[[Params, Batch], TokenLoss]:
    """params, batch -> summed loss, without dropout, smoothing or z-loss."""
    return lambda params, batch: token_loss(config, params, batch)[0]


def place(batch: dict[str, np.ndarray], mesh: Mesh, parts: int | None = None) -> Batch:
    """The rows of a batch that `rows_here` names as arrays over the mesh; with `parts`, cut into that many on a new
    first axis."""
    where, axis, (count, held) = _where(mesh, parts), 0 if parts is None else 1, _held(mesh)

    def one(x: np.ndarray) -> Array:
        x = x if parts is None else x.reshape(parts, -1, *x.shape[1:])
        size = x.shape[axis] // len(held)

        def shard(index: Any) -> np.ndarray:
            at = held.index((index[axis].start or 0) // size) * size
            return x[(*index[:axis], slice(at, at + size), *index[axis + 1 :])]

        return jax.make_array_from_callback((*x.shape[:axis], size * count, *x.shape[axis + 1 :]), where, shard)

    return {name: one(x) for name, x in batch.items()}


def rows_here(mesh: Mesh, rows: int, parts: int = 1) -> list[int]:
    """Which of the `rows` of a batch, placed in `parts`, this process must read: those that its devices hold.

    Processes hold the same rows where the mesh divides something else than the batch between them.
    """
    (count, held), part = _held(mesh), rows // parts
    size = part // count
    return [p * part + shard * size + i for p in range(parts) for shard in held for i in range(size)]


@functools.cache
def _held(mesh: Mesh) -> tuple[int, list[int]]:
    """Into how many shards the mesh divides a batch, and which of them lie on devices of this process."""
    with jax.set_mesh(mesh):
        count, where = sharding.mesh_size("batch"), NamedSharding(mesh, sharding.spec("batch"))
    indices: Any = where.addressable_devices_indices_map((count,)).values()
    return count, sorted({at.start or 0 for (at,) in indices})


def abstract_batch(run: RunConfig, mesh: Mesh | AbstractMesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of the batches that `make_train_step` takes. Raises UserError where the mesh does not divide them."""
    rows, T = run.batch // run.accumulate, run.data.T
    with sharding.use(mesh):
        parts, pieces = sharding.mesh_size("batch"), sharding.mesh_size("positions")
    if rows % parts:
        axes = ", ".join(sharding.divided("batch", mesh))
        raise UserError(
            f"batch={run.batch} in {run.accumulate} parts is {rows} rows at a time, which the {parts} devices of the "
            f"mesh axes {axes} do not divide: choose a batch that is a multiple of {parts * run.accumulate}"
        )
    if T % pieces:
        near = max(round(T / pieces), 1) * pieces
        raise UserError(f"mesh context={pieces} does not divide data.T={T}: the nearest that it does is {near}")
    kinds = dict.fromkeys(("tokens", "labels", "positions", "segments"), jnp.int32) | {"weights": jnp.float32}
    shape, where = (run.accumulate, rows, T), _where(mesh, run.accumulate)
    return {name: jax.ShapeDtypeStruct(shape, dtype, sharding=where) for name, dtype in kinds.items()}


def _where(mesh: Mesh | AbstractMesh, parts: int | None) -> NamedSharding:
    names = ("batch", "positions") if parts is None else (None, "batch", "positions")
    return NamedSharding(mesh, sharding.spec(*names, mesh=mesh))


def _weights(state: State) -> tuple[Any, ...]:
    return state.params, state.opt_state, state.ema


def _average(decay: float, state: State, params: Params) -> Params | None:
    """The moving average after a step. Its decay grows to `decay`, by (1 + t) / (10 + t) after t steps, so that the
    initial weights are soon forgotten."""
    t = state.step.astype(jnp.float32)
    d = jnp.minimum(decay, (1 + t) / (10 + t))
    return None if state.ema is None else jax.tree.map(lambda a, p: d * a + (1 - d) * p, state.ema, params)
