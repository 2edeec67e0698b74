"""Beam search: the likeliest beginnings of every text go on together, and the best of those that end is the answer.

A step scores every continuation of every beam, A x V of them, keeps the best, and takes the states of their parents:
`cache.take` does that for every kind of state. As transformers computes it, in one compiled loop.
"""

import dataclasses
import functools
import math
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxlm import arguments, sharding
from jaxlm.axes import Array, Params
from jaxlm.decode import cache
from jaxlm.decode.checks import check_key
from jaxlm.decode.loop import forward, last_logits
from jaxlm.decode.prefill import check_steady, opened, ready, widened
from jaxlm.decode.sampling import Choice, Sampler, Search, parted
from jaxlm.decode.state import How
from jaxlm.errors import UserError
from jaxlm.nn.state import Recurrent

NOTHING = -1e9  # the score of what cannot be chosen: finite, so that sums of it can be compared


@dataclasses.dataclass(frozen=True)
class Beam(Search):
    """Beam search with A beams, the last of a chain (Graves 2012, arXiv:1211.3711; Sutskever et al. 2014,
    arXiv:1409.3215). The score of a text of n new tokens, the end token included, is

        sum_t log p(y_t | y_<t) / n^length_penalty

    Search ends where A texts have ended and, by `early_stopping`: True, at once; False, when the best running beam at
    its present length scores below all of them; "never", when not even the longest text that it may become could score
    more. Samplers before it in a chain filter log probabilities, which are not normalised again.

    Diverse beams (Vijayakumar et al. 2016, arXiv:1610.02424) are `groups` of A / groups each, which choose one after
    the other at every step. What counts in a group is

        log p(y_t | y_<t) - diversity_penalty #{beams of the groups before it that chose y_t at this step}

    after the samplers before it (transformers, up to 4, subtracts first).

    `sampled` beams draw the continuations, without replacement, with probabilities in proportion to exp of their
    totals (as transformers' beam-search multinomial sampling): the best of total + Gumbel noise (Kool et al. 2019,
    arXiv:1903.06059), which then go on by their totals alone. Raises UserError for what cannot be.
    """

    what: ClassVar = "beam search"
    A: int
    length_penalty: float = 1.0  # above 0 longer texts gain
    early_stopping: bool | Literal["never"] = False
    groups: int = 1
    diversity_penalty: float = 0.0
    sampled: bool = False

    def __post_init__(self):
        object.__setattr__(self, "A", arguments.integer(self.A, "the number of beams", 1))
        object.__setattr__(self, "length_penalty", arguments.number(self.length_penalty, "length_penalty"))
        object.__setattr__(self, "groups", arguments.integer(self.groups, "the groups of beams", 1))
        object.__setattr__(self, "diversity_penalty", arguments.number(self.diversity_penalty, "diversity_penalty"))
        if not math.isfinite(self.length_penalty):
            raise UserError(f"length_penalty must be finite, got {self.length_penalty:g}")
        if not 0 <= self.diversity_penalty < math.inf:
            raise UserError(f"diversity_penalty must be finite and not below 0, got {self.diversity_penalty:g}")
        if self.A % self.groups:
            raise UserError(f"{self.A} beams cannot be divided into {self.groups} groups of equal size")
        if self.diversity_penalty and self.groups == 1:
            raise UserError("diversity_penalty is between groups of beams: give groups=2 or more")
        if not isinstance(self.sampled, bool):
            raise UserError(f"sampled must be True or False, got {self.sampled!r:.60}")
        if not isinstance(self.early_stopping, bool) and self.early_stopping != "never":
            raise UserError(f'early_stopping must be True, False or "never", got {self.early_stopping!r:.60}')


@struct.dataclass
class Texts:
    """New tokens of A texts for every row, best first; while they are found, the best first of every group."""

    tokens_BAT: Array  # int32, -1 after the end
    logprobs_BAT: Array  # of each under the model, before any sampler; 0 after the end
    score_BA: Array  # of running texts the sum of log probabilities, of those that ended divided by the length


