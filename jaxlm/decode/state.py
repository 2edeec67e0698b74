"""What goes round the decoding loop, and what it is compiled for."""

import dataclasses
from typing import Any

import flax.struct
import jax

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.decode.sampling import Sampler
from jaxlm.models import LMConfig, flops
from jaxlm.ops.rope import Scaling

BUCKET = 64  # lengths of prompts and of what is written are rounded up to multiples: few shapes are ever compiled


@flax.struct.dataclass
class DecodeState:
    """Only the newest token of each row has not been through the model yet."""

    caches: Any
    sampler_state: Any  # what the sampler remembers of each row
    inputs: Any  # what the model reads beside tokens, where it may read the prompts again
    prompt_BT: Array
    mask_BT: Array  # 1 on the prompt's real tokens
    token_B: Array  # the newest token
    end: Array  # tokens in the caches, left padding included: of all rows, or (B,) of each
    start_B: Array  # first real token of each row
    key: Array
    done_B: Array  # rows that have stopped
    step: Array  # tokens chosen so far
    tokens_BT: Array  # int32, -1 where nothing was chosen
    logprobs_BT: Array  # log probability of each token under the model, before any sampler


@dataclasses.dataclass(frozen=True)
class How:
    """The static part: what is compiled."""

    config: LMConfig
    sampler: Sampler
    stop: tuple[int, ...]
    new: int  # room for chosen tokens
    stacked: bool

    @property
    def turning(self) -> set[Scaling]:
        """The rotations that change with the length of the text."""
        ropes = [getattr(mixer, "rope", None) for mixer in flops.mixers(self.config)]
        return {rope.scaling for rope in ropes if rope is not None and rope.scaling.dynamic}


@jax.jit
def results(state: DecodeState) -> tuple[Array, Array, Array]:
    """Chosen tokens, their log probabilities and which rows have stopped, whole on every device: a process of many
    can read nothing else."""
    return _everywhere((state.tokens_BT, state.logprobs_BT, state.done_B))


@jax.jit
def prompts(state: DecodeState) -> tuple[Array, Array]:
    """The prompts and their masks, likewise."""
    return _everywhere((state.prompt_BT, state.mask_BT))


def _everywhere(arrays: Any) -> Any:
    return jax.tree.map(lambda x: sharding.constrain(x, *[None] * x.ndim), arrays)
