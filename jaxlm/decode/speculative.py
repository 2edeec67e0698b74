"""Speculative decoding: a cheap draft of the next k tokens, and one pass of the model that accepts or replaces them
(Leviathan et al. 2022, arXiv:2211.17192; Chen et al. 2023, arXiv:2302.01318). Exact in distribution:

    accept y ~ q with probability min(1, p(y) / q(y)), else draw from max(p - q, 0) / sum max(p - q, 0)

p and q are what the sampler makes of the model's and of the draft's logits, so greedy decoding stays greedy, up to sums
of float32 that differ where two tokens are all but equally likely. Only what was accepted is written into caches, which
is exact for rings too; a recurrence is run again from its state before the draft.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxlm import arguments, sharding
from jaxlm.axes import Array, Params
from jaxlm.decode import cache
from jaxlm.decode.checks import check_key
from jaxlm.decode.drafts import Draft, Lookup
from jaxlm.decode.loop import forward
from jaxlm.decode.prefill import opened, ready, widened
from jaxlm.decode.sampling import Choice, Greedy, Sampler, links, parted
from jaxlm.decode.state import BUCKET, How
from jaxlm.errors import UserError
from jaxlm.models import LMConfig, logits
from jaxlm.nn.state import KVSlots, Recurrent


@struct.dataclass
class Speculation:
    """What goes round the loop. Row b's newest token is in no cache yet."""

    caches: Any
    draft_caches: Any  # of the draft model, if there is one
    sampler_state: Any
    text_BS: Array  # prompt and chosen tokens, each in its slot
    end_B: Array  # tokens in the caches
    start_B: Array
    chosen_B: Array
    done_B: Array
    tokens_BT: Array
    logprobs_BT: Array
    key: Array
    rounds: Array  # passes of the model
    row_rounds: Array  # ... times rows that were not done


@dataclasses.dataclass(frozen=True)
class Plan:
    """The static part: what is compiled."""

    how: How
    draft: Lookup | How
    k: int

    @property
    def recurrent(self) -> bool:
        """Whether a state takes the place of the one before it: then all rows keep as many tokens."""
        configs = [self.how.config, *([self.draft.config] if isinstance(self.draft, How) else [])]
        shapes = jax.eval_shape(lambda: [cache.empty(config, 1, 1, jnp.float32, False) for config in configs])
        return bool(_recurrent(shapes))


