"""Stored parameters that are not plain arrays: the dense weight is made where it is read, one layer at a time.

A leaf is a dataclass of arrays, so gradients, optimizers, shardings and checkpoints see those, while a module that asks
`sharding.weight` gets the dense array and knows of nothing. Leading axes of layers and experts are cut off all arrays
of a leaf together.
"""

import abc
import dataclasses
import math
import string
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.errors import UserError
from jaxlm.ops import blocks, codes, per_row, products
from jaxlm.ops.activations import ACTIVATIONS
from jaxlm.ops.multiplier import Multiplier


class Leaf(abc.ABC):
    """A weight stored in another form."""

    @abc.abstractmethod
    def dense(self) -> Array:
        """The weight, of its full shape."""

    def read(self, module: Any = None) -> Any:
        """What `sharding.weight` gives the module that owns it: the weight, or what makes products with activations
        itself (`product`), such as a `Multiplier`."""
        return self.dense()

    @property
    def base(self) -> Array:
        """The weight that a leaf of adapters changes."""
        w = getattr(self, "w")  # noqa: B009 (only those leaves have it)
        return w.dense() if isinstance(w, Leaf) else w

    def astype(self, dtype: Any) -> Any:
        return dataclasses.replace(self, w=self.base.astype(dtype))  # pyright: ignore


@struct.dataclass
class LowRank(Leaf):
    """v = w + scale a b, of which only a and b are trained (Hu et al. 2021, arXiv:2106.09685).

    `inputs` and `outputs` are the dimensions of w, counted from its end, that are contracted with activations and that
    come of them: a is (..., *inputs, r) and b (..., r, *outputs). With a `magnitude` m for each output, 1 on the
    inputs, it is m v / |v|, the norm over the inputs and held fixed for gradients (DoRA, Liu et al. 2024,
    arXiv:2402.09353). With `dropout`, where modules have a key for it, the activations that a sees are dropped out.
    """

    w: Any
    a: Array
    b: Array
    scale: float = struct.field(pytree_node=False)
    inputs: tuple[int, ...] = struct.field(pytree_node=False)
    outputs: tuple[int, ...] = struct.field(pytree_node=False)
    magnitude: Any = None
    dropout: float = struct.field(pytree_node=False, default=0.0)
    key: Any = None

    def read(self, module: Any = None) -> Any:
        if not self.dropout or module is None or not module.has_rng("dropout"):
            return self.dense()
        return dataclasses.replace(self, w=self.base, key=module.make_rng("dropout"))

    def product(self, equation: str, x: Array, out: Any, dtype: Any) -> Array:
        """`sharding.einsum(equation, x, self)`."""
        y = sharding.einsum(equation, x, self.w, out=out, dtype=dtype)
        x_names, w_names, y_names = equation.replace("->", ",").split(",")
        ins, outs = ("".join(w_names[i] for i in dims) for dims in (self.inputs, self.outputs))
        kept = jax.random.uniform(self.key, x.shape, out_sharding=per_row.spec(x)) >= self.dropout
        x = jnp.where(kept, x / (1 - self.dropout), 0).astype(x.dtype)
        rest = "".join(name for name in x_names if name not in ins)
        names = (*sharding.rows(x.shape[1])[: len(rest)], None)
        down = sharding.einsum(f"{x_names},{ins}z->{rest}z", x, self.a.astype(x.dtype), out=names)
        up = sharding.einsum(f"{rest}z,z{outs}->{y_names}", down, self.b.astype(x.dtype), out=out)
        return y + (self.scale * up).astype(y.dtype)

    def dense(self) -> Array:
        w = self.base
        names = string.ascii_lowercase[: w.ndim]
        ins, outs = (tuple(names[i] for i in dims) for dims in (self.inputs, self.outputs))
        lead = "".join(name for name in names if name not in ins + outs)
        equation = f"{lead}{''.join(ins)}z,{lead}z{''.join(outs)}->{names}"
        v = w + self.scale * jnp.einsum(equation, self.a, self.b)
        if self.magnitude is None:
            return v
        return v * (self.magnitude / jax.lax.stop_gradient(lengths(v, self.inputs)))


