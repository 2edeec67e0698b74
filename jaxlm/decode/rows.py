"""The compiled part of continuous batching: rows that decode beside each other, and the lane in which a text is read.

Row b holds one text: `end_B[b]` tokens are in its caches, and its newest token is not yet. One step reads the newest
token of every row and chooses the next. A prompt is read in the lane, in chunks without padding, so that rings and
recurrences need no masks; all but its last token are read there, and so it is always the step that chooses.
"""

import dataclasses
import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import struct

from jaxlm import sharding
from jaxlm.axes import Array, Params
from jaxlm.decode import cache
from jaxlm.decode.loop import forward, last_logits
from jaxlm.decode.per_row import PerRow
from jaxlm.decode.sampling import VocabularyMask, links
from jaxlm.decode.state import How
from jaxlm.models import logits
from jaxlm.nn.state import KVSlots, Recurrent, State
from jaxlm.ops.leaves import chosen

STEPS = 8  # the most steps between two looks at what was chosen
TOP = 20  # likeliest tokens that are told
Caches = tuple


@struct.dataclass
class Rows:
    """All that a step changes."""

    caches: Caches
    sampler_state: Any
    token_B: Array  # the newest token
    end_B: Array  # tokens in the caches
    chosen_B: Array  # tokens chosen so far: which draw of the seed is next
    seed_B: Array
    active_B: Array


@struct.dataclass
class Told:
    """Tokens, their log probabilities under the model, before any sampler, and the TOP likeliest in their place."""

    tokens: Array
    logprobs: Array
    top: Array
    top_logprobs: Array


def empty(how: How, B: int, S: int) -> Rows:
    """Idle rows of S slots."""
    zeros_B = sharding.constrain(jnp.zeros(B, jnp.int32), "batch")
    prompt_B1 = sharding.constrain(jnp.zeros((B, 1), jnp.int32), "batch", None)
    state = how.sampler.start(prompt_B1, jnp.zeros_like(prompt_B1), how.config.V)
    caches = cache.empty(how.config, B, S, jnp.dtype(how.config.dtype), how.stacked)
    return Rows(caches, state, zeros_B, zeros_B, zeros_B, zeros_B.astype(jnp.uint32), zeros_B > 0)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def steps(
    how: How,
    params: Params,
    rows: Rows,
    adapter_B: Array,
    n: Array,
    samples: Array,
    tells: Array,
    allowed_BV: Array | None = None,
) -> tuple[Rows, Told]:
    """`n` <= STEPS tokens more of every active row, each by its adapter, if the model has some. Without `samples` they
    are the likeliest and no row's sampler counts, without `tells` no others are told: both cost time. Where
    `allowed_BV` is False a token is not chosen. What is told has shapes (B, STEPS, ...)."""
    B, A = len(rows.token_B), min(TOP, how.config.V)
    params = chosen(params, sharding.constrain(adapter_B, "batch"))
    zeros = lambda dtype, *shape: sharding.constrain(jnp.zeros((B, *shape), dtype), "batch", *[None] * len(shape))
    ints, floats = functools.partial(zeros, jnp.int32), functools.partial(zeros, jnp.float32)

    def step(i: Array, carry: tuple[Rows, Told]) -> tuple[Rows, Told]:
        rows, told = carry
        token_B1, at_B1 = rows.token_B[:, None], rows.end_B[:, None]
        past = rows.caches, rows.end_B, jnp.zeros_like(rows.end_B)
        out = forward(how, params, token_B1, at_B1, jnp.ones_like(at_B1), *past)
        logits_BV = last_logits(how, out)
        open_BV = logits_BV if allowed_BV is None else jnp.where(allowed_BV, logits_BV, -jnp.inf)
        token_B, state = jax.lax.cond(
            samples, lambda: _drawn(how, rows, open_BV), lambda: _likeliest(how, rows, open_BV)
        )
        one = _told(logits_BV, token_B, A, tells)
        put = lambda all_BN, x_B: jax.lax.dynamic_update_slice_in_dim(all_BN, x_B[:, None], i, 1)
        # Nothing is below 0, but so the writes must wait for the reads, as in `loop.run`.
        caches = cache.write(rows.caches, out.states, rows.end_B + jnp.any(token_B < 0))
        step_B = rows.active_B.astype(jnp.int32)
        counts = rows.end_B + step_B, rows.chosen_B + step_B
        return Rows(caches, state, token_B, *counts, rows.seed_B, rows.active_B), jax.tree.map(put, told, one)

    told = Told(ints(STEPS), floats(STEPS), ints(STEPS, A), floats(STEPS, A))
    return jax.lax.fori_loop(0, n, step, (rows, told))


