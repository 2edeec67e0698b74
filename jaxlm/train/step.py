"""One optimizer step and one evaluation step, as pure functions of state and batch."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxlm import optim
from jaxlm.axes import Array, Params
from jaxlm.objectives import Batch, Sums
from jaxlm.run import RunConfig
from jaxlm.train import balance
from jaxlm.train.state import State
from jaxlm.trains import join

SUM = "sum/"  # before the names of sums among a step's metrics

TrainStep = Callable[..., tuple[State, dict[str, Array]]]  # of a state, a batch and the frozen parameters


def make_train_step(run: RunConfig, tx: optax.GradientTransformation) -> TrainStep:
    """state, batch, frozen parameters -> state, metrics. The batch's leading axis is `accumulate` parts, whose
    gradients are summed.

    A step whose loss or gradient is not finite changes no weight and no moment, and reports `skipped` = 1. Counters go
    on, the optimizer's too: the learning rate belongs to the step, whatever became of those before it.
    """
    rate = optim.schedule(run.optimizer, run.steps)

    def loss(params: Params, frozen: Params, batch: Batch, key: Array) -> tuple[Array, tuple[Sums, Any]]:
        sums, statistics = run.objective.loss(run.model, join(params, frozen), batch, key)
        # The sum over parts is divided by all their tokens: what is a mean already counts once a token.
        extra = balance.auxiliary_loss(statistics, run.aux_loss_coef, run.router_z_loss) * sums.weight
        sums = dataclasses.replace(sums, total=sums.total + extra)
        return sums.total, (sums, statistics)

    def gradient(params: Params, frozen: Params, batch: Batch, key: Array) -> tuple[Params, tuple[Sums, Any]]:
        grad = jax.grad(loss, has_aux=True)
        if run.accumulate == 1:
            return grad(params, frozen, jax.tree.map(lambda x: x[0], batch), key)

        def add(total, part):
            batch, i = part
            grads, (sums, statistics) = grad(params, frozen, batch, jax.random.fold_in(key, i))
            return jax.tree.map(jnp.add, total, (grads, sums)), statistics

        one = jax.tree.map(lambda x: x[0], batch)
        sums = jax.eval_shape(loss, params, frozen, one, key)[1][0]
        start = jax.tree.map(jnp.zeros_like, params), jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), sums)
        (grads, sums), statistics = jax.lax.scan(add, start, (batch, jnp.arange(run.accumulate)))
        return grads, (sums, jax.tree.map(lambda x: x.mean(0), statistics))

    def step(state: State, batch: Batch, frozen: Params | None = None) -> tuple[State, dict[str, Array]]:
        key = jax.random.fold_in(state.key, state.step)
        grads, (sums, statistics) = gradient(state.params, frozen, batch, key)
        weight = jnp.maximum(sums.weight, 1)
        with jax.named_scope("optimizer"):
            grads = jax.tree.map(lambda g: g / weight, grads)
            norm = optax.tree.norm(grads)
            if run.optimizer.offload:
                state = dataclasses.replace(state, opt_state=jax.device_put(state.opt_state, jax.memory.Space.Device))
            updates, opt_state = tx.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            params = balance.rebalance(run.model, params, state.params, statistics, run.bias_update_rate)
            new = State(state.step + 1, params, opt_state, state.key, _average(run.ema, state, params))
            finite = jnp.isfinite(sums.total) & jnp.isfinite(norm)
            keep = lambda a, b: a if jnp.issubdtype(a.dtype, jnp.integer) else jnp.where(finite, a, b)
            kept = jax.tree.map(keep, _weights(new), _weights(state))
        metrics = {
            "loss": sums.total / weight,
            **{f"{SUM}{name}": x for name, x in measured(sums).items()},
            "grad_norm": norm,
            "learning_rate": jnp.asarray(rate(state.step), jnp.float32),
            "skipped": 1 - finite.astype(jnp.int32),
            **balance.report(statistics),
        }
        return dataclasses.replace(new, params=kept[0], opt_state=kept[1], ema=kept[2]), metrics

    return step


def make_eval_step(run: RunConfig) -> Callable[[Params, Params, Batch], dict[str, Array]]:
    """trained and frozen params, batch -> what `measured` takes of its sums: no dropout, smoothing or z-loss."""
    return lambda params, frozen, batch: measured(run.objective.loss(run.model, join(params, frozen), batch)[0])


def measured(sums: Sums) -> dict[str, Array]:
    """The sums that a dataset measures, by name: "total", "weight" and what the objective shows."""
    return {"total": sums.total, "weight": sums.weight, **sums.shown}


def _weights(state: State) -> tuple[Any, ...]:
    return state.params, state.opt_state, state.ema


def _average(decay: float, state: State, params: Params) -> Params | None:
    """The moving average after a step. Its decay grows to `decay`, by (1 + t) / (10 + t) after t steps, so that the
    initial weights are soon forgotten."""
    t = state.step.astype(jnp.float32)
    d = jnp.minimum(decay, (1 + t) / (10 + t))
    return None if state.ema is None else jax.tree.map(lambda a, p: d * a + (1 - d) * p, state.ema, params)