@struct.dataclass
class Beams:
    """What goes round the loop. Row b A + a of caches, filters and tokens is that of beam a of text b."""

    caches: Any
    filters: Any  # what samplers remember of each beam
    token_N: Array  # the newest, which has not been through the model yet
    end: Array  # tokens in the caches
    start_N: Array
    step: Array  # tokens chosen so far
    running: Texts
    ended: Texts
    ended_BA: Array  # whether there is such a text
    open_BG: Array  # whether a running beam of a group may still become better than those of it that ended
    key: Array


def beam_search(
    config: Any,
    params: Params,
    given_BT: np.ndarray | Array,
    *,
    sampler: Sampler,
    mask_BT: np.ndarray | Array | None = None,
    max_new_tokens: int = 64,
    key: Array | None = None,
    stop: tuple[int, ...] = (),
    inputs: Any = None,
) -> Texts:
    """The A best texts that beam search finds for every row, `sampler` being a `Beam` or a chain that ends with one.

    All else as in `generate` and `prefill`. Texts that reach `max_new_tokens` count as ended there. Raises UserError
    for more beams than there are tokens to begin with.
    """
    stop = tuple(dict.fromkeys(stop))
    _, beam = parted(sampler)
    assert isinstance(beam, Beam), "beam_search needs a Beam"
    if beam.A > config.V:
        raise UserError(f"{beam.A} beams are more than the {config.V} tokens of the vocabulary: ask for fewer")
    how, (tokens_BT, mask_BT, inputs) = ready(
        config, params, given_BT, mask_BT, max_new_tokens, sampler, stop, inputs, beam.A
    )
    check_steady(how, mask_BT, max_new_tokens, Beam.what)
    B, limit = np.shape(given_BT)[0], np.int32(max_new_tokens)
    beams = first(how, params, *widened(how, tokens_BT, mask_BT), check_key(key), limit, inputs)
    found = jax.tree.map(np.array, _everywhere(search(how, params, beams, limit).ended))
    best_BA = np.argsort(-found.score_BA[:B], 1, kind="stable")  # of all groups
    pick = lambda x: np.take_along_axis(x[:B], best_BA.reshape(*best_BA.shape, *(1,) * (x.ndim - 2)), 1)
    found = jax.tree.map(pick, found)
    return Texts(found.tokens_BAT[..., :limit], found.logprobs_BAT[..., :limit], found.score_BA)


