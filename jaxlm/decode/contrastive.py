"""Contrastive search: of the likeliest next tokens the one whose hidden state is least like those of the text so far.

All candidates of a step go through the model as rows beside each other, and the state of the chosen one is
taken for all rows of its text: `cache.take` does that for every kind of state.
"""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxlm import arguments, sharding
from jaxlm.axes import Array, Params
from jaxlm.decode import cache
from jaxlm.decode.loop import forward, last_logits
from jaxlm.decode.prefill import check_steady, opened, ready, widened
from jaxlm.decode.sampling import Choice, Sampler, Search, parted
from jaxlm.decode.state import How
from jaxlm.errors import UserError
from jaxlm.nn.state import Recurrent


@dataclasses.dataclass(frozen=True)
class Contrastive(Search):
    """Contrastive search, the last of a chain (Su et al. 2022, arXiv:2202.06417): with h the last hidden states,

        y_t = argmax over the top_k likeliest v of (1 - a) p(v | y_<t) - a max_{j < t} cos(h_v, h_j),  a = penalty_alpha

    Samplers before it make p. It is deterministic, and a step reads top_k tokens of each row. Raises UserError for
    numbers that cannot be.
    """

    what: ClassVar = "contrastive search"
    top_k: int = 4
    penalty_alpha: float = 0.6

    def __post_init__(self):
        object.__setattr__(self, "top_k", arguments.integer(self.top_k, "top_k of contrastive search", 2))
        object.__setattr__(self, "penalty_alpha", arguments.number(self.penalty_alpha, "penalty_alpha"))
        if not 0 <= self.penalty_alpha <= 1:
            raise UserError(f"penalty_alpha must lie in [0, 1], got {self.penalty_alpha:g}")


@struct.dataclass
class Path:
    """What goes round the loop. Rows b k .. b k + k - 1 of the caches are all those of text b."""

    caches: Any
    filters: Any  # what samplers remember of each text
    logits_BV: Array  # of the next token
    hidden_BSD: Array  # of every token of the texts so far, of length one
    seen_BS: Array  # where those are
    end: Array  # tokens in the caches
    start_B: Array
    step: Array  # tokens chosen so far
    done_B: Array
    tokens_BT: Array
    logprobs_BT: Array


def contrastive_search(
    config: Any,
    params: Params,
    given_BT: np.ndarray | Array,
    *,
    sampler: Sampler,
    mask_BT: np.ndarray | Array | None = None,
    max_new_tokens: int = 64,
    stop: tuple[int, ...] = (),
    inputs: Any = None,
) -> tuple[np.ndarray, np.ndarray]:
    """New tokens and their log probabilities, `sampler` being a `Contrastive` or a chain that ends with one.

    All as in `generate` and `prefill`. Raises UserError for more candidates than there are tokens.
    """
    _, search = parted(sampler)
    assert isinstance(search, Contrastive), "contrastive_search needs a Contrastive"
    if search.top_k > config.V:
        raise UserError(f"top_k={search.top_k} of contrastive search is more than the {config.V} tokens there are")
    how, (tokens_BT, mask_BT, inputs) = ready(
        config, params, given_BT, mask_BT, max_new_tokens, sampler, stop, inputs, search.top_k
    )
    check_steady(how, mask_BT, max_new_tokens, Contrastive.what)
    B, limit = np.shape(given_BT)[0], np.int32(max_new_tokens)
    path = first(how, params, *widened(how, tokens_BT, mask_BT), inputs)
    path = run(how, params, path, limit)
    tokens_BT, logprobs_BT = map(np.array, _everywhere((path.tokens_BT, path.logprobs_BT)))
    return tokens_BT[:B, :limit], logprobs_BT[:B, :limit]


@functools.partial(jax.jit, static_argnums=0)
def first(how: How, params: Params, tokens_BT: Array, mask_BT: Array, inputs: Any) -> Path:
    """The prompts read, once each."""
    before, search = _parts(how)
    caches, start_B, out = opened(how, params, tokens_BT, mask_BT, inputs)
    B, T = tokens_BT.shape
    rows_N = jnp.arange(B * search.top_k) // search.top_k
    hidden_BTD = sharding.constrain(_unit(out.hidden_BTD), "batch", None, None)
    mask_BT = sharding.constrain(mask_BT, "batch", None)
    where = sharding.out_sharding("batch", None)
    return Path(
        caches=cache.take(caches, rows_N),
        filters=before.start(tokens_BT, mask_BT, how.config.V),
        logits_BV=last_logits(how, out),
        hidden_BSD=jnp.pad(hidden_BTD, ((0, 0), (0, how.new), (0, 0))),
        seen_BS=jnp.pad(mask_BT > 0, ((0, 0), (0, how.new))),
        end=jnp.asarray(T, jnp.int32),
        start_B=start_B,
        step=jnp.zeros((), jnp.int32),
        done_B=jnp.sum(mask_BT, -1) == 0,  # rows that only fill the mesh
        tokens_BT=jnp.zeros((B, how.new), jnp.int32, out_sharding=where) - 1,
        logprobs_BT=jnp.zeros((B, how.new), jnp.float32, out_sharding=where),
    )


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def run(how: How, params: Params, path: Path, limit: Array) -> Path:
    """Steps until `limit` tokens are chosen or every row has stopped."""
    going = lambda path: (path.step < limit) & ~jnp.all(path.done_B)
    return jax.lax.while_loop(going, functools.partial(step, how, params), path)


