"""Generation, from top to bottom: prefill, then one compiled loop of steps, interrupted where the text is read anew."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxlm.axes import Array, Params
from jaxlm.decode import loop
from jaxlm.decode.prefill import prefill
from jaxlm.decode.reprefill import reprefill, turns
from jaxlm.decode.sampling import Greedy, Sampler
from jaxlm.decode.state import DecodeState, How, results
from jaxlm.models.lm import LMConfig


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
    inputs: Mapping[str, Any] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """New tokens int32 (B, max_new_tokens) and their log probabilities float32; -1 and 0 after a row's stop token.

    `params` in either layout of `nn.stack` (see `prepare`). Prompts of different lengths are padded on the left and
    `mask_BT` is 1 on their real tokens; `inputs` are what the model reads beside, see `prefill`. The stop token itself
    is returned. A row depends on its own prompt, its index and the key only.
    """
    state, how = prefill(config, params, tokens_BT, mask_BT, max_new_tokens, sampler, key, stop, inputs)
    new_BT, logprobs_BT, _ = results(decode(how, params, state, max_new_tokens))
    B = np.shape(tokens_BT)[0]
    return np.array(new_BT)[:B, :max_new_tokens], np.array(logprobs_BT)[:B, :max_new_tokens]


def decode(how: How, params: Params, state: DecodeState, until: Array | int) -> DecodeState:
    """Go on until `until` tokens are chosen or every row has stopped. The state, caches included, is donated."""
    for step in turns(how, state, until):
        state = loop.run(how, params, state, step)
        if np.asarray(results(state)[2]).all():
            return state
        state = reprefill(how, params, state)
    return loop.run(how, params, state, until)
