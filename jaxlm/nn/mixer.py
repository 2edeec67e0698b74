"""What a layer is made of, as values: mixers over positions, feed-forwards of each position, and the layer itself."""

import abc
import dataclasses
from typing import Any

import flax.linen as nn


@dataclasses.dataclass(frozen=True)
class MixerConfig(abc.ABC):
    """A token mixer, the part of a layer that sees other positions: attention, a recurrence, a convolution.

    Its module is x_BTD, context, past -> y_BTD, state: see `nn.context.Context`. A past is what `init_cache` gives,
    with the states of the tokens so far written into it (`decode.cache.write`).
    """

    causal = True  # nothing that it gives depends on later tokens

    @abc.abstractmethod
    def build(self, depth: int, name: str) -> nn.Module:
        """The module; `depth` is the number of layers of the model, for the initial size of its last matrix."""

    @abc.abstractmethod
    def init_cache(self, B: int, length: int, dtype: Any) -> Any:
        """The past of B rows that will have at most `length` tokens, before the first one."""

    @abc.abstractmethod
    def score_flops(self, T: int) -> float:
        """Forward FLOPs per token of a text of T tokens, beyond those of products with weights."""


@dataclasses.dataclass(frozen=True)
class FeedForwardConfig(abc.ABC):
    """The part of a layer that sees one position at a time. Its module is x_BTD -> y_BTD, statistics."""

    @abc.abstractmethod
    def build(self, depth: int, name: str) -> nn.Module:
        """The module; `depth` is the number of layers of the model, for the initial size of its last matrix."""


@dataclasses.dataclass(frozen=True)
class LayerConfig(abc.ABC):
    """A layer of the residual stream. Its module is x_BTD, context, past -> x_BTD, (state, statistics)."""

    @abc.abstractmethod
    def build(self, depth: int, name: str) -> nn.Module:
        """The module; `depth` is the number of layers of the model."""

    @property
    @abc.abstractmethod
    def parts(self) -> dict[str, MixerConfig | FeedForwardConfig]:
        """Its mixers and feed-forwards in order, by the names that their weights have."""

    @abc.abstractmethod
    def init_cache(self, B: int, length: int, dtype: Any) -> Any:
        """The past of its mixers, see `MixerConfig.init_cache`."""

    @property
    def mixers(self) -> tuple[MixerConfig, ...]:
        return tuple(part for part in self.parts.values() if isinstance(part, MixerConfig))

    @property
    def ffns(self) -> tuple[FeedForwardConfig, ...]:
        return tuple(part for part in self.parts.values() if isinstance(part, FeedForwardConfig))

    def score_flops(self, T: int) -> float:
        """Of all mixers, see `MixerConfig.score_flops`."""
        return sum(mixer.score_flops(T) for mixer in self.mixers)
