"""Generation within a constraint: the host says before each step which tokens may come."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxlm.axes import Array, Params
from jaxlm.decode.checks import check_key
from jaxlm.decode.constrained.constraint import Compiled
from jaxlm.decode.constrained.matching import packed
from jaxlm.decode.forced import Allowed
from jaxlm.decode.generate import decode
from jaxlm.decode.per_row import PerRow, Rows
from jaxlm.decode.prefill import first_pass, fresh, ready, widened
from jaxlm.decode.sampling import Chain, Greedy, Sampler, checked
from jaxlm.decode.state import DecodeState, results

_begin = functools.partial(jax.jit, static_argnums=0)(fresh)


def allow(sampler: Sampler, state: Any, words_BW: np.ndarray | Array) -> Any:
    """A sampler's state with these bits in the place of its `Allowed`'s; see `packed`."""
    if isinstance(sampler, Allowed):
        return words_BW
    if isinstance(sampler, Chain):
        return tuple(allow(part, own, words_BW) for part, own in zip(sampler.samplers, state, strict=True))
    if isinstance(sampler, PerRow):
        assert isinstance(state, Rows)
        return dataclasses.replace(state, states=allow(sampler.template, state.states, words_BW))
    return state


def constrained(
    config: Any,
    params: Params,
    tokens_BT: np.ndarray | Array,
    compiled: Compiled,
    *,
    mask_BT: np.ndarray | Array | None = None,
    max_new_tokens: int = 64,
    sampler: Sampler = Greedy(),
    key: Array | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """As `decode.generate`, of texts that the constraint allows: each ends, with an end token, within
    `max_new_tokens`. Raises UserError before decoding where these may be too few."""
    *_, state = steps(config, params, tokens_BT, compiled, mask_BT, max_new_tokens, sampler, key, inputs)
    new_BT, logprobs_BT, _ = results(state)
    B = np.shape(tokens_BT)[0]
    return np.array(new_BT)[:B, :max_new_tokens], np.array(logprobs_BT)[:B, :max_new_tokens]


def steps(
    config: Any,
    params: Params,
    tokens_BT: Any,
    compiled: Compiled,
    mask_BT: Any,
    max_new_tokens: int,
    sampler: Sampler,
    key: Array | None,
    inputs: Mapping[str, Any] | None = None,
) -> Iterator[DecodeState]:
    """The state after each token."""
    sampler, key = Allowed() | checked(sampler), check_key(key)
    how, (tokens_BT, mask_BT, inputs) = ready(
        config, params, tokens_BT, mask_BT, max_new_tokens, sampler, compiled.stops, inputs
    )
    compiled.check(max_new_tokens)
    texts_BT = widened(how, tokens_BT, mask_BT)
    matchers = [compiled.matcher() for _ in range(len(tokens_BT))]

    def words_BW(left: int) -> np.ndarray:
        return np.stack([packed(matcher.allowed(left), config.V) for matcher in matchers])

    state = _begin(how, *texts_BT, key, inputs)
    state = dataclasses.replace(state, sampler_state=allow(sampler, state.sampler_state, words_BW(max_new_tokens)))
    state = first_pass(how, params, *texts_BT, key, inputs, state)
    for step in range(1, max_new_tokens + 1):
        new_BT, _, done_B = map(np.asarray, results(state))
        for matcher, token in zip(matchers, new_BT[:, step - 1]):
            matcher.advance(int(token))
        yield state
        if done_B.all() or step == max_new_tokens:
            return
        words = words_BW(max_new_tokens - step)
        state = dataclasses.replace(state, sampler_state=allow(sampler, state.sampler_state, words))
        state = decode(how, params, state, step + 1)
