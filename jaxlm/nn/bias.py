"""Relative position biases of attention scores: a number for every head and every distance between query and key."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn

from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.errors import UserError
from jaxlm.nn import init
from jaxlm.nn.context import Context
from jaxlm.ops import relative
from jaxlm.sharding import weight


@dataclasses.dataclass(frozen=True)
class AlibiConfig:
    """ALiBi: minus the distance times a slope of the head's own, no weights (Press et al. 2021, arXiv:2108.12409)."""

    steepest: float = 8.0  # slopes are 2^(-steepest h / H)
    scale: float = 1.0  # of the biases (Falcon's are divided with the scores)

    def __post_init__(self):
        check(self, steepest="> 0", scale="> 0")

    def build(self, H: int, name: str) -> nn.Module:
        return Alibi(self, H, name=name)


@dataclasses.dataclass(frozen=True)
class BucketsConfig:
    """Relative position bias: a learned number for every head and bucket of distances (T5; Raffel et al. 2019,
    arXiv:1910.10683)."""

    buckets: int = 32
    longest: int = 128  # farther distances share the last bucket
    bidirectional: bool = False  # half of the buckets for keys that come later

    def __post_init__(self):
        check(self, buckets=">= 1", longest=">= 1")

    def build(self, H: int, name: str) -> nn.Module:
        return Buckets(self, H, name=name)


@dataclasses.dataclass(frozen=True)
class SharedBucketsConfig(BucketsConfig):
    """The same of one table for all layers of a stack, which their model owns and `context.bias_1HA` brings (T5)."""

    def of(self, context: Context) -> Callable[[Array], Array]:
        """Integer distances of any shape -> biases (H, *shape)."""
        if context.bias_1HA is None:
            raise UserError("a bias that layers share needs a model that owns its table, such as Seq2SeqConfig")
        table_HA = context.bias_1HA[0]
        return lambda distance: relative.bucket_bias_at(table_HA, distance, self.longest, self.bidirectional)


BiasConfig = AlibiConfig | BucketsConfig | SharedBucketsConfig


class Alibi(nn.Module):
    """Integer distances t - s of any shape -> float32 biases (H, *shape)."""

    c: AlibiConfig
    H: int

    @nn.compact
    def __call__(self, distance: Array) -> Array:
        return self.c.scale * relative.alibi_bias_at(relative.alibi_slopes(self.H, self.c.steepest), distance)


class Buckets(nn.Module):
    """Integer distances t - s of any shape -> float32 biases (H, *shape)."""

    c: BucketsConfig
    H: int

    @nn.compact
    def __call__(self, distance: Array) -> Array:
        return relative.bucket_bias_at(self._table(), distance, self.c.longest, self.c.bidirectional)

    @nn.compact
    def table(self) -> Array:
        """The table (H, buckets) itself, for layers to share."""
        return self._table()

    def _table(self) -> Array:
        return weight(self, "table", (self.H, self.c.buckets), ("heads", None), init.EMBEDDING)
