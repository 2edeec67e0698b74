"""Prefill, then one compiled loop of decoding steps: no word goes to the host between tokens."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxlm import arguments, host, sharding
from jaxlm.axes import Array, Params
from jaxlm.decode import cache
from jaxlm.decode.sampling import Greedy, Sampler, checked
from jaxlm.errors import UserError
from jaxlm.models import LM, LMConfig, logits
from jaxlm.nn.stack import is_stacked, unstack

BUCKET = 64  # lengths of prompts and of what is written are rounded up to multiples: few shapes are ever compiled


@flax.struct.dataclass
class DecodeState:
    """What goes round the loop. Only the newest token of each row has not been through the model yet."""

    caches: Any
    prompt_BT: Array
    mask_BT: Array  # 1 on the prompt's real tokens
    token_B: Array  # the newest token
    end: Array  # tokens in the caches, left padding included
    start_B: Array  # first real token of each row
    key: Array
    done_B: Array  # rows that have stopped
    step: Array  # tokens chosen so far
    tokens_BT: Array  # int32, -1 where nothing was chosen
    logprobs_BT: Array  # log probability of each token under the model, before any sampler


@dataclasses.dataclass(frozen=True)
class _How:
    """The static part: what is compiled."""

    config: LMConfig
    sampler: Sampler
    stop: tuple[int, ...]
    new: int  # room for chosen tokens
    stacked: bool


def generate(
    config: LMConfig,
    params: Params,
    tokens_BT: np.ndarray | Array,
    *,
    mask_BT: np.ndarray | Array | None = None,
    max_new_tokens: int = 64,
    sampler: Sampler = Greedy(),
    key: Array | None = None,
    stop: tuple[int, ...] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """New tokens int32 (B, max_new_tokens) and their log probabilities float32; -1 and 0 after a row's stop token.

    `params` in either layout of `nn.stack` (see `prepare`). Prompts of different lengths are padded on the left and
    `mask_BT` is 1 on their real tokens. The stop token itself is returned. A row depends on its own prompt, its
    index and the key only.
    """
    state, how = prefill(config, params, tokens_BT, mask_BT, max_new_tokens, sampler, key, stop)
    new_BT, logprobs_BT, _ = results(decode(how, params, state, max_new_tokens))
    B = np.shape(tokens_BT)[0]
    return np.array(new_BT)[:B, :max_new_tokens], np.array(logprobs_BT)[:B, :max_new_tokens]


def prepare(config: LMConfig, params: Params) -> tuple[LMConfig, Params]:
    """Config and parameters as they decode fastest: one tree a layer, weights in the dtype that matmuls read.

    On CPU that is float32: products with a bfloat16 matrix read it at a thirtieth of the speed.
    """
    dtype = jnp.dtype("float32" if sharding.platform() == "cpu" else config.dtype)
    return dataclasses.replace(config, dtype=dtype.name), _layers(params, dtype)


@functools.partial(jax.jit, static_argnums=1)
def _layers(params: Params, dtype: Any) -> Params:
    # A norm computes with its scale in float32, and a stored leaf may have integers.
    cast = lambda x: x.astype(dtype) if x.ndim > 1 and jnp.issubdtype(x.dtype, jnp.floating) else x
    return jax.tree.map(cast, unstack(params))


def left_pad(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Prompts of different lengths as int32 tokens (B, T) and their mask, 1 on real tokens."""
    lists = isinstance(rows, list | tuple) and rows and all(isinstance(row, list | tuple) for row in rows)
    if not lists or not all(isinstance(i, int | np.integer) for row in rows for i in row):
        raise UserError(f"prompts must be a list of lists of token ids, got {arguments.kind(rows)}")
    width = max(map(len, rows))
    tokens_BT = np.array([[0] * (width - len(row)) + list(row) for row in rows], np.int32)
    mask_BT = np.array([[0] * (width - len(row)) + [1] * len(row) for row in rows], np.int32)
    return tokens_BT, mask_BT


