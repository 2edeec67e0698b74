"""What the config of every model can do, and what follows from it alone: shapes, layers, weights."""

import abc
import functools
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from jaxlm import sharding
from jaxlm.axes import Array, Params
from jaxlm.errors import UserError
from jaxlm.nn.stack import LayersConfig, place
from jaxlm.ops.activations import soft_cap
from jaxlm.sharding import einsum

Path = tuple[str, ...]  # of a part of the parameters, from the root


class ModelConfig(abc.ABC):
    """The config of a model: a frozen dataclass that builds it.

    What it builds has a method `forward` that returns an `Output`; its layers are stacks of repeated blocks.
    """

    V: int  # classes of its head: the vocabulary
    D: int  # width of the residual stream
    dtype: str  # of activations and matmuls
    remat: str  # a name of nn.stack.POLICIES
    softcap: float | None = None  # logits l become c tanh(l / c)

    @abc.abstractmethod
    def build(self, stacked: bool = True) -> nn.Module:
        """The module; `stacked` is the layout of its parameters, see `nn.stack`."""

    @abc.abstractmethod
    def example(self) -> tuple[Any, ...]:
        """The smallest inputs of `forward`, to trace it."""

    @abc.abstractmethod
    def stacks(self) -> dict[Path, tuple[LayersConfig, ...]]:
        """Every stack of layers, by where it stands in the parameters: {(): ...}, or {("encoder",): ..., ...}."""

    @abc.abstractmethod
    def flops(self, lengths: Mapping[str, int]) -> float:
        """Training FLOPs of one row, forward and backward, its lengths given by their axis letters, as {"T": 2048}."""

    @property
    def tied_parameters(self) -> int:
        """Of a table that activations are multiplied by, beside being looked up in it."""
        return 0

    @property
    def decodes(self) -> bool:
        """Whether it writes text, token by token."""
        return False

    @property
    def depth(self) -> int:
        """Layers of all stacks together."""
        return sum(group.depth for groups in self.stacks().values() for group in groups)


def check_dtype(dtype: str) -> None:
    """Raises UserError for one that is not computed in."""
    if dtype not in ("float32", "bfloat16", "float16"):
        raise UserError(f"unknown dtype {dtype!r}: float32, bfloat16 or float16")


@struct.dataclass
class Output:
    """What a forward pass computes before the head."""

    hidden_BTD: Array  # what the head multiplies: after the last norm
    head_VD: Array  # the output projection, float32: logits = hidden head^T + bias
    states: Any  # for each group, what its mixers hand to a cache
    statistics: dict[Path, tuple]  # of each stack, for each group, what its feed-forwards report
    bias_V: Array | None = None  # of the logits
    encoded: Any = None  # of an encoder, what else it gives: see `models.encoder.Encoded`
    prefix_N2GnK: Any = None  # what layers read of virtual tokens


class Layer(NamedTuple):
    """One layer of a model."""

    number: int  # in its stack, from 0
    config: Any  # of its block
    stack: Path
    group: int
    period: int
    block: int

    def path(self, stacked: bool = True) -> Path:
        """Where its weights stand; stacked, their leading axis is that of periods."""
        return (*self.stack, *place(self.group, None if stacked else self.period, self.block))


@functools.lru_cache(maxsize=64)
def layers(config: ModelConfig) -> tuple[Layer, ...]:
    """Every layer of every stack, in order: the one walk over them, for whoever names, counts or changes layers."""

    def walk(stack: Path, groups: tuple[LayersConfig, ...]) -> Iterator[Layer]:
        numbers = itertools.count()
        for i, group in enumerate(groups):
            for period, (j, block) in itertools.product(range(group.repeat), enumerate(group.blocks)):
                yield Layer(next(numbers), block, stack, i, period, j)

    return tuple(layer for stack, groups in config.stacks().items() for layer in walk(stack, groups))


def blocks(config: ModelConfig) -> dict[Path, Layer]:
    """The first layer of each kind, by where the weights of all its periods are stacked."""
    return {layer.path(): layer for layer in layers(config) if layer.period == 0}


def home(config: ModelConfig, path: Path) -> Layer | None:
    """The kind of layer that owns the weight at `path`, or None."""
    return next((layer for place, layer in blocks(config).items() if path[: len(place)] == place), None)


def init_boxed(config: ModelConfig, key: Array) -> Params:
    """Fresh parameters, every leaf a `sharding.Named`. Best under `jax.jit` with the shardings wanted."""
    with sharding.no_mesh():  # the example divides no mesh
        return config.build().init(key, *config.example(), method="forward")["params"]


@functools.lru_cache(maxsize=16)  # tracing a large model takes a second, and many ask
def abstract(config: ModelConfig) -> tuple[Params, Params]:
    """Shapes and `sharding.Axes` of the parameters; computes nothing."""
    boxed = jax.eval_shape(lambda: init_boxed(config, jax.random.key(0)))
    return sharding.unbox(boxed), sharding.axes_of(boxed)


def forward(model: nn.Module, params: Params, *args: Any, dropout_key: Array | None = None, **more: Any) -> Output:
    """The module's `forward` as a pure function; dropout is on where a key is given."""
    rngs = {} if dropout_key is None else {"dropout": dropout_key}
    return cast(Output, model.apply({"params": params}, *args, **more, rngs=rngs, method="forward"))


def logits(config: ModelConfig, out: Output) -> Array:
    """float32 (B, T, V) = hidden head^T + bias, capped where the config says so."""
    rows = sharding.rows(out.hidden_BTD.shape[1])
    hidden_BTD = sharding.constrain(out.hidden_BTD, *rows)
    head_VD = out.head_VD.astype(hidden_BTD.dtype)
    few = len(head_VD) % sharding.mesh_size("vocab") > 0  # classes, which no mesh divides
    l_BTV = einsum("btd,vd->btv", hidden_BTD, head_VD, out=(*rows[:2], None if few else "vocab"), dtype=jnp.float32)
    l_BTV = l_BTV if out.bias_V is None else l_BTV + out.bias_V.astype(jnp.float32)[None, None]
    return l_BTV if config.softcap is None else soft_cap(l_BTV, config.softcap)
