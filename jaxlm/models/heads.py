"""What is asked of an encoder's hidden states, as values: tokens, classes of a text or of each token, spans.

Every head ends in a product, logits = hidden W^T + b, so that losses and logits are those of any model: it gives the
hidden states that are multiplied, W and b. Its weights stand beside those of the embedding.
"""

import abc
import collections
import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.errors import UserError, unknown
from jaxlm.nn import init
from jaxlm.nn.branches import drop
from jaxlm.nn.mlp import MLPConfig
from jaxlm.nn.norm import LayerNormConfig, NormConfig
from jaxlm.ops.activations import ACTIVATIONS
from jaxlm.sharding import einsum, weight

WEIGHTS = ("transform", "transform_bias", "transform_norm", "head_ffn", "head", "head_bias")  # of heads
Read = tuple[Array, Array, Array | None]  # hidden (B, T, D), W (V, D), b (V,); of a text T is 1


@dataclasses.dataclass(frozen=True)
class HeadConfig(abc.ABC):
    """The base of all heads."""

    pooled = False  # whether it reads the pooled text

    @abc.abstractmethod
    def read(
        self, module: nn.Module, x_BTD: Array, pooled_BD: Array | None, table_VD: Array, segments_BT: Array | None
    ) -> Read:
        """Within a module, of the last layer's output: what is multiplied, by what, and what is added."""

    @property
    def of_text(self) -> bool:
        """Whether it gives one answer a text, not one a token."""
        return False


@dataclasses.dataclass(frozen=True)
class TransformConfig:
    """norm(act(x W + b)), which a head may compute before its last product (ModernBERT; arXiv:2412.13663)."""

    activation: str = "gelu"
    norm: NormConfig | None = LayerNormConfig()
    bias: bool = True

    def __post_init__(self):
        _known(self.activation)

    def of(self, module: nn.Module, x_BTD: Array, width: int) -> Array:
        x_BTD = ACTIVATIONS[self.activation](dense(module, "transform", x_BTD, width, self.bias))
        return x_BTD if self.norm is None else self.norm.build("transform_norm")(x_BTD)


@dataclasses.dataclass(frozen=True)
class MaskedHead(HeadConfig):
    """Which token was hidden: norm(act(x W + b)) by the table of the embedding (BERT; arXiv:1810.04805)."""

    activation: str = "gelu"
    norm: NormConfig = LayerNormConfig()
    bias: bool = True  # of the logits
    tied: bool = True  # the last matrix is the embedding table
    bias_transform: bool = True  # the b within

    def __post_init__(self):
        _known(self.activation)

    @property
    def transform(self) -> TransformConfig:
        return TransformConfig(self.activation, self.norm, self.bias_transform)

    def read(self, module, x_BTD, pooled_BD, table_VD, segments_BT):
        V, D = table_VD.shape
        x_BTD = self.transform.of(module, x_BTD, D)
        if not self.tied:
            table_VD = weight(module, "head", (V, D), ("vocab", "embed"), init.fan_in((1,)), (1,))
        return x_BTD, table_VD, weight(module, "head_bias", (V,), ("vocab",)) if self.bias else None


@dataclasses.dataclass(frozen=True)
class ReplacedHead(HeadConfig):
    """Whether each token was replaced, one logit a token: act(x W + b) v (ELECTRA; Clark et al. 2020,
    arXiv:2003.10555)."""

    activation: str = "gelu"

    def __post_init__(self):
        _known(self.activation)

    def read(self, module, x_BTD, pooled_BD, table_VD, segments_BT):
        x_BTD = ACTIVATIONS[self.activation](dense(module, "transform", x_BTD, x_BTD.shape[-1]))
        return x_BTD, *_last(module, 1, x_BTD.shape[-1])


@dataclasses.dataclass(frozen=True)
class SequenceHead(HeadConfig):
    """The class of a text, from the pooled text (BERT), or from its first token by act(x W + b) (RoBERTa), or of the
    mean of its tokens, normed too (ModernBERT)."""

    labels: tuple[str, ...]  # names of the classes
    activation: str | None = None  # None: the pooled text is read
    dropout: float = 0.0
    norm: NormConfig | None = None  # of act(x W + b)
    bias: bool = True  # the b within
    mean: bool = False  # x is the mean of the text's tokens

    def __post_init__(self):
        check(self, dropout="[0, 1)")
        check_labels(self.labels)
        _known(self.activation)

    @property
    def pooled(self) -> bool:
        return self.activation is None

    @property
    def transform(self) -> TransformConfig | None:
        return None if self.activation is None else TransformConfig(self.activation, self.norm, self.bias)

    @property
    def of_text(self) -> bool:
        return True

    def read(self, module, x_BTD, pooled_BD, table_VD, segments_BT):
        if self.transform is None:
            assert pooled_BD is not None, "the config sees to a pooler"
            h_BTD = drop(module, pooled_BD[:, None], self.dropout)
        else:
            h_BTD = drop(module, mean(x_BTD, segments_BT) if self.mean else first(x_BTD), self.dropout)
            h_BTD = drop(module, self.transform.of(module, h_BTD, x_BTD.shape[-1]), self.dropout)
        return h_BTD, *_last(module, len(self.labels), x_BTD.shape[-1])


