"""The coordinate check: how far a few steps move each kind of activation, as a model grows."""

import functools
import math
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxlm import sharding
from jaxlm.models import LM
from jaxlm.nn import attention
from jaxlm.nn.stack import unstack
from jaxlm.run import RunConfig
from jaxlm.sharding import MeshConfig
from jaxlm.train.setup import Setup
from tests import tiny


def activations(run: RunConfig, params, tokens_BT) -> dict[str, jax.Array]:
    """The residual stream behind the last layer, the scores of every attention, and the logits."""
    found: dict[str, list[jax.Array]] = {"stream": [], "scores": []}

    def record(call, args, kwargs, context):
        out = call(*args, **kwargs)
        if type(context.module).__name__ in ("Block", "Parallel") and context.method_name == "__call__":
            found["stream"] = [out[0]]
        return out

    def attend(q_BTHK, k_BTGK, *args, **kwargs):
        k_BTHK = jnp.repeat(k_BTGK, q_BTHK.shape[2] // k_BTGK.shape[2], 2)
        scale = kwargs["scale"] or q_BTHK.shape[-1] ** -0.5
        found["scores"].append(jnp.einsum("bthk,bshk->bhts", q_BTHK, k_BTHK) * scale)
        return plain(q_BTHK, k_BTGK, *args, **kwargs)

    plain = attention.attention
    with nn.intercept_methods(record), mock.patch.object(attention, "attention", attend):
        logits = LM(run.model, stacked=False).apply({"params": unstack(params)}, tokens_BT)
    return {name: jnp.stack(xs) for name, xs in found.items() if xs} | {"logits": logits}


@functools.cache
def moves(run: RunConfig, zero: str = "", updates: int = 4) -> dict[str, float]:
    """The mean size of the change of each kind of activation after so many steps on one batch.

    It has few tokens: only so do weights soon grow along what they read, which is what the parametrisation is about.
    The weight called `zero` starts so.
    """
    setup = Setup(run, sharding.make_mesh(MeshConfig(data=1), jax.devices()[:1]))
    tx, batch = setup.optimizer, tiny.batch(2, T=8)

    def loss(params):
        logits = LM(run.model).apply({"params": params}, batch["tokens"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"]).mean()

    def update(_, params_and_state):
        params, state = params_and_state
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    @jax.jit
    def change(key):
        state, _ = setup.begin(key)
        first = jax.tree_util.tree_map_with_path(lambda path, x: x * (path[-1].key != zero), state.params)
        last, _ = jax.lax.fori_loop(0, updates, update, (first, state.opt_state))
        both = jax.tree.map(lambda *xs: jnp.stack(xs), first, last)
        found = jax.vmap(lambda params: activations(run, params, batch["tokens"]))(both)
        return jax.tree.map(lambda x: jnp.abs(x[1] - x[0]).mean(), found)

    return {name: float(x) for name, x in change(jax.random.key(run.seed)).items()}


def slope(small: RunConfig, large: RunConfig, ratio: float, zero: str = "") -> dict[str, float]:
    """That of log(move) over log(size), from a run to one `ratio` times as large: 0 where growth changes nothing."""
    before, after = moves(small, zero), moves(large, zero)
    return {name: math.log(after[name] / before[name]) / math.log(ratio) for name in before}
