"""The compiled loop of decoding steps: no host round trip between tokens."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array, Params
from jaxlm.decode import cache
from jaxlm.decode.state import DecodeState, How
from jaxlm.models import Output, logits
from jaxlm.nn.state import is_state

SMALL = 2**23  # bytes of a cache that the TPU's compiler likes to keep in the vector memory


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def run(how: How, params: Params, state: DecodeState, until: Array | int) -> DecodeState:
    """Steps until `until` tokens are chosen or every row has stopped."""

    def step(state: DecodeState) -> DecodeState:
        positions_B1 = (state.end - state.start_B)[:, None]
        segments_B1 = jnp.ones_like(positions_B1)
        token_B1 = jnp.maximum(state.token_B, 0)[:, None]
        out = forward(how, params, token_B1, positions_B1, segments_B1, state.caches, state.end, state.start_B)
        new = choose(how, state, out)
        # Nothing is below -1, but so the writes must wait for the reads: else XLA copies every cache for every token.
        slot = state.end + jnp.any(new.token_B < -1)
        return dataclasses.replace(new, caches=written(state.caches, out.states, slot), end=state.end + 1)

    until = jnp.minimum(until, how.new)
    return jax.lax.while_loop(lambda s: (s.step < until) & ~jnp.all(s.done_B), step, state)


def written(caches: Any, new: Any, slot: Array) -> Any:
    """`cache.write`. On TPUs small caches are written behind a condition that always holds: the compiler keeps them in
    the vector memory from attention to a write in the open, and stores them whole after it (benchmarks/tpu.md)."""
    if sharding.platform() != "tpu":
        return cache.write(caches, new, slot)
    old, fresh = cache.states(caches), cache.states(new)
    few = [all(map(_small, jax.tree.leaves(state))) for state in old]
    write = lambda old, fresh: [state.write(x, slot) for state, x in zip(old, fresh)]
    apart = [[x for x, is_few in zip(both, few) if is_few] for both in (old, fresh)]
    done = iter(jax.lax.cond(slot >= 0, write, lambda old, fresh: old, *apart))
    put = [next(done) if is_few else state.write(x, slot) for state, x, is_few in zip(old, fresh, few)]
    return jax.tree.unflatten(jax.tree.structure(caches, is_leaf=is_state), put)


def _small(x: Array) -> bool:
    """Whether a device has at most `SMALL` bytes of it."""
    where = jax.typeof(x).sharding if sharding.explicit() else None
    shape = x.shape if where is None else where.shard_shape(x.shape)
    return math.prod(shape) * x.dtype.itemsize <= SMALL


def forward(how: How, params: Params, *args: Any, **inputs: Any) -> Any:
    """The model's `forward`."""
    return how.config.build(how.stacked).apply({"params": params}, *args, method="forward", **inputs)


def last_logits(how: How, out: Output) -> Array:
    """Logits (B, V) of the model's last position."""
    last_B1D = sharding.constrain(out.hidden_BTD, "batch", None, None)[:, -1:]
    last = dataclasses.replace(out, hidden_BTD=last_B1D)
    return sharding.constrain(logits(how.config, last)[:, 0], "batch", None)


def choose(how: How, state: DecodeState, out: Output) -> DecodeState:
    """Choose the next token of every row from the model's last position."""
    logits_BV = last_logits(how, out)
    choice = how.sampler.choose(logits_BV, state.sampler_state, jax.random.fold_in(state.key, state.step))
    token_B = choice.token_B.astype(jnp.int32)
    picked_B = jnp.max(jnp.where(jnp.arange(logits_BV.shape[1])[None] == token_B[:, None], logits_BV, -jnp.inf), -1)
    logprob_B = picked_B - jax.nn.logsumexp(logits_BV, -1)
    token_B = jnp.where(state.done_B, -1, token_B)
    logprob_B = jnp.where(state.done_B, 0.0, logprob_B)
    stopped_B = functools.reduce(jnp.logical_or, [token_B == s for s in how.stop], state.done_B)
    put = lambda all_BT, new_B: jax.lax.dynamic_update_slice_in_dim(all_BT, new_B[:, None], state.step, 1)
    return dataclasses.replace(
        state,
        sampler_state=how.sampler.after(state.sampler_state, dataclasses.replace(choice, token_B=token_B)),
        token_B=token_B,
        done_B=stopped_B,
        step=state.step + 1,
        tokens_BT=put(state.tokens_BT, token_B),
        logprobs_BT=put(state.logprobs_BT, logprob_B),
    )