def _drawn(how: How, rows: Rows, logits_BV: Array) -> tuple[Array, Any]:
    """Of each row by its own seed and count, so that neighbours do not matter; and what the sampler then remembers."""
    key = lambda seed, count: jax.random.fold_in(jax.random.key(seed), count)
    choice = how.sampler.choose(logits_BV, rows.sampler_state, jax.vmap(key)(rows.seed_B, rows.chosen_B))
    token_B = choice.token_B.astype(jnp.int32)
    choice = dataclasses.replace(choice, token_B=jnp.where(rows.active_B, token_B, -1))
    return jnp.where(rows.active_B, token_B, 0), how.sampler.after(rows.sampler_state, choice)


def _likeliest(how: How, rows: Rows, logits_BV: Array) -> tuple[Array, Any]:
    first = links(cast(PerRow, how.sampler).template)[0]
    logits_BV = first.filter(logits_BV, ()) if isinstance(first, VocabularyMask) else logits_BV
    return jnp.where(rows.active_B, jnp.argmax(logits_BV, -1).astype(jnp.int32), 0), rows.sampler_state


def _told(logits_NV: Array, token_N: Array, A: int, tells: Array) -> Told:
    logprobs_NV = jax.nn.log_softmax(logits_NV, -1)
    chosen_NV = jnp.arange(logits_NV.shape[1])[None] == token_N[:, None]
    logprob_N = jnp.max(jnp.where(chosen_NV, logprobs_NV, -jnp.inf), -1)
    none_NA = logprobs_NV[:, :A] * 0
    best = lambda: tuple(jax.lax.top_k(logprobs_NV, A)[::-1])
    top_NA, top_logprobs_NA = jax.lax.cond(tells, best, lambda: (none_NA.astype(jnp.int32), none_NA))
    return Told(token_N, logprob_N, top_NA, top_logprobs_NA)


# The lane ------------------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def read(
    how: How, params: Params, lane: Caches, adapter: Array, tokens_T: Array, labels_T: Array, end: Array, tells: Array
) -> tuple[Caches, Told]:
    """The lane after a chunk of a text of an adapter, of which `end` tokens came before. With `tells`, what is told of
    `labels_T`, the tokens that come next. Every row of the lane, as many as the mesh divides, reads the same."""
    B, T = sharding.mesh_size("batch"), len(tokens_T)
    row = lambda x_T: sharding.constrain(jnp.broadcast_to(x_T[None], (B, T)), "batch", None)
    start_B = sharding.constrain(jnp.zeros(B, jnp.int32), "batch")
    params = chosen(params, start_B + adapter)
    ones_BT = row(jnp.ones(T, jnp.int32))
    out = forward(how, params, row(tokens_T), row(end + jnp.arange(T)), ones_BT, lane, end, start_B)
    A = min(TOP, how.config.V)

    def tell() -> Told:
        logits_TV = sharding.constrain(logits(how.config, out), None, None, None)[0]
        return _told(logits_TV, labels_T, A, jnp.array(True))

    nothing = lambda: Told(labels_T, jnp.zeros(T), jnp.zeros((T, A), jnp.int32), jnp.zeros((T, A)))
    told = jax.lax.cond(tells, tell, nothing)
    return cache.write(lane, out.states, end), told


@functools.partial(jax.jit, donate_argnums=0)
def cleared(lane: Caches) -> Caches:
    """The lane for another text: slots are empty by `end` alone, recurrences begin at zero."""
    return cache.each(lambda state: state if isinstance(state, KVSlots) else state._map(jnp.zeros_like), lane)


# Rows that come and go -----------------------------------------------------------------------------------------------


