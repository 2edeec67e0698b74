"""Where speculative decoding has its drafts from: the text itself, another model, or the model's own early layers."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxlm import arguments
from jaxlm.axes import Array, Params
from jaxlm.errors import UserError
from jaxlm.models.lm import LMConfig


@dataclasses.dataclass(frozen=True)
class Lookup:
    """Prompt lookup (Saxena 2023): k tokens that stood behind the newest ones when these came before, by the longest
    match of up to n tokens, the latest of equals."""

    k: int = 8
    n: int = 4

    def __post_init__(self):
        object.__setattr__(self, "k", arguments.integer(self.k, "k of a draft", 1))
        object.__setattr__(self, "n", arguments.integer(self.n, "n of a lookup", 1))

    def __call__(self, text_BS: Array, start_B: Array, end_B: Array) -> Array:
        """The draft (B, k) of texts that begin at `start_B` and whose newest token is at `end_B`."""

        def of_row(text_S: Array, start: Array, end: Array) -> Array:
            at_S = jnp.arange(len(text_S))
            matched_S, length_S = at_S < end, jnp.zeros(len(text_S), jnp.int32)
            for j in range(self.n):
                same_S = jnp.roll(text_S, j) == text_S[jnp.maximum(end - j, 0)]
                matched_S &= same_S & (at_S - j >= start)
                length_S += matched_S
            best = jnp.argmax(jnp.where(at_S < end, length_S * len(text_S) + at_S, 0))
            return text_S[best + 1 + jnp.arange(self.k) % jnp.maximum(end - best, 1)]  # it goes on as it came

        return jax.vmap(of_row)(text_BS, start_B, end_B)


@dataclasses.dataclass(frozen=True, eq=False)
class Draft:
    """k tokens of another model of the same vocabulary, with config and parameters as `prepare` gives them."""

    config: LMConfig
    params: Params
    k: int = 4

    def __post_init__(self):
        object.__setattr__(self, "k", arguments.integer(self.k, "k of a draft", 1))


def early_layers(config: LMConfig, params: Params, layers: int, k: int = 4) -> Draft:
    """The draft of a model's own first `layers` layers, whole periods of them, and its head (Zhang et al. 2023,
    arXiv:2309.08168); config and parameters as `prepare` gives them. Raises UserError where no group of layers ends
    there."""
    left, groups = arguments.integer(layers, "the early layers", 1), []
    for group in config.layers:
        repeat, rest = divmod(min(left, group.depth), len(group.blocks))
        if rest:
            raise UserError(f"{layers} layers end within a period of {len(group.blocks)}: choose a multiple")
        if repeat:
            groups.append(dataclasses.replace(group, repeat=repeat))
        left -= min(left, group.depth)
    return Draft(dataclasses.replace(config, layers=tuple(groups)), params, k)