def step(how: How, params: Params, path: Path) -> Path:
    """Read the candidates, choose one, and go on from its state."""
    before, search = _parts(how)
    (B, V), k = path.logits_BV.shape, search.top_k
    p_Bk, token_Bk = jax.lax.top_k(jax.nn.softmax(before.filter(path.logits_BV, path.filters)), k)
    token_N, start_N = _flat(token_Bk), _flat(path.start_B[:, None] + jnp.zeros((1, k), jnp.int32))
    positions_N1 = (path.end - start_N)[:, None]
    segments_N1 = jnp.ones_like(positions_N1)
    out = forward(how, params, token_N[:, None], positions_N1, segments_N1, path.caches, path.end, start_N)
    hidden_ND = sharding.constrain(_unit(out.hidden_BTD), "batch", None, None)[:, 0]
    ins = [("batch",)] * 4
    best = functools.partial(_best, search)
    best_B, token_B, hidden_B1D = sharding.shard_map(
        best, ins, ("batch",), p_Bk, token_Bk.astype(jnp.int32), hidden_ND, (path.hidden_BSD, path.seen_BS)
    )
    rows_B = jnp.arange(B) * k + best_B
    rows_N = _flat(rows_B[:, None] + jnp.zeros((1, k), jnp.int32))
    logprobs_BV = jax.nn.log_softmax(path.logits_BV)
    logprob_B = jnp.max(jnp.where(jnp.arange(V)[None] == token_B[:, None], logprobs_BV, -jnp.inf), -1)
    token_B, logprob_B = jnp.where(path.done_B, -1, token_B), jnp.where(path.done_B, 0.0, logprob_B)
    put = lambda all_BT, new_B1, at: jax.lax.dynamic_update_slice_in_dim(all_BT, new_B1, at, 1)
    return Path(
        caches=cache.take(cache.write(path.caches, out.states, path.end), rows_N),
        filters=before.after(path.filters, Choice(token_B)),
        logits_BV=Recurrent(last_logits(how, out)).take(rows_B).value,
        hidden_BSD=put(path.hidden_BSD, hidden_B1D, path.end),
        seen_BS=put(path.seen_BS, token_B[:, None] >= 0, path.end),
        end=path.end + 1,
        start_B=path.start_B,
        step=path.step + 1,
        done_B=functools.reduce(jnp.logical_or, [token_B == s for s in how.stop], path.done_B),
        tokens_BT=put(path.tokens_BT, token_B[:, None], path.step),
        logprobs_BT=put(path.logprobs_BT, logprob_B[:, None], path.step),
    )


def _best(search: Contrastive, p_Bk: Array, token_Bk: Array, hidden_ND: Array, context: Any) -> tuple[Array, ...]:
    """Which candidate each row of one device takes, its token and its hidden state."""
    (hidden_BSD, seen_BS), (B, k) = context, p_Bk.shape
    hidden_BkD = hidden_ND.reshape(B, k, -1)
    cosine_BkS = jnp.einsum("bkd,bsd->bks", hidden_BkD, hidden_BSD)
    alike_Bk = jnp.max(jnp.where(seen_BS[:, None], cosine_BkS, -jnp.inf), -1)
    a = search.penalty_alpha
    best_B1 = jnp.argmax((1 - a) * p_Bk - a * alike_Bk, 1, keepdims=True)
    pick = lambda x_BkN: jnp.take_along_axis(x_BkN, best_B1.reshape(B, *(1,) * (x_BkN.ndim - 1)), 1)
    return best_B1[:, 0], pick(token_Bk)[:, 0], pick(hidden_BkD)


def _parts(how: How) -> tuple[Sampler, Contrastive]:
    before, search = parted(how.sampler)
    assert isinstance(search, Contrastive)
    return before, search


def _unit(x_BTD: Array) -> Array:
    x_BTD = x_BTD.astype(jnp.float32)
    return x_BTD / jnp.maximum(jnp.linalg.norm(x_BTD, axis=-1, keepdims=True), 1e-30)


def _flat(x_Bk: Array) -> Array:
    return x_Bk.reshape(-1, out_sharding=sharding.out_sharding("batch"))


@jax.jit
def _everywhere(arrays: Any) -> Any:
    return jax.tree.map(lambda x: sharding.constrain(x, *[None] * x.ndim), arrays)