def lengths(w: Array, inputs: tuple[int, ...]) -> Array:
    """|w| of each output, over the dimensions `inputs`, which become 1; float32."""
    return jnp.sqrt(jnp.sum(jnp.square(w.astype(jnp.float32)), inputs, keepdims=True))


@struct.dataclass
class LowRanks(Leaf):
    """N low-rank changes of one weight side by side, of which every row of a batch has one (Sheng et al. 2023,
    arXiv:2311.03285):

        y_b = f_i (x_b w + (x_b a_i) b_i)    i = rows[b]

    a is (..., N, *inputs, r), b (..., N, r, *outputs) with the scale in it; f (..., N, *outputs) belongs to DoRA. The
    change of a row is never multiplied out. Until `rows` are there (see `chosen`) the weight is w.
    """

    w: Any
    a: Array
    b: Array
    inputs: tuple[int, ...] = struct.field(pytree_node=False)  # dimensions of w, counted from its end
    outputs: tuple[int, ...] = struct.field(pytree_node=False)
    factor: Any = None
    rows: Any = None  # (..., B) int32

    def dense(self) -> Array:
        return self.base

    def read(self, module: Any = None) -> Any:
        return self.base if self.rows is None else dataclasses.replace(self, w=self.base)

    @property
    def lead(self) -> tuple[int, ...]:
        """The sizes of the leading axes, of layers."""
        return self.a.shape[: -len(self.inputs) - 2]

    def product(self, equation: str, x: Array, out: Any, dtype: Any) -> Array:
        """`sharding.einsum(equation, x, self)`; rows that stand several times, as those of beams, stand together."""
        y = sharding.einsum(equation, x, self.w, out=out, dtype=dtype)
        rows_B = jnp.repeat(self.rows, len(x) // len(self.rows), total_repeat_length=len(x))
        names = equation.partition("->")[0].split(",")[1]
        ins, outs = ("".join(names[i] for i in dims) for dims in (self.inputs, self.outputs))
        return per_row.changed(equation, x, y, rows_B, ins, outs, self.a, self.b, self.factor)


def chosen(params: Any, rows_B: Array) -> Any:
    """Parameters whose `LowRanks` change row b by their change `rows_B[b]`."""

    def one(x: Any) -> Any:
        return dataclasses.replace(x, rows=jnp.broadcast_to(rows_B, (*x.lead, len(rows_B)))) if several(x) else x

    return jax.tree.map(one, params, is_leaf=is_leaf)


def several(x: Any) -> bool:
    """Whether it is a leaf of several changes."""
    return isinstance(x, LowRanks)


@struct.dataclass
class Scaled(Leaf):
    """w times a vector over some of its dimensions, the only thing trained (IA3, Liu et al. 2022, arXiv:2205.05638)."""

    w: Any
    factor: Array  # 1 on the other dimensions

    def dense(self) -> Array:
        return self.base * self.factor


@struct.dataclass
class Bottleneck(Leaf):
    """A matrix and behind it a small network with a residual, of which only the network is trained (Houlsby et al.
    2019, arXiv:1902.00751):

        y = x w    y -> y + act(y shrink + shrink_bias) grow + grow_bias

    A bias that a module adds to x w is added behind the network; `shrink_bias` can make up for that.
    """

    w: Any
    shrink: Array  # (..., D, r)
    shrink_bias: Array
    grow: Array  # (..., r, D)
    grow_bias: Array
    activation: str = struct.field(pytree_node=False)

    def dense(self) -> Array:
        raise UserError("a bottleneck adapter is no matrix: it is neither merged nor saved in other layouts")

    def read(self, module: Any = None) -> Any:
        return dataclasses.replace(self, w=self.base)

    def product(self, equation: str, x: Array, out: Any, dtype: Any) -> Array:
        """`sharding.einsum(equation, x, self)`, of an equation whose result is x_BTD."""
        y = sharding.einsum(equation, x, self.w, out=out, dtype=dtype)
        names = sharding.rows(y.shape[1])
        cast = lambda w: w.astype(y.dtype)
        h = sharding.einsum("btd,dz->btz", sharding.constrain(y, *names), cast(self.shrink), out=names)
        h = ACTIVATIONS[self.activation](h + cast(self.shrink_bias)[None, None])
        return y + sharding.einsum("btz,zd->btd", h, cast(self.grow), out=out) + cast(self.grow_bias)[None, None]


@struct.dataclass
class Masked(Leaf):
    """w where the mask says so, else 0: a pruned weight, whose zeros get no gradient."""

    w: Array
    mask: Array  # bool

    def dense(self) -> Array:
        return jnp.where(self.mask, self.w, 0)


@struct.dataclass
class Int8(Leaf):
    """q s, 8 bits for each number and a scale for each output: an integer with s = max |w| / 127 over the inputs
    (Dettmers et al. 2022, arXiv:2208.07339, without outliers), or a float8 with s = max |w| / its largest (Micikevicius
    et al. 2022, arXiv:2209.05433). With `activations` what it multiplies is rounded to int8 too, token by token, and
    the products are of integers (ZeroQuant, Yao et al. 2022, arXiv:2206.01861); inputs then lie last, which CPUs read
    faster."""

    q: Array  # int8 or float8, of the weight's shape; with `where` its inputs, which are there in w, come last
    scale: Array  # 1 on the dimensions of inputs
    where: tuple[int, ...] | None = struct.field(pytree_node=False, default=None)  # counted from the end

    @property
    def activations(self) -> bool:
        return self.where is not None

    def dense(self) -> Array:
        q = self.q if self.where is None else jnp.moveaxis(self.q, _last(self.where), self.where)
        return q.astype(self.scale.dtype) * self.scale

    def read(self, module: Any = None) -> Any:
        return Multiplier(self) if self.activations else self.dense()

    def product(self, equation: str, x: Array, out: Any, dtype: Any) -> Array:
        return products.int8(equation, x, self.q, self.scale, out).astype(dtype)

    @classmethod
    def of(
        cls,
        w: Array,
        inputs: tuple[int, ...],
        dtype: Any = jnp.int8,
        scale: Array | None = None,
        activations: bool = False,
    ) -> "Int8":
        whole = jnp.issubdtype(dtype, jnp.integer)
        if scale is None:
            largest = jnp.max(jnp.abs(w.astype(jnp.float32)), inputs, keepdims=True)
            scale = jnp.where(largest == 0, 1.0, largest / (127 if whole else float(jnp.finfo(dtype).max)))
        q = (jnp.clip(jnp.round(w / scale), -128, 127) if whole else w / scale).astype(dtype)
        if not activations:
            return cls(q, scale)
        where = tuple(i - w.ndim for i in inputs)
        return cls(jnp.moveaxis(q, where, _last(where)), scale, where)


@struct.dataclass
class Rescaled(Leaf):
    """w times a factor for each input, which the weight in it was divided by before it was rounded (SmoothQuant, Xiao
    et al. 2022, arXiv:2211.10438; AWQ, Lin et al. 2023, arXiv:2306.00978): x w = (x factor) (w / factor)."""

    w: Any
    factor: Array  # 1 on the dimensions of outputs

    def dense(self) -> Array:
        return self.w.dense() * self.factor

    def read(self, module: Any = None) -> Any:
        return Multiplier(self) if hasattr(self.w, "product") and self.w.activations else self.dense()

    def product(self, equation: str, x: Array, out: Any, dtype: Any) -> Array:
        x = x * products.factor_of(equation, x, self.factor).astype(x.dtype)
        return self.w.product(equation, x, out, dtype)


@struct.dataclass
class Blocks(Leaf):
    """Rows of GGUF blocks as their file has them, see `ops.blocks`: the inputs of each output are a row.

    `raw` is (..., *outputs, bytes of a row) with the layers in front. Layers may be of several `kinds`: `which` (...,)
    says each one's, and rows of fewer bytes are padded. `inputs` are the sizes and `where` the dimensions, from the
    weight's end, of what is contracted.
    """

    raw: Array
    which: Array
    kinds: tuple[tuple[str, int], ...] = struct.field(pytree_node=False)  # the name, bytes of a row
    inputs: tuple[int, ...] = struct.field(pytree_node=False)
    where: tuple[int, ...] = struct.field(pytree_node=False)

    def dense(self) -> Array:
        return (
            self._dense(self.raw, self.which) if self.which.ndim == 0 else jax.vmap(self._dense)(self.raw, self.which)
        )

    def _dense(self, raw: Array, which: Array) -> Array:
        each = [lambda raw, kind=kind, n=n: blocks.dequantize(raw[..., :n], kind) for kind, n in self.kinds]
        rows = each[0](raw) if len(each) == 1 else jax.lax.switch(which, each, raw)
        w = rows.reshape(*rows.shape[:-1], *self.inputs)
        return jnp.moveaxis(w, _last(self.where), self.where)


@struct.dataclass
class Grouped(Leaf):
    """Codes of a few bits and a scale for each group of them: w = scale level[code], see `ops.codes`.

    In `codes` the dimensions of inputs, which are at `where` in w, stand last, and the last of all is packed into
    bytes; `scale` is like it with the groups of the last, or a leaf of its own. With `activations` what it multiplies
    is rounded to int8, token by token (BitNet b1.58, Ma et al. 2024, arXiv:2402.17764).
    """

    codes: Array
    scale: Any
    kind: str = struct.field(pytree_node=False)
    where: tuple[int, ...] = struct.field(pytree_node=False)  # counted from the end
    activations: bool = struct.field(pytree_node=False, default=False)

    def read(self, module: Any = None) -> Any:
        return Multiplier(self) if self.activations else self.dense()

    def product(self, equation: str, x: Array, out: Any, dtype: Any) -> Array:
        x = products.rounded(equation, x)
        return sharding.einsum(equation, x, self.dense().astype(x.dtype), out=out, dtype=dtype)

    def dense(self) -> Array:
        scale = self.scale.dense() if isinstance(self.scale, Leaf) else self.scale
        level = codes.unpack(self.codes, self.kind)
        w = (level.reshape(*scale.shape, -1) * scale[..., None]).reshape(level.shape)
        return jnp.moveaxis(w, _last(self.where), self.where)

    @classmethod
    def of(
        cls,
        w: Array,
        where: tuple[int, ...],
        lead: int,
        kind: str,
        group: int,
        double: bool = False,
        scale: Array | None = None,
        activations: bool = False,
    ) -> "Grouped":
        """`where` are the dimensions of inputs, counted from the end, the first `lead` those of layers and experts.
        With `double` the scales are quantised too."""
        packed, scale = codes.quantize(jnp.moveaxis(w.astype(jnp.float32), where, _last(where)), kind, group, scale)
        return cls(packed, Scales.of(scale, lead) if double else scale, kind, where, activations)


def _last(where: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(range(-len(where), 0))


@struct.dataclass
class Scales(Leaf):
    """Scales quantised themselves, in 8 bits, see `ops.codes.quantize_scales`."""

    code: Array  # uint8, of the scales' shape
    largest: Array  # (layers, blocks)
    mean: Array  # (layers,)
    own: int = struct.field(pytree_node=False)  # dimensions behind the layers

    def dense(self) -> Array:
        lead = self.code.shape[: -self.own]
        flat = lambda x, n: x.reshape(math.prod(lead), *x.shape[len(lead) : len(lead) + n])
        code = self.code.reshape(math.prod(lead), -1)
        return codes.scales(code, flat(self.largest, 1), flat(self.mean, 0)).reshape(self.code.shape)

    @classmethod
    def of(cls, scale: Array, lead: int) -> "Scales":
        """The first `lead` dimensions are those of layers and experts."""
        layers = scale.shape[:lead]
        code, largest, mean = codes.quantize_scales(scale.reshape(math.prod(layers), -1))
        return cls(code.reshape(scale.shape), largest.reshape(*layers, -1), mean.reshape(layers), scale.ndim - lead)


def is_leaf(x: Any) -> bool:
    return isinstance(x, Leaf)


def is_quantised(x: Any) -> bool:
    """Whether it is a leaf of fewer bits, whose arrays keep their dtypes."""
    return isinstance(x, Int8 | Blocks | Grouped | Rescaled)


def dense(tree: Any) -> Any:
    """A tree of parameters with every leaf as the dense array."""
    return jax.tree.map(lambda x: x.dense() if is_leaf(x) else x, tree, is_leaf=is_leaf)
