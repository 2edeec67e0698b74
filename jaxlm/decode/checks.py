"""What is given: prompts, masks, lengths and keys, as arrays or refused in one line."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm import arguments, sharding
from jaxlm.axes import Array
from jaxlm.decode import cache
from jaxlm.decode.state import BUCKET
from jaxlm.errors import UserError
from jaxlm.machine import host
from jaxlm.models.lm import LMConfig


def left_pad(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Prompts of different lengths as int32 tokens (B, T) and their mask, 1 on real tokens."""
    lists = isinstance(rows, list | tuple) and rows and all(isinstance(row, list | tuple) for row in rows)
    if not lists or not all(isinstance(i, int | np.integer) for row in rows for i in row):
        raise UserError(f"prompts must be a list of lists of token ids, got {arguments.kind(rows)}")
    width = max(map(len, rows))
    tokens_BT = np.array([[0] * (width - len(row)) + list(row) for row in rows], np.int32)
    mask_BT = np.array([[0] * (width - len(row)) + [1] * len(row) for row in rows], np.int32)
    return tokens_BT, mask_BT


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
    B, T, most = len(mask_BT), int(mask_BT.sum(1).max()), longest(config)
    if T + new > most:
        raise UserError(f"a prompt of {T} tokens and {new} new ones exceed the {most} positions of the model")
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


def longest(config: Any) -> float:
    """Positions that the model has for a text."""
    virtual = getattr(config, "virtual", None)
    return getattr(config.positions, "length", math.inf) - (0 if virtual is None else virtual.n)