@functools.partial(jax.jit, donate_argnums=0)
def insert(
    rows: Rows, row: Array, lane: Caches, sampler_state: Any, token: Array, end: Array, chosen: Array, seed: Array
) -> Rows:
    """The text of the lane in place of a row; the sampler's state is of one row."""
    B, A = len(rows.token_B), sharding.mesh_size("batch")
    rows_A = jnp.where(jnp.arange(A) == 0, row, B)  # the others go nowhere
    same = lambda x: sharding.constrain(jnp.full(A, x), "batch")
    wide = lambda x: sharding.constrain(jnp.broadcast_to(x, (A, *x.shape[1:])), "batch", *[None] * (x.ndim - 1))
    new = jax.tree.map(wide, sampler_state), same(token), same(end), same(chosen), same(seed), same(True)
    caches = cache.put(rows.caches, _fitted(lane, rows.caches), rows_A)
    return Rows(caches, *Recurrent(_rest(rows)).put(Recurrent(new), rows_A).value)


@functools.partial(jax.jit, static_argnums=(0, 3))
def regroup(how: How, rows: Rows, rows_A: Array, S: int) -> Rows:
    """These rows, -1 for an idle one, with S slots."""
    B = len(rows_A)
    shapes = jax.eval_shape(lambda: empty(how, B, S))
    idle_A = rows_A < 0
    state, *counts, active_A = Recurrent(_rest(rows)).take(jnp.maximum(rows_A, 0)).value
    caches = _fitted(cache.take(rows.caches, jnp.maximum(rows_A, 0)), shapes.caches)
    idle_A = sharding.constrain(idle_A, "batch")
    token_A, end_A, chosen_A, seed_A = (jnp.where(idle_A, 0, x) for x in counts)
    return Rows(caches, state, token_A, end_A, chosen_A, seed_A, active_A & ~idle_A)


@functools.partial(jax.jit, donate_argnums=0)
def release(rows: Rows, keep_B: Array) -> Rows:
    """The rows with all others idle."""
    keep_B = sharding.constrain(keep_B, "batch")
    state, *counts, active_B = _rest(rows)
    token_B, end_B, chosen_B, seed_B = (jnp.where(keep_B, x, 0) for x in counts)
    return Rows(rows.caches, state, token_B, end_B, chosen_B, seed_B, active_B & keep_B)


@jax.jit
def remembered(rows: Rows, row: Array) -> Any:
    """What the sampler remembers of a row, as often as the mesh divides rows."""
    rows_A = jnp.full(sharding.mesh_size("batch"), row)
    return Recurrent(rows.sampler_state).take(rows_A).value


def _rest(rows: Rows) -> tuple:
    return rows.sampler_state, rows.token_B, rows.end_B, rows.chosen_B, rows.seed_B, rows.active_B


def _fitted(caches: Caches, like: Caches) -> Caches:
    """Caches with as many slots as others have: of rows whose tokens all lie in those, each in its own."""

    def fit(state: State, like: State) -> State:
        return dataclasses.replace(
            like, value=jax.tree.map(lambda x, y: _slots(x, y.shape[-2]), state.value, like.value)
        )

    return cache.each(lambda state, like: fit(state, like) if isinstance(state, KVSlots) else state, caches, like)


def _slots(x: Array, S: int) -> Array:
    axis, have = x.ndim - 2, x.shape[-2]
    if have >= S:
        return jax.lax.slice_in_dim(x, 0, S, axis=axis)
    return jnp.pad(x, [(0, S - have if i == axis else 0) for i in range(x.ndim)])


# Pieces of texts, to begin others with -------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=1)
def cut(lane: Caches, size: int, start: Array) -> Caches:
    """What the lane has of `size` tokens from `start`, the last it read: their slots; rings and recurrences whole."""
    one = lambda x: jax.lax.dynamic_slice_in_dim(x, start, size, x.ndim - 2)
    return cache.each(lambda state: state._map(one) if _in_place(state) else state, lane)


@functools.partial(jax.jit, donate_argnums=0)
def paste(lane: Caches, piece: Caches, start: Array) -> Caches:
    """The lane with what `cut` took."""
    one = lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, start, x.ndim - 2)
    paste = lambda state, new: state._map(one, new) if _in_place(state) else new
    return cache.each(paste, lane, piece)


def in_place(lane: Caches) -> bool:
    """Whether every token has slots of its own in every layer."""
    return all(map(_in_place, cache.states(lane)))


def _in_place(state: Any) -> bool:
    return isinstance(state, KVSlots) and not state.ring
