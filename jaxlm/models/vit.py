"""The vision Transformer: an image is a text of patches. Families and sizes are configs of it."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.errors import UserError, unknown
from jaxlm.models import flops
from jaxlm.models.encoder import Encoded
from jaxlm.models.heads import check_labels, dense, first, mean
from jaxlm.models.model import ModelConfig, Output, Path, check_dtype, logits
from jaxlm.nn import init
from jaxlm.nn.attention import AttentionConfig
from jaxlm.nn.block import BlockConfig
from jaxlm.nn.branches import drop
from jaxlm.nn.context import Context
from jaxlm.nn.mlp import MLPConfig
from jaxlm.nn.norm import LayerNormConfig, NormConfig
from jaxlm.nn.pipeline import PipelineConfig
from jaxlm.nn.stack import LayersConfig, check_policy, run
from jaxlm.ops import positions
from jaxlm.ops.activations import ACTIVATIONS
from jaxlm.sharding import einsum, weight

POSITIONS = ("learned", "sinusoidal")
HEADS = ("head", "head_bias", "head_distilled", "head_distilled_bias", "pooler", "pooler_bias")


@dataclasses.dataclass(frozen=True)
class ViTConfig(ModelConfig):
    """A Transformer encoder of image patches (ViT; Dosovitskiy et al. 2020, arXiv:2010.11929). Learned `tokens` stand
    before the patches: of one an image's class is read, of two the second is the distillation token (DeiT; Touvron et
    al. 2020, arXiv:2012.12877), of none the class is read from the mean of all patches."""

    D: int  # model width
    layers: tuple[LayersConfig, ...]
    patch: int  # side of a patch, in pixels
    Y: int = 224  # height of the images that positions are learned for; they are interpolated to any other
    X: int = 224  # width
    C: int = 3  # channels
    tokens: int = 1
    positions: str = "learned"  # or "sinusoidal", fixed, of patches alone
    norm: NormConfig | None = LayerNormConfig(1e-12)  # after the last layer
    labels: tuple[str, ...] = ()  # names of the classes; none: hidden states alone
    distilled: bool = False  # the second token has a head too, and logits are the mean of both heads'
    pooler: str | None = None  # the activation a of an image's vector a(x_0 W + b); None: it has none
    dropout: float = 0.0  # of the embedding
    dtype: str = "float32"  # of activations and matmuls; weights are float32
    remat: str = "none"  # what the backward pass computes again: a name of nn.stack.POLICIES
    unroll: int = 1  # periods per iteration of the scan over layers
    pipeline: PipelineConfig = PipelineConfig()  # where the mesh divides layers

    def __post_init__(self):
        check(self, D=">= 1", patch=">= 1", Y=">= 1", X=">= 1", C=">= 1", tokens="[0, 2]")
        check(self, unroll=">= 1", dropout="[0, 1)")
        if not self.layers:
            raise UserError("a model needs at least one group of layers")
        check_dtype(self.dtype)
        check_policy(self.remat)
        if self.labels:
            check_labels(self.labels)
        if self.positions not in POSITIONS:
            raise unknown("kind of positions", self.positions, POSITIONS)
        if self.positions == "sinusoidal" and (self.D % 4 or self.D < 8):
            raise UserError(f"sinusoidal positions of images need a D that is a multiple of 4 and at least 8: {self.D}")
        if self.pooler is not None and self.pooler not in ACTIVATIONS:
            raise unknown("activation", self.pooler, ACTIVATIONS)
        if any(mixer.causal for mixer in flops.mixers(self)):
            raise UserError("patches see all others: set causal=false in the mixers")
        if self.distilled and (self.tokens < 2 or not self.labels):
            raise UserError("a distilled model needs two tokens and labels")
        if self.pooler and not self.tokens:
            raise UserError("a pooler reads the class token: set tokens=1")
        self.grid(self.Y, self.X)

    @property
    def V(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return len(self.labels)

    def grid(self, Y: int, X: int) -> tuple[int, int]:
        """Patches of an image along its height and its width. Raises UserError where they do not fill it."""
        if Y % self.patch or X % self.patch or not Y or not X:
            raise UserError(f"patches of {self.patch} pixels do not fill an image of {Y} x {X}")
        return Y // self.patch, X // self.patch

    def build(self, stacked: bool = True) -> "ViT":
        return ViT(self, stacked)

    def example(self) -> tuple[Any, ...]:
        return (jnp.zeros((1, self.Y, self.X, self.C)),)

    def stacks(self) -> dict[Path, tuple[LayersConfig, ...]]:
        return {(): self.layers}

    def flops(self, lengths: Mapping[str, int]) -> float:
        """Of one image of {"Y": height, "X": width}, by default of the size that positions are learned for."""
        y, x = self.grid(lengths.get("Y", self.Y), lengths.get("X", self.X))
        T = y * x + self.tokens
        size = {w.path[0]: w.size for w in flops.weights(self) if w.axes.inputs}
        once = sum(n for name, n in size.items() if name in HEADS)  # once an image; patches' product not of tokens
        return T * flops.train_flops(self, T) - 6 * (once * (T - 1) + size["patch"] * self.tokens)


class ViT(nn.Module):
    """`apply({"params": params}, pixels_BYXC)` gives float32 logits (B, 1, classes); `method="forward"` an `Output`,
    whose `encoded` is an `Encoded`: hidden states (B, T, D) of tokens, then patches row by row. A "dropout" key in
    `rngs` turns dropout on. `stacked` tells the layout of the parameters, see `nn.stack`."""

    c: ViTConfig
    stacked: bool = True

    def __call__(self, pixels_BYXC: Array) -> Array:
        if not self.c.labels:
            raise UserError("this model has no labels, so no logits: it gives hidden states")
        return logits(self.c, self.forward(pixels_BYXC))

    @nn.compact
    def forward(self, pixels_BYXC: Array) -> Output:
        c = self.c
        x_BTD = drop(self, self.embed(pixels_BYXC), c.dropout)
        context = Context(jnp.arange(x_BTD.shape[1])[None])
        x_BTD, states, statistics = run(c, c.layers, self.stacked, x_BTD, context)
        if c.norm is not None:
            x_BTD = c.norm.build("norm")(x_BTD)
        pooled_BD = None
        if c.pooler:
            pooled_BD = ACTIVATIONS[c.pooler](dense(self, "pooler", first(x_BTD), c.D))[:, 0]
        hidden_B1D, head_VD, bias_V = self._read(x_BTD)
        return Output(hidden_B1D, head_VD, states, {(): statistics}, bias_V, Encoded(x_BTD, pooled_BD))

    def embed(self, pixels_BYXC: Array) -> Array:
        """(B, T, D): x_p = W patch_p + b + position_p of every patch p, and the learned tokens before them."""
        c = self.c
        B, Y, X, C = pixels_BYXC.shape
        (y, x), p, D = c.grid(Y, X), c.patch, c.D
        w_YXCD = weight(self, "patch", (p, p, C, D), (None, None, None, "embed"), init.fan_in((0, 1, 2)), (0, 1, 2))
        patches = (
            pixels_BYXC.astype(c.dtype).reshape(B, y, p, X, C).reshape(B, y, p, x, p, C).transpose(0, 1, 3, 2, 4, 5)
        )
        x_BYXD = einsum(
            "byxijc,ijcd->byxd",  # a convolution whose windows stand side by side
            patches,
            w_YXCD.astype(c.dtype),
            out=("batch", None, None, None),
        )
        x_BTD = x_BYXD.reshape(B, y * x, D)
        x_BTD += weight(self, "patch_bias", (D,), (None,)).astype(x_BTD.dtype)[None, None]
        names = ("class_token", "distillation_token")[: c.tokens]
        tokens = [_plain(weight(self, name, (1, D), (None, "embed"), init.EMBEDDING), x_BTD.dtype) for name in names]
        whole = [sharding.constrain(jnp.broadcast_to(x_1D[None], (B, 1, D)), "batch", None, None) for x_1D in tokens]
        x_BTD = jnp.concatenate([*whole, x_BTD], 1)
        return sharding.constrain(x_BTD + self._positions(y, x)[None], *sharding.stream(x_BTD.shape[1]))

    def _positions(self, y: int, x: int) -> Array:
        """(T, D) vectors, of tokens and patches."""
        c = self.c
        if c.positions == "sinusoidal":
            e_TD = positions.sinusoidal_2d(y, x, c.D)
            return jnp.pad(e_TD, ((c.tokens, 0), (0, 0))).astype(c.dtype)
        y0, x0 = c.grid(c.Y, c.X)
        table_TD = weight(self, "positions", (c.tokens + y0 * x0, c.D), (None, "embed"), init.EMBEDDING)
        table_TD = _plain(table_TD, table_TD.dtype)
        if (y, x) != (y0, x0):
            e_YXD = positions.bicubic(table_TD[c.tokens :].reshape(y0, x0, c.D), y, x)
            table_TD = jnp.concatenate([table_TD[: c.tokens], e_YXD.reshape(y * x, c.D)])
        return table_TD.astype(c.dtype)

    def _read(self, x_BTD: Array) -> tuple[Array, Array, Array | None]:
        """What is multiplied for logits, by what, and what is added."""
        c = self.c
        h_B1D = first(x_BTD) if c.tokens else mean(x_BTD, None)
        if not c.labels:
            return h_B1D, jnp.zeros((0, c.D)), None
        w_VD, b_V = self._head("head")
        if not c.distilled:
            return h_B1D, w_VD, b_V
        w2_VD, b2_V = self._head("head_distilled")
        w_VD, w2_VD = (sharding.constrain(w, None, None) for w in (w_VD, w2_VD))
        h2_B1D = sharding.constrain(sharding.replicated(x_BTD, 1)[:, 1:2], "batch", None, None)
        return jnp.concatenate([h_B1D, h2_B1D], -1), jnp.concatenate([w_VD, w2_VD], -1) / 2, (b_V + b2_V) / 2

    def _head(self, name: str) -> tuple[Array, Array]:
        w_VD = weight(self, name, (self.c.V, self.c.D), (None, "embed"), init.fan_in((1,)), (1,))
        return w_VD, weight(self, f"{name}_bias", (self.c.V,), (None,))


def _plain(x_TD: Array, dtype: Any) -> Array:
    """A small table, whole on every device."""
    return sharding.constrain(jnp.asarray(x_TD, dtype), None, None)


# Sizes ---------------------------------------------------------------------------------------------------------------

Size = Literal["Ti", "S", "B", "L", "H", "g", "G"]
SIZES: dict[str, tuple[int, int, int, int]] = {  # D, N, F, H
    "Ti": (192, 12, 768, 3),  # Ti and S: DeiT's
    "S": (384, 12, 1536, 6),
    "B": (768, 12, 3072, 12),
    "L": (1024, 24, 4096, 16),
    "H": (1280, 32, 5120, 16),
    "g": (1408, 40, 6144, 16),  # g and G: Zhai et al. 2021, arXiv:2106.04560
    "G": (1664, 48, 8192, 16),
}


def vit(size: Size, patch: int, labels: tuple[str, ...] = (), **more: Any) -> ViTConfig:
    """A published size of ViT, such as vit("S", 16): pre-norm layers with biases and exact GELU. `more` are other
    fields of the config. Raises UserError for a size that is not known."""
    if size not in SIZES:
        raise unknown("size", size, SIZES)
    D, N, F, H = SIZES[size]
    attention = AttentionConfig(H, D // H, rope=None, causal=False, bias=True, bias_out=True)
    block = BlockConfig(attention, MLPConfig(F, "gelu", gated=False, bias=True), LayerNormConfig(1e-6))
    more = {"norm": LayerNormConfig(1e-6)} | more
    return ViTConfig(D, (LayersConfig((block,), N),), patch, labels=labels, **more)