@dataclasses.dataclass(frozen=True)
class TokenHead(HeadConfig):
    """The class of each token, such as a name's kind: x W + b."""

    labels: tuple[str, ...]
    dropout: float = 0.0
    transform: TransformConfig | None = None  # of x, before

    def __post_init__(self):
        check(self, dropout="[0, 1)")
        check_labels(self.labels)

    def read(self, module, x_BTD, pooled_BD, table_VD, segments_BT):
        x_BTD = x_BTD if self.transform is None else self.transform.of(module, x_BTD, x_BTD.shape[-1])
        return drop(module, x_BTD, self.dropout), *_last(module, len(self.labels), x_BTD.shape[-1])


@dataclasses.dataclass(frozen=True)
class SpanHead(HeadConfig):
    """Where an answer begins and where it ends: two logits a token, x W + b (SQuAD's; arXiv:1810.04805)."""

    transform: TransformConfig | None = None  # of x, before
    ffn: MLPConfig | None = None  # or a feed-forward, and a norm of the sum (BigBird)
    norm: NormConfig = LayerNormConfig()  # that norm

    def read(self, module, x_BTD, pooled_BD, table_VD, segments_BT):
        if self.transform is not None:
            x_BTD = self.transform.of(module, x_BTD, x_BTD.shape[-1])
        if self.ffn is not None:
            y_BTD, _ = self.ffn.build(1, "head_ffn")(sharding.constrain(x_BTD, *sharding.rows(x_BTD.shape[1])))
            x_BTD = self.norm.build("transform_norm")(x_BTD + y_BTD)
        return x_BTD, *_last(module, 2, x_BTD.shape[-1])


def first(x_BTD: Array) -> Array:
    """The first token's x_B1D, on every device that has a part of its row."""
    return sharding.constrain(sharding.replicated(x_BTD, 1)[:, :1], "batch", None, None)


def mean(x_BTD: Array, segments_BT: Array | None) -> Array:
    """The mean x_B1D of a row's tokens that are no padding."""
    x_BTD = sharding.constrain(sharding.replicated(x_BTD, 1), "batch", None, None)
    if segments_BT is None:
        return jnp.mean(x_BTD, 1, keepdims=True)
    real_BT1 = sharding.constrain((segments_BT > 0).astype(x_BTD.dtype), "batch", None)[:, :, None]
    return jnp.sum(x_BTD * real_BT1, 1, keepdims=True) / jnp.maximum(jnp.sum(real_BT1, 1, keepdims=True), 1)


def dense(module: nn.Module, name: str, x_BTD: Array, width: int, bias: bool = True) -> Array:
    """x W + b in the layout of the residual stream, by the weights `name` (D, width) and name_bias."""
    w_DD = weight(module, name, (x_BTD.shape[-1], width), ("embed", None), init.fan_in((0,)), (0,))
    y_BTD = einsum("btd,de->bte", x_BTD, w_DD.astype(x_BTD.dtype), out=sharding.stream(x_BTD.shape[1]))
    if not bias:
        return y_BTD
    return y_BTD + weight(module, f"{name}_bias", (width,), (None,)).astype(y_BTD.dtype)[None, None]


def check_labels(labels: tuple[str, ...]) -> None:
    """Raises UserError unless there are names, each once."""
    if not labels:
        raise UserError("a head of classes needs the names of its labels")
    if twice := [label for label, n in collections.Counter(labels).items() if n > 1]:
        raise UserError(f"labels must differ, and {twice[0]!r} is there twice")


def _last(module: nn.Module, V: int, D: int) -> tuple[Array, Array]:
    w_VD = weight(module, "head", (V, D), (None, "embed"), init.fan_in((1,)), (1,))
    return w_VD, weight(module, "head_bias", (V,), (None,))


def _known(activation: str | None) -> None:
    if activation is not None and activation not in ACTIVATIONS:
        raise unknown("activation", activation, ACTIVATIONS)
