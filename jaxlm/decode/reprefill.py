"""Rotations that change with the length of the text: where they turn, caches are no longer what the model would compute
then, and the text is read anew."""

import dataclasses

import numpy as np

from jaxlm.axes import Array, Params
from jaxlm.decode.prefill import read
from jaxlm.decode.state import DecodeState, How, prompts, results


def turns(how: How, state: DecodeState, until: Array | int) -> list[int]:
    """How many tokens are chosen when the next one's length changes the rotations of all before it."""
    if not how.turning:
        return []
    T, chosen = int(prompts(state)[1].sum(1).max()), range(int(state.step), min(int(until), how.new))
    return [n for n in chosen if any(scaling.turns(T + n) for scaling in how.turning)]


def reprefill(how: How, params: Params, state: DecodeState) -> DecodeState:
    """Prompts and chosen tokens read anew, and one more token chosen. What the sampler remembers is kept."""
    step = int(state.step)
    (prompt_BT, mask_BT), tokens_BT = map(np.asarray, prompts(state)), np.asarray(results(state)[0])[:, :step]
    real_BT = np.repeat(mask_BT.any(1, keepdims=True), step, 1)
    text_BT = np.concatenate([prompt_BT, np.maximum(tokens_BT, 0)], 1)
    before = dataclasses.replace(state, caches=())
    return read(how, params, text_BT, np.concatenate([mask_BT, real_BT], 1), state.key, state.inputs, before)