@functools.partial(jax.jit, static_argnums=0)
def first(how: How, params: Params, tokens_BT: Array, mask_BT: Array, key: Array, limit: Array, inputs: Any) -> Beams:
    """The prompts read, once each, and the best A first tokens of every row."""
    before, beam = _parts(how)
    caches, start_B, out = opened(how, params, tokens_BT, mask_BT, inputs)
    logits_BV = last_logits(how, out)
    B, A = len(logits_BV), beam.A
    rows_N = jnp.arange(B * A) // A
    several = lambda x: Recurrent(x).take(rows_N).value
    shape, where = (B, A, how.new), sharding.out_sharding("batch", None, None)
    texts = Texts(
        jnp.zeros(shape, jnp.int32, out_sharding=where) - 1,
        jnp.zeros(shape, jnp.float32, out_sharding=where),
        _of_rows(jnp.broadcast_to(jnp.where(jnp.arange(A) % (A // beam.groups) == 0, 0.0, NOTHING)[None], (B, A))),
    )
    beams = Beams(
        caches=cache.take(caches, rows_N),
        filters=several(before.start(tokens_BT, mask_BT, how.config.V)),
        token_N=several(tokens_BT[:, -1]),
        end=jnp.asarray(tokens_BT.shape[1], jnp.int32),
        start_N=several(start_B),
        step=jnp.zeros((), jnp.int32),
        running=texts,  # all alike but for their scores: one of a group begins
        ended=dataclasses.replace(texts, score_BA=jnp.full_like(texts.score_BA, NOTHING)),
        ended_BA=jnp.zeros_like(texts.score_BA, bool),
        open_BG=_of_rows(jnp.repeat(jnp.sum(mask_BT, -1, keepdims=True) > 0, beam.groups, 1)),  # others fill the mesh
        key=key,
    )
    return go_on(how, beams, several(logits_BV), limit)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def search(how: How, params: Params, beams: Beams, limit: Array) -> Beams:
    """Steps until `limit` tokens are chosen or no row can become better."""

    def step(beams: Beams) -> Beams:
        positions_N1 = (beams.end - beams.start_N)[:, None]
        segments_N1 = jnp.ones_like(positions_N1)
        token_N1 = beams.token_N[:, None]
        out = forward(how, params, token_N1, positions_N1, segments_N1, beams.caches, beams.end, beams.start_N)
        caches = cache.write(beams.caches, out.states, beams.end)
        beams = dataclasses.replace(beams, caches=caches, end=beams.end + 1)
        return go_on(how, beams, last_logits(how, out), limit)

    return jax.lax.while_loop(lambda beams: (beams.step < limit) & jnp.any(beams.open_BG), step, beams)


def go_on(how: How, beams: Beams, logits_NV: Array, limit: Array) -> Beams:
    """Choose the next token of every beam, and take the states of those that it continues."""
    before, beam = _parts(how)
    logprobs_NV = jax.nn.log_softmax(logits_NV)
    filtered_NV = before.filter(logprobs_NV, beams.filters)
    texts = beams.running, beams.ended, beams.ended_BA, beams.open_BG
    key = jax.random.fold_in(beams.key, beams.step)
    noise_NV = jax.random.gumbel(key, logits_NV.shape, jnp.float32) if beam.sampled else None
    arrays = [logprobs_NV, filtered_NV, noise_NV, *jax.tree.leaves(texts)]
    local = functools.partial(_advance, beam, how.stop, jax.tree.structure(texts))
    ins = [(), (), *[("batch",)] * len(arrays)]
    token_BA, parent_BA, found = sharding.shard_map(local, ins, ("batch",), beams.step, limit, *arrays)
    B, A = token_BA.shape
    rows_N = _flat(_of_rows(jnp.arange(B)[:, None] * A) + parent_BA)
    token_N = _flat(token_BA)
    running, ended, ended_BA, open_BG = found
    return dataclasses.replace(
        beams,
        caches=cache.take(beams.caches, rows_N),
        filters=before.after(Recurrent(beams.filters).take(rows_N).value, Choice(token_N)),
        token_N=token_N,
        step=beams.step + 1,
        running=running,
        ended=ended,
        ended_BA=ended_BA,
        open_BG=open_BG,
    )


def _advance(
    beam: Beam, stop: tuple[int, ...], tree: Any, step: Array, limit: Array, *arrays: Any
) -> tuple[Array, Array, Any]:
    """Tokens and parents of the beams that go on, and all texts with them, of the rows of one device."""
    *texts, open_BG = jax.tree.unflatten(tree, arrays[3:])
    B, A = texts[2].shape
    scores = jax.tree.map(lambda x_NV: x_NV.reshape(B, A, -1), arrays[:3])
    W, found, chosen_BV = A // beam.groups, [], jnp.zeros_like(scores[1][:, 0])
    for g in range(beam.groups):
        mine = lambda x_BA, g=g: x_BA[:, g * W : (g + 1) * W]
        open_B, (logprobs_BAV, filtered_BAV, noise_BAV) = open_BG[:, g], jax.tree.map(mine, scores)
        args = logprobs_BAV, filtered_BAV - beam.diversity_penalty * chosen_BV[:, None], noise_BAV
        group = *jax.tree.map(mine, tuple(texts)), open_B
        token_BA, parent_BA, new = _advance_group(beam, stop, step, limit, group, *args)
        chosen_BAV = (jnp.arange(chosen_BV.shape[1])[None, None] == token_BA[..., None]) & open_B[:, None, None]
        chosen_BV += jnp.sum(chosen_BAV, 1)
        found.append((token_BA, g * W + parent_BA, (*new[:3], new[3][:, None])))
    return jax.tree.map(lambda *xs: jnp.concatenate(xs, 1), *found)


def _advance_group(
    beam: Beam,
    stop: tuple[int, ...],
    step: Array,
    limit: Array,
    texts: Any,
    logprobs_BAV: Array,
    scores_BAV: Array,
    noise_BAV: Array | None,
) -> tuple[Array, Array, Any]:
    """The same of one group, whose A beams know of no others."""
    running, ended, ended_BA, open_B = texts
    B, A, V = scores_BAV.shape
    K = min(max(2, 1 + len(stop)) * A, A * V)  # so that A go on, though every beam may stop with each of `stop`
    total_BN = (running.score_BA[:, :, None] + scores_BAV).reshape(B, A * V)
    if noise_BAV is None:
        total_BK, choice_BK = jax.lax.top_k(total_BN, K)
    else:
        drawn_BK = jax.lax.top_k(total_BN + noise_BAV.reshape(B, A * V), K)[1]
        total_BK, order_BK = jax.lax.top_k(jnp.take_along_axis(total_BN, drawn_BK, 1), K)
        choice_BK = jnp.take_along_axis(drawn_BK, order_BK, 1)
    parent_BK, token_BK = choice_BK // V, (choice_BK % V).astype(jnp.int32)
    logprob_BK = jnp.take_along_axis(logprobs_BAV.reshape(B, A * V), choice_BK, 1)

    def continued(x_BAT: Array, new_BK: Array) -> Array:
        x_BKT = jnp.take_along_axis(x_BAT, parent_BK[:, :, None], 1)
        return jax.lax.dynamic_update_slice_in_dim(x_BKT, new_BK[:, :, None], step, 2)

    tokens_BKT = continued(running.tokens_BAT, token_BK)
    candidates = Texts(tokens_BKT, continued(running.logprobs_BAT, logprob_BK), total_BK)
    n = (step + 1).astype(jnp.float32)
    last_BK = jnp.broadcast_to(step + 1 == limit, (B, K))
    stops_BK = functools.reduce(jnp.logical_or, [token_BK == s for s in stop], last_BK)

    # Those among the best A that end now, together with those that ended before: the best A of them.
    full_B = jnp.all(ended_BA, 1) & (beam.early_stopping is True)
    ends_BK = stops_BK & (jnp.arange(K) < A)[None] & (open_B & ~full_B)[:, None]
    score_BK = jnp.where(ends_BK, total_BK / n**beam.length_penalty, NOTHING)
    both = jax.tree.map(lambda *xs: jnp.concatenate(xs, 1), ended, dataclasses.replace(candidates, score_BA=score_BK))
    best_BA = jax.lax.top_k(both.score_BA, A)[1]
    ended = _pick(both, best_BA)
    ended_BA = jnp.take_along_axis(jnp.concatenate([ended_BA, ends_BK], 1), best_BA, 1)

    # The best A of the others go on.
    going = dataclasses.replace(candidates, score_BA=total_BK + jnp.where(stops_BK, NOTHING, 0.0))
    next_BA = jax.lax.top_k(going.score_BA, A)[1]
    running = _pick(going, next_BA)
    longest = limit if beam.early_stopping == "never" and beam.length_penalty > 0 else n
    hope_B = running.score_BA[:, 0] / jnp.asarray(longest, jnp.float32) ** beam.length_penalty
    worst_B = jnp.min(jnp.where(ended_BA, ended.score_BA, NOTHING), 1)
    open_B &= (hope_B > worst_B) & ~(jnp.all(ended_BA, 1) & (beam.early_stopping is True))
    token_BA, parent_BA = (jnp.take_along_axis(x_BK, next_BA, 1) for x_BK in (token_BK, parent_BK))
    return token_BA, parent_BA, (running, ended, ended_BA, open_B)


def _pick(texts: Texts, index_BA: Array) -> Texts:
    return jax.tree.map(
        lambda x: jnp.take_along_axis(x, index_BA.reshape(index_BA.shape + (1,) * (x.ndim - 2)), 1), texts
    )


def _parts(how: How) -> tuple[Sampler, Beam]:
    before, beam = parted(how.sampler)
    assert isinstance(beam, Beam)
    return before, beam


def _of_rows(x: Array) -> Array:
    return sharding.constrain(x, "batch", *[None] * (x.ndim - 1))


def _flat(x_BA: Array) -> Array:
    return x_BA.reshape(-1, out_sharding=sharding.out_sharding("batch"))


@jax.jit
def _everywhere(texts: Texts) -> Texts:
    return jax.tree.map(lambda x: sharding.constrain(x, *[None] * x.ndim), texts)
