"""What is asked of an encoder's hidden states, as values: tokens, classes of a text or of each token, spans.

Every head ends in a product, logits = hidden W^T + b, so that losses and logits are those of any model: it gives the
hidden states that are multiplied, W and b. Its weights stand beside those of the embedding.
"""

import abc
import collections
import dataclasses

import flax.linen as nn

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.errors import UserError, unknown
from jaxlm.nn import init
from jaxlm.nn.branches import drop
from jaxlm.nn.norm import LayerNormConfig, NormConfig
from jaxlm.ops.activations import ACTIVATIONS
from jaxlm.sharding import einsum, weight

WEIGHTS = tuple(f"{name}{kind}" for name in ("transform", "head") for kind in ("", "_bias", "_norm"))  # of heads
Read = tuple[Array, Array, Array | None]  # hidden (B, T, D), W (V, D), b (V,); of a text T is 1


@dataclasses.dataclass(frozen=True)
class HeadConfig(abc.ABC):
    """The base of all heads."""

    pooled = False  # whether it reads the pooled text

    @abc.abstractmethod
    def read(self, module: nn.Module, x_BTD: Array, pooled_BD: Array | None, table_VD: Array) -> Read:
        """Within a module, of the last layer's output: what is multiplied, by what, and what is added."""

    @property
    def of_text(self) -> bool:
        """Whether it gives one answer a text, not one a token."""
        return False


@dataclasses.dataclass(frozen=True)
class MaskedHead(HeadConfig):
    """Which token was hidden: norm(act(x W + b)) by the table of the embedding (BERT; arXiv:1810.04805)."""

    activation: str = "gelu"
    norm: NormConfig = LayerNormConfig()
    bias: bool = True  # of the logits
    tied: bool = True  # the last matrix is the embedding table

    def __post_init__(self):
        _known(self.activation)

    def read(self, module, x_BTD, pooled_BD, table_VD):
        V, D = table_VD.shape
        x_BTD = ACTIVATIONS[self.activation](dense(module, "transform", x_BTD, D))
        x_BTD = self.norm.build("transform_norm")(x_BTD)
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

    def read(self, module, x_BTD, pooled_BD, table_VD):
        x_BTD = ACTIVATIONS[self.activation](dense(module, "transform", x_BTD, x_BTD.shape[-1]))
        return x_BTD, *_last(module, 1, x_BTD.shape[-1])


@dataclasses.dataclass(frozen=True)
class SequenceHead(HeadConfig):
    """The class of a text, from the pooled text (BERT), or from its first token by act(x W + b) (RoBERTa)."""

    labels: tuple[str, ...]  # names of the classes
    activation: str | None = None  # None: the pooled text is read
    dropout: float = 0.0

    def __post_init__(self):
        check(self, dropout="[0, 1)")
        check_labels(self.labels)
        _known(self.activation)

    @property
    def pooled(self) -> bool:
        return self.activation is None

    @property
    def of_text(self) -> bool:
        return True

    def read(self, module, x_BTD, pooled_BD, table_VD):
        if self.activation is None:
            assert pooled_BD is not None, "the config sees to a pooler"
            h_BTD = drop(module, pooled_BD[:, None], self.dropout)
        else:
            h_BTD = dense(module, "transform", drop(module, first(x_BTD), self.dropout), x_BTD.shape[-1])
            h_BTD = drop(module, ACTIVATIONS[self.activation](h_BTD), self.dropout)
        return h_BTD, *_last(module, len(self.labels), x_BTD.shape[-1])


@dataclasses.dataclass(frozen=True)
class TokenHead(HeadConfig):
    """The class of each token, such as a name's kind: x W + b."""

    labels: tuple[str, ...]
    dropout: float = 0.0

    def __post_init__(self):
        check(self, dropout="[0, 1)")
        check_labels(self.labels)

    def read(self, module, x_BTD, pooled_BD, table_VD):
        return drop(module, x_BTD, self.dropout), *_last(module, len(self.labels), x_BTD.shape[-1])


@dataclasses.dataclass(frozen=True)
class SpanHead(HeadConfig):
    """Where an answer begins and where it ends: two logits a token, x W + b (SQuAD's; arXiv:1810.04805)."""

    def read(self, module, x_BTD, pooled_BD, table_VD):
        return x_BTD, *_last(module, 2, x_BTD.shape[-1])


def first(x_BTD: Array) -> Array:
    """The first token's x_B1D, on every device that has a part of its row."""
    return sharding.constrain(sharding.replicated(x_BTD, 1)[:, :1], "batch", None, None)


def dense(module: nn.Module, name: str, x_BTD: Array, width: int) -> Array:
    """x W + b in the layout of the residual stream, by the weights `name` (D, width) and name_bias."""
    w_DD = weight(module, name, (x_BTD.shape[-1], width), ("embed", None), init.fan_in((0,)), (0,))
    y_BTD = einsum("btd,de->bte", x_BTD, w_DD.astype(x_BTD.dtype), out=sharding.stream(x_BTD.shape[1]))
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
