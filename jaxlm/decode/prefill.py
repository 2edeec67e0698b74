"""Prefill: the prompts through the model in one pass, caches made, and the first new token of each row chosen."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm import sharding
from jaxlm.axes import Array, Params
from jaxlm.decode import cache
from jaxlm.decode.checks import check_key, check_length, check_mask, check_tokens, longest
from jaxlm.decode.loop import choose, forward
from jaxlm.decode.sampling import Sampler, checked
from jaxlm.decode.state import BUCKET, DecodeState, How
from jaxlm.errors import UserError
from jaxlm.models import Output
from jaxlm.models.lm import LMConfig
from jaxlm.nn.stack import is_stacked


def prefill(
    config: LMConfig,
    params: Params,
    tokens_BT: np.ndarray | Array,
    mask_BT: np.ndarray | Array | None,
    max_new_tokens: int,
    sampler: Sampler,
    key: Array | None,
    stop: tuple[int, ...],
    inputs: Mapping[str, Any] | None = None,
) -> tuple[DecodeState, How]:
    """Run the prompts through the model and choose the first new token of each row; arguments as in `generate`.

    `inputs` are arrays with B rows that the model's `forward` takes beside tokens, by name, such as an encoder's
    output; steps go on without them. The state has more rows than asked for where the mesh would not divide them, and
    more columns; `decode` goes on.
    """
    how, (tokens_BT, mask_BT, inputs) = ready(config, params, tokens_BT, mask_BT, max_new_tokens, sampler, stop, inputs)
    return read(how, params, tokens_BT, mask_BT, check_key(key), inputs), how


def ready(
    config: LMConfig,
    params: Params,
    tokens_BT: np.ndarray | Array,
    mask_BT: np.ndarray | Array | None,
    max_new_tokens: int,
    sampler: Sampler,
    stop: tuple[int, ...],
    inputs: Mapping[str, Any] | None,
    copies: int = 1,
) -> tuple[How, tuple[np.ndarray, np.ndarray, dict[str, Any]]]:
    """What is compiled, and tokens, mask and inputs of as many rows as the mesh divides, checked; see `prefill`. There
    will be `copies` caches of each."""
    tokens_BT = check_tokens(tokens_BT, config.V)
    mask_BT = np.ones(tokens_BT.shape, bool) if mask_BT is None else check_mask(mask_BT, tokens_BT)
    max_new_tokens = check_length(config, np.repeat(mask_BT, copies, 0), max_new_tokens)
    new = -(-max_new_tokens // BUCKET) * BUCKET
    how = How(config, checked(sampler), tuple(stop), new, is_stacked(params))
    fill = -len(tokens_BT) % sharding.mesh_size("batch")
    below = lambda x: np.pad(x, ((0, fill), *((0, 0),) * (np.ndim(x) - 1))) if fill else x
    inputs = {name: below(x) for name, x in (inputs or {}).items() if x is not None}
    return how, (below(tokens_BT), below(mask_BT), inputs)


def check_steady(how: How, mask_BT: np.ndarray, max_new_tokens: int, what: str) -> None:
    """Raises UserError where rotations change while so many tokens are written."""
    longest, new = int(mask_BT.sum(1).max()), int(max_new_tokens)
    if any(scaling.turns(longest + n) for scaling in how.turning for n in range(new)):
        raise UserError(
            f"the rotations of this model change within {longest} to {longest + new} tokens, and {what} does not read "
            "texts anew: ask for fewer new tokens, or for another sampler"
        )


def read(
    how: How,
    params: Params,
    tokens_BT: np.ndarray,
    mask_BT: np.ndarray,
    key: Array,
    inputs: Mapping[str, Any],
    before: DecodeState | None = None,
) -> DecodeState:
    """`first_pass` of texts padded on the left to a bucket."""
    return first_pass(how, params, *widened(how, tokens_BT, mask_BT), key, inputs, before)


def widened(how: How, tokens_BT: np.ndarray, mask_BT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Texts padded on the left to a bucket, and their masks."""
    T = int(mask_BT.sum(1).max())
    left = int(min(-T % getattr(how.config, "bucket", BUCKET), longest(how.config) - T))
    widen = lambda x_BT: np.pad(x_BT[:, -T:].astype(np.int32), ((0, 0), (left, 0)))
    return widen(tokens_BT), widen(mask_BT)


@functools.partial(jax.jit, static_argnums=0)
def first_pass(
    how: How,
    params: Params,
    tokens_BT: Array,
    mask_BT: Array,
    key: Array,
    inputs: Mapping[str, Array],
    before: DecodeState | None = None,
) -> DecodeState:
    """The state after texts are read and one more token is chosen; all but the caches goes on from `before`."""
    caches, start_B, out = opened(how, params, tokens_BT, mask_BT, inputs)
    tokens_BT, mask_BT = (sharding.constrain(x_BT, "batch", None) for x_BT in (tokens_BT, mask_BT))
    state = fresh(how, tokens_BT, mask_BT, key, inputs) if before is None else before
    end = jnp.asarray(tokens_BT.shape[1], jnp.int32)
    return choose(how, dataclasses.replace(state, caches=caches, end=end, start_B=start_B), out)


def opened(
    how: How, params: Params, tokens_BT: Array, mask_BT: Array, inputs: Mapping[str, Array]
) -> tuple[tuple, Array, Output]:
    """Caches with texts in them, the first token of each, and what the model gives."""
    B, T = tokens_BT.shape
    tokens_BT, mask_BT = (sharding.constrain(x_BT, "batch", None) for x_BT in (tokens_BT, mask_BT))
    start_B = T - jnp.sum(mask_BT, -1)
    positions_BT = jnp.maximum(jnp.arange(T)[None] - start_B[:, None], 0)
    out = forward(how, params, tokens_BT, positions_BT, mask_BT, **inputs)
    caches = cache.empty(how.config, B, T + how.new, jnp.dtype(how.config.dtype), how.stacked)
    return cache.write(caches, out.states, jnp.zeros((), jnp.int32)), start_B, out


def fresh(how: How, tokens_BT: Array, mask_BT: Array, key: Array, inputs: Mapping[str, Array]) -> DecodeState:
    """The state of prompts that nothing was chosen for."""
    shape, where = (len(tokens_BT), how.new), sharding.out_sharding("batch", None)
    real_B = jnp.sum(mask_BT, -1)
    return DecodeState(
        caches=(),
        sampler_state=how.sampler.start(tokens_BT, mask_BT, how.config.V),
        inputs=inputs if how.turning else {},
        prompt_BT=tokens_BT,
        mask_BT=mask_BT,
        token_B=jnp.full_like(real_B, -1),
        end=jnp.zeros((), jnp.int32),
        start_B=jnp.zeros_like(real_B),
        key=key,
        done_B=real_B == 0,  # rows that only fill the mesh
        step=jnp.zeros((), jnp.int32),
        tokens_BT=jnp.zeros(shape, jnp.int32, out_sharding=where) - 1,
        logprobs_BT=jnp.zeros(shape, jnp.float32, out_sharding=where),
    )