def speculative(
    config: LMConfig,
    params: Params,
    tokens_BT: np.ndarray | Array,
    draft: Lookup | Draft,
    *,
    mask_BT: np.ndarray | Array | None = None,
    max_new_tokens: int = 64,
    sampler: Sampler = Greedy(),
    key: Array | None = None,
    stop: tuple[int, ...] = (),
) -> tuple[np.ndarray, np.ndarray, float]:
    """As `decode.generate`, with the mean number of tokens that a pass of the model gave each row: 1 to k + 1.

    Raises UserError for a draft model of another vocabulary, and for rotations that change within the text.
    """
    if not isinstance(draft, Lookup | Draft):
        raise UserError(f"a draft must be Lookup(), Draft or a language model, got {arguments.kind(draft)}")
    if (search := parted(sampler)[1]) is not None:
        raise UserError(f"{search.what} has no draft: use another sampler")
    if sharding.mesh_size("batch") > 1 or sharding.mesh_size("vocab") > 1:
        raise UserError("speculative decoding runs on one device: leave the draft out on a mesh")
    how, (tokens_BT, mask_BT, _) = ready(config, params, tokens_BT, mask_BT, max_new_tokens, sampler, stop, None)
    longest = int(mask_BT.sum(1).max())
    if any(scaling.turns(longest + n) for scaling in how.turning for n in range(int(max_new_tokens) + draft.k)):
        raise UserError("the rotations of this model change within the text: decode it without a draft")
    how = dataclasses.replace(how, new=how.new + -(-(draft.k + 1) // BUCKET) * BUCKET)
    part: Lookup | How
    if isinstance(draft, Lookup):
        part, draft_params = draft, None
    else:
        if draft.config.V != config.V:
            raise UserError(f"the draft model has {draft.config.V} tokens, the model {config.V}: they must be the same")
        part, draft_params = dataclasses.replace(how, config=draft.config), draft.params
    plan, limit = Plan(how, part, draft.k), np.int32(max_new_tokens)
    state = begin(plan, params, draft_params, *widened(how, tokens_BT, mask_BT), check_key(key), limit)
    state = run(plan, params, draft_params, state, limit)
    first = int(np.asarray(state.chosen_B).sum()) - len(tokens_BT)
    return (
        np.array(state.tokens_BT)[:, :max_new_tokens],
        np.array(state.logprobs_BT)[:, :max_new_tokens],
        first / max(int(state.row_rounds), 1),
    )


@functools.partial(jax.jit, static_argnums=0)
def begin(
    plan: Plan, params: Params, draft_params: Params, tokens_BT: Array, mask_BT: Array, key: Array, limit: Array
) -> Speculation:
    """The prompts read, and one token of each chosen."""
    how, (B, T) = plan.how, tokens_BT.shape
    caches, start_B, out = opened(how, params, tokens_BT, mask_BT, {})
    draft_caches = opened(plan.draft, draft_params, tokens_BT, mask_BT, {})[0] if isinstance(plan.draft, How) else ()
    last = dataclasses.replace(out, hidden_BTD=out.hidden_BTD[:, -1:])
    state = Speculation(
        caches,
        draft_caches,
        how.sampler.start(tokens_BT, mask_BT, how.config.V),
        text_BS=jnp.pad(tokens_BT, ((0, 0), (0, how.new))),
        end_B=jnp.full(B, T - 1, jnp.int32),  # raised by the choice of the first
        start_B=start_B,
        chosen_B=jnp.zeros(B, jnp.int32),
        done_B=jnp.zeros(B, bool),
        tokens_BT=jnp.full((B, how.new), -1, jnp.int32),
        logprobs_BT=jnp.zeros((B, how.new), jnp.float32),
        key=key,
        rounds=jnp.zeros((), jnp.int32),
        row_rounds=jnp.zeros((), jnp.int32),
    )
    none = jnp.zeros((B, 0), jnp.int32)
    return judged(plan, state, logits(how.config, last), none, None, limit)[0]


@functools.partial(jax.jit, static_argnums=0, donate_argnums=3)
def run(plan: Plan, params: Params, draft_params: Params, state: Speculation, limit: Array) -> Speculation:
    """Rounds of a draft and its verification, until every row has stopped or has `limit` tokens."""

    def round(state: Speculation) -> Speculation:
        newest_B1 = jnp.take_along_axis(state.text_BS, state.end_B[:, None], 1)
        if isinstance(plan.draft, Lookup):
            draft_Bk, q_BkV = plan.draft(state.text_BS, state.start_B, state.end_B), None
        else:
            draft_Bk, q_BkV = drafted(plan, draft_params, state, newest_B1)
        tokens_BT = jnp.concatenate([newest_B1, draft_Bk], 1)
        out = _read(plan.how, params, state.caches, tokens_BT, state)
        new, n_B = judged(plan, state, logits(plan.how.config, out), draft_Bk, q_BkV, limit)
        caches = _kept(plan.how, params, state.caches, out.states, tokens_BT, state, n_B)
        if isinstance(plan.draft, How):
            out = _read(plan.draft, draft_params, state.draft_caches, tokens_BT, state)
            draft_caches = _kept(plan.draft, draft_params, state.draft_caches, out.states, tokens_BT, state, n_B)
            new = dataclasses.replace(new, draft_caches=draft_caches)
        return dataclasses.replace(new, caches=caches)

    return jax.lax.while_loop(lambda state: ~jnp.all(state.done_B), round, state)


def drafted(plan: Plan, params: Params, state: Speculation, newest_B1: Array) -> tuple[Array, Array]:
    """k tokens of the draft model and the distributions that they were drawn from."""
    draft, sampler = plan.draft, plan.how.sampler
    assert isinstance(draft, How)
    caches, own, token_B1, tokens, drawn = state.draft_caches, state.sampler_state, newest_B1, [], []
    for i in range(plan.k):
        out = _read(draft, params, caches, token_B1, state, i)
        caches = cache.write(caches, out.states, state.end_B + i)
        logits_BV = sampler.filter(logits(draft.config, out)[:, 0], own)
        token_B = jax.random.categorical(_key(state, 2 * i + 1), logits_BV).astype(jnp.int32)
        own = sampler.after(own, Choice(token_B, jnp.zeros(len(token_B))))
        tokens.append(token_B)
        drawn.append(jax.nn.softmax(logits_BV))
        token_B1 = token_B[:, None]
    return jnp.stack(tokens, 1), jnp.stack(drawn, 1)


def judged(
    plan: Plan, state: Speculation, logits_BTV: Array, draft_Bk: Array, q_BkV: Array | None, limit: Array
) -> tuple[Speculation, Array]:
    """The state with what was accepted, the token behind it included, and how many these are of each row."""
    sampler, (B, T, V), k = plan.how.sampler, logits_BTV.shape, draft_Bk.shape[1]
    alive_B, done_B, own, found = ~state.done_B, state.done_B, state.sampler_state, []
    in_step, greedy = plan.recurrent, isinstance(links(sampler)[-1], Greedy)
    for i in range(T):
        logits_BV = logits_BTV[:, i]
        filtered_BV = sampler.filter(logits_BV, own)
        p_BV, key = jax.nn.softmax(filtered_BV), _key(state, 2 * i)
        if greedy:  # p is 1 for one token: nothing is drawn
            token_B = jnp.argmax(filtered_BV, -1).astype(jnp.int32)
            accepted_B = token_B == draft_Bk[:, i] if i < k else jnp.zeros(B, bool)
        elif i < k:
            y_B1 = draft_Bk[:, i, None]
            q_BV = jax.nn.one_hot(y_B1[:, 0], V) if q_BkV is None else q_BkV[:, i]
            p_B, q_B = (jnp.take_along_axis(x_BV, y_B1, 1)[:, 0] for x_BV in (p_BV, q_BV))
            accepted_B = jax.random.uniform(jax.random.fold_in(key, 1), (B,)) * q_B < p_B
            rest_BV = jnp.maximum(p_BV - q_BV, 0)
            rest_BV = jnp.where(jnp.sum(rest_BV, -1, keepdims=True) > 0, rest_BV, p_BV)
            other_B = jax.random.categorical(key, jnp.log(rest_BV))
            token_B = jnp.where(accepted_B, y_B1[:, 0], other_B).astype(jnp.int32)
        else:
            accepted_B, token_B = jnp.zeros(B, bool), jax.random.categorical(key, filtered_BV).astype(jnp.int32)
        pick = lambda x_BV, token_B=token_B: jnp.take_along_axis(x_BV, token_B[:, None], 1)[:, 0]
        said_B = jnp.where(alive_B, token_B, -1)
        logprob_B = jnp.where(alive_B, pick(jax.nn.log_softmax(logits_BV)), 0.0)
        own = sampler.after(own, Choice(said_B, pick(jax.nn.log_softmax(filtered_BV))))
        found.append((said_B, logprob_B))
        stopped_B = functools.reduce(jnp.logical_or, [said_B == s for s in plan.how.stop], jnp.zeros(B, bool))
        done_B |= alive_B & (stopped_B | (state.chosen_B + i + 1 >= limit))
        alive_B &= accepted_B & ~done_B
        if in_step:  # rows that go on keep as many tokens as each other
            alive_B &= jnp.all(alive_B | done_B)
    said_BT, logprob_BT = (jnp.stack(x, 1) for x in zip(*found))
    n_B = jnp.sum(said_BT >= 0, 1)
    put = jax.vmap(lambda row, new, at: jax.lax.dynamic_update_slice_in_dim(row, new, at, 0))
    new = dataclasses.replace(
        state,
        sampler_state=own,
        text_BS=put(state.text_BS, jnp.maximum(said_BT, 0), state.end_B + 1),
        end_B=state.end_B + n_B,
        chosen_B=state.chosen_B + n_B,
        done_B=done_B,
        tokens_BT=put(state.tokens_BT, said_BT, state.chosen_B),
        logprobs_BT=put(state.logprobs_BT, logprob_BT, state.chosen_B),
        rounds=state.rounds + 1,
        row_rounds=state.row_rounds + (jnp.sum(~state.done_B) if k else 0),
    )
    return new, n_B


def _read(how: How, params: Params, caches: Any, tokens_BT: Array, state: Speculation, after: int = 0) -> Any:
    """The model's output on these tokens, which come `after` tokens behind those in the caches."""
    end_B = state.end_B + after
    positions_BT = (end_B - state.start_B)[:, None] + jnp.arange(tokens_BT.shape[1])[None]
    segments_BT = jnp.ones_like(positions_BT)
    return forward(how, params, tokens_BT, positions_BT, segments_BT, caches, end_B, state.start_B)


def _kept(how: How, params: Params, caches: Any, new: Any, tokens_BT: Array, state: Speculation, n_B: Array) -> Any:
    """The caches after the first `n_B` of these tokens."""
    write = lambda old, new: _first(old, new, state.end_B, n_B) if isinstance(old, KVSlots) else old
    kept = cache.each(write, caches, new)
    if not _recurrent(caches):
        return kept
    # Rows that are done read on, and nobody looks at them.
    n = jnp.max(n_B)
    again = [
        lambda caches, n=n: _read(how, params, caches, tokens_BT[:, :n], state).states if n else new
        for n in range(tokens_BT.shape[1] + 1)
    ]
    alike = lambda f: lambda caches: _recurrent(f(caches))
    states = jax.lax.switch(n, [alike(f) for f in again], caches)
    found = iter(states)
    replace = lambda old: dataclasses.replace(old, value=next(found)) if isinstance(old, Recurrent) else old
    return cache.each(replace, kept)


def _recurrent(states: Any) -> list[Any]:
    """The values of the recurrent ones, in order."""
    return [state.value for state in cache.states(states) if isinstance(state, Recurrent)]


def _first(old: KVSlots, new: KVSlots, end_B: Array, n_B: Array) -> KVSlots:
    """Slots with the first `n_B` new tokens written."""

    def put(slots: Array, new: Array, end: Array, n: Array) -> Array:
        """(..., S, K) <- (..., T, K) of one row."""
        S, T = slots.shape[-2], new.shape[-2]
        last = end + n - 1
        token_S = last - (last - jnp.arange(S)) % S - end  # which of the new tokens a slot gets
        taken = jnp.take(new, jnp.clip(token_S, 0, T - 1), -2).astype(slots.dtype)
        mask = ((token_S >= 0) & (n > 0))[:, None]
        return jnp.where(mask.reshape((1,) * (slots.ndim - 2) + mask.shape), taken, slots)

    of_rows, new = jax.vmap(put, (old.axis, old.axis, 0, 0), old.axis), old.stored(new)
    return dataclasses.replace(old, value=jax.tree.map(lambda x, y: of_rows(x, y, end_B, n_B), old.value, new.value))


def _key(state: Speculation, i: int) -> Array:
    """A round's i-th."""
    return jax.random.fold_in(jax.random.fold_in(state.key, state.rounds), i)