def prefill(
    config: LMConfig,
    params: Params,
    tokens_BT: np.ndarray | Array,
    mask_BT: np.ndarray | Array | None,
    max_new_tokens: int,
    sampler: Sampler,
    key: Array | None,
    stop: tuple[int, ...],
) -> tuple[DecodeState, _How]:
    """Run the prompts through the model and choose the first new token of each row; arguments as in `generate`.

    The state has more rows than asked for where the mesh would not divide them, and more columns; `decode` goes on.
    """
    tokens_BT = check_tokens(tokens_BT, config.V)
    mask_BT = np.ones(tokens_BT.shape, bool) if mask_BT is None else check_mask(mask_BT, tokens_BT)
    max_new_tokens = check_length(config, mask_BT, max_new_tokens)
    new = -(-max_new_tokens // BUCKET) * BUCKET
    how = _How(config, checked(sampler), tuple(stop), new, not _unstacked(params))
    key = check_key(key)
    below = ((0, -len(tokens_BT) % sharding.mesh_size("batch")), (0, 0))
    return _read(how, params, np.pad(tokens_BT, below), np.pad(mask_BT, below), key), how


def _read(how: _How, params: Params, tokens_BT: np.ndarray, mask_BT: np.ndarray, key: Array, *chosen) -> DecodeState:
    """`_prefill` of texts padded on the left to a bucket."""
    T = int(mask_BT.sum(1).max())
    left = int(min(-T % BUCKET, _longest(how.config) - T))
    widen = lambda x_BT: np.pad(x_BT[:, -T:].astype(np.int32), ((0, 0), (left, 0)))
    return _prefill(how, params, widen(tokens_BT), widen(mask_BT), key, *chosen)


@functools.partial(jax.jit, static_argnums=0)
def _prefill(how: _How, params: Params, tokens_BT: Array, mask_BT: Array, key: Array, *chosen: Array) -> DecodeState:
    """`chosen` is what was chosen before: how many tokens, these, their log probabilities, which rows have ended."""
    B, T = tokens_BT.shape
    rows = ("batch", None)
    tokens_BT, mask_BT = sharding.constrain(tokens_BT, *rows), sharding.constrain(mask_BT, *rows)
    start_B = T - jnp.sum(mask_BT, -1)
    positions_BT = jnp.maximum(jnp.arange(T)[None] - start_B[:, None], 0)
    out = _forward(how, params, tokens_BT, positions_BT, mask_BT)
    caches = cache.empty(how.config, B, T + how.new, jnp.dtype(how.config.dtype), how.stacked)
    caches = cache.write(caches, out.states, jnp.zeros((), jnp.int32))
    shape, where = (B, how.new), sharding.creation(*rows)
    none = (
        jnp.zeros((), jnp.int32),
        jnp.zeros(shape, jnp.int32, out_sharding=where) - 1,
        jnp.zeros(shape, jnp.float32, out_sharding=where),
        start_B == T,  # rows that only fill the mesh
    )
    step, chosen_BT, logprobs_BT, done_B = chosen or none
    state = DecodeState(
        caches=caches,
        prompt_BT=tokens_BT,
        mask_BT=mask_BT,
        token_B=jnp.full_like(start_B, -1),
        end=jnp.asarray(T, jnp.int32),
        start_B=start_B,
        key=key,
        done_B=done_B,
        step=step,
        tokens_BT=sharding.constrain(chosen_BT, *rows),
        logprobs_BT=sharding.constrain(logprobs_BT, *rows),
    )
    return _choose(how, state, out)


def decode(how: _How, params: Params, state: DecodeState, until: Array | int) -> DecodeState:
    """Go on until `until` tokens are chosen or every row has stopped. The state, caches included, is donated."""
    for step in _turns(how, state, until):
        state = _decode(how, params, state, step)
        tokens_BT, logprobs_BT, done_B = map(np.asarray, results(state))
        if done_B.all():
            return state
        state = _reread(how, params, state, step, tokens_BT, logprobs_BT, done_B)
    return _decode(how, params, state, until)


def _turns(how: _How, state: DecodeState, until: Array | int) -> list[int]:
    """How many tokens are chosen when the next one's length changes the rotations of all before it: caches are no
    longer what the model would compute then."""
    ropes = [getattr(mixer, "rope", None) for s in how.config.segments for block in s.blocks for mixer in block.mixers]
    scalings = {rope.scaling for rope in ropes if rope is not None}
    if not any(scaling.dynamic for scaling in scalings):
        return []
    T, chosen = int(_prompts(state)[1].sum(1).max()), range(int(state.step), min(int(until), how.new))
    return [n for n in chosen if any(scaling.turns(T + n) for scaling in scalings)]


def _reread(
    how: _How,
    params: Params,
    state: DecodeState,
    step: int,
    tokens_BT: np.ndarray,
    logprobs_BT: np.ndarray,
    done_B: np.ndarray,
) -> DecodeState:
    """Prompts and chosen tokens read anew, and one more token chosen."""
    prompt_BT, mask_BT = map(np.asarray, _prompts(state))
    real_BT = np.repeat(mask_BT.any(1, keepdims=True), step, 1)
    text_BT = np.concatenate([prompt_BT, np.maximum(tokens_BT[:, :step], 0)], 1)
    chosen = state.step, tokens_BT, logprobs_BT, done_B
    new = _read(how, params, text_BT, np.concatenate([mask_BT, real_BT], 1), state.key, *chosen)
    return dataclasses.replace(new, prompt_BT=state.prompt_BT, mask_BT=state.mask_BT)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _decode(how: _How, params: Params, state: DecodeState, until: Array | int) -> DecodeState:
    """`decode` with caches that hold all along."""

    def step(state: DecodeState) -> DecodeState:
        positions_B1 = (state.end - state.start_B)[:, None]
        segments_B1 = jnp.ones_like(positions_B1)
        token_B1 = jnp.maximum(state.token_B, 0)[:, None]
        out = _forward(how, params, token_B1, positions_B1, segments_B1, state.caches, state.end, state.start_B)
        new = _choose(how, state, out)
        # Nothing is below -1, but so the writes must wait for the reads: else XLA copies every cache for every token.
        slot = state.end + jnp.any(new.token_B < -1)
        return dataclasses.replace(new, caches=cache.write(state.caches, out.states, slot), end=state.end + 1)

    until = jnp.minimum(until, how.new)
    return jax.lax.while_loop(lambda s: (s.step < until) & ~jnp.all(s.done_B), step, state)


@jax.jit
def results(state: DecodeState) -> tuple[Array, Array, Array]:
    """Chosen tokens, their log probabilities and which rows have stopped, whole on every device: a process of many
    can read nothing else."""
    return _everywhere((state.tokens_BT, state.logprobs_BT, state.done_B))


@jax.jit
def _prompts(state: DecodeState) -> tuple[Array, Array]:
    """The prompts and their masks, likewise."""
    return _everywhere((state.prompt_BT, state.mask_BT))


def _everywhere(arrays: Any) -> Any:
    return jax.tree.map(lambda x: sharding.constrain(x, *[None] * x.ndim), arrays)


def _forward(how: _How, params: Params, *args: Any) -> Any:
    return LM(how.config, how.stacked).apply({"params": params}, *args, method="forward")


def _choose(how: _How, state: DecodeState, out: Any) -> DecodeState:
    """Choose the next token of every row from the model's last position."""
    last_B1D = sharding.constrain(out.hidden_BTD, "batch", None, None)[:, -1:]
    last = dataclasses.replace(out, hidden_BTD=last_B1D)
    logits_BV = sharding.constrain(logits(how.config, last)[:, 0], "batch", None)
    key = jax.random.fold_in(state.key, state.step)
    chosen_B = how.sampler(logits_BV, key).astype(jnp.int32)
    picked_B = jnp.max(jnp.where(jnp.arange(logits_BV.shape[1])[None] == chosen_B[:, None], logits_BV, -jnp.inf), -1)
    logprob_B = picked_B - jax.nn.logsumexp(logits_BV, -1)
    chosen_B = jnp.where(state.done_B, -1, chosen_B)
    logprob_B = jnp.where(state.done_B, 0.0, logprob_B)
    stopped_B = functools.reduce(jnp.logical_or, [chosen_B == s for s in how.stop], state.done_B)
    put = lambda all_BT, new_B: jax.lax.dynamic_update_slice_in_dim(all_BT, new_B[:, None], state.step, 1)
    return dataclasses.replace(
        state,
        token_B=chosen_B,
        done_B=stopped_B,
        step=state.step + 1,
        tokens_BT=put(state.tokens_BT, chosen_B),
        logprobs_BT=put(state.logprobs_BT, logprob_B),
    )


def _unstacked(params: Params) -> bool:
    return not is_stacked(params)


def _longest(config: LMConfig) -> float:
    """Positions that the model has."""
    return getattr(config.positions, "length", math.inf)


# What is given -------------------------------------------------------------------------------------------------------


def check_tokens(tokens_BT: Any, V: int) -> np.ndarray:
    """The ids as an array (B, T). Raises UserError for other shapes, what are no integers, and ids outside 0..V-1."""
    try:
        tokens_BT = np.asarray(tokens_BT)
    except ValueError:
        raise UserError("the rows of tokens differ in length: pad them on the left and give mask_BT") from None
    except (TypeError, OverflowError):
        raise UserError(
            f"tokens must be a (rows, positions) array of integers, got {arguments.kind(tokens_BT)}"
        ) from None
    if tokens_BT.ndim != 2 or tokens_BT.size == 0 or tokens_BT.dtype.kind not in "iu":
        shape = f"{tokens_BT.shape} of {tokens_BT.dtype}"
        raise UserError(f"tokens must be a (rows, positions) array of integers, got shape {shape}")
    if tokens_BT.min() < 0 or tokens_BT.max() >= V:
        raise UserError(f"token ids must lie in 0..{V - 1}, got {tokens_BT.min()}..{tokens_BT.max()}")
    return tokens_BT


def check_mask(mask_BT: Any, tokens_BT: np.ndarray | Array) -> np.ndarray:
    """The mask as booleans (B, T). Raises UserError for another shape than the tokens', and for more than 0 and 1."""
    try:
        mask_BT = np.asarray(mask_BT)
    except (TypeError, ValueError, OverflowError):
        raise UserError(
            f"the mask must be an array (rows, positions) of 0 and 1, got {arguments.kind(mask_BT)}"
        ) from None
    if mask_BT.dtype.kind not in "biuf" or not np.isin(mask_BT, (0, 1)).all():
        raise UserError(f"the mask must hold 0 and 1, 1 on real tokens, got {mask_BT.dtype} {mask_BT.shape}")
    if mask_BT.shape != tokens_BT.shape:
        raise UserError(f"the mask's shape {mask_BT.shape} is not that of the tokens, {tokens_BT.shape}")
    return mask_BT.astype(bool)


def check_length(config: LMConfig, mask_BT: np.ndarray, max_new_tokens: Any) -> int:
    """`max_new_tokens`. Raises UserError for masks that are not zeros, then ones, and for more tokens than the model
    has positions or this machine memory."""
    new = arguments.integer(max_new_tokens, "max_new_tokens", 1)
    if (mask_BT[:, :-1] & ~mask_BT[:, 1:]).any() or not mask_BT[:, -1].all():
        raise UserError("prompts must be padded on the left: a mask is zeros, then ones, and ends with a one")
    B, (longest, T) = len(mask_BT), (_longest(config), int(mask_BT.sum(1).max()))
    if T + new > longest:
        raise UserError(f"a prompt of {T} tokens and {new} new ones exceed the {longest} positions of the model")
    if T + new + 2 * BUCKET < 2**31:  # slots are counted in int32
        need, room = B * _cache_bytes(config, -(-(T + new) // BUCKET) * BUCKET), host.memory_limit()
        if need <= room * sharding.mesh_size("batch"):
            return new
        size = f"{need / 2**30:.1f} GiB in caches of keys and values, a device has {room / 2**30:.1f} GiB"
    else:
        size = "more than 2**31 positions"
    raise UserError(f"{B} texts of {T} tokens and max_new_tokens={new} need {size}: ask for less")


@functools.lru_cache(maxsize=64)
def _cache_bytes(config: LMConfig, length: int) -> int:
    return cache.nbytes(config, length, config.dtype)


def check_key(key: Any) -> Array:
    """A key of jax.random, of either kind; None is key 0. Raises UserError for several, and for what is none."""
    if key is None:
        return jax.random.key(0)
    if isinstance(key, jax.Array | np.ndarray):
        typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        old = key.dtype == np.uint32 and key.shape == jax.random.key_data(jax.random.key(0)).shape
        if (typed and key.shape == ()) or old:
            return jnp.asarray(key)
    several = f"{len(key)} keys" if getattr(key, "ndim", 0) else arguments.kind(key)
    raise UserError(f"key must be one key of jax.random, such as jax.random.key(0), got {several}")
