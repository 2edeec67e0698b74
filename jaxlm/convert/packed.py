"""Quantised matrices in GPTQ's layout, which other libraries read: int4 and int8 leaves, as they are."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxlm.axes import Params
from jaxlm.convert.names import Rows, Tensor
from jaxlm.errors import UserError
from jaxlm.ops import leaves
from jaxlm.ops.leaves import Grouped, Int8

Arrays = Callable[[Params, list[Tensor]], Any]


class Packed:
    """The tensors of parameters whose matrices are int4 or int8 leaves, all of one kind.

    Of X.weight (outputs, inputs) = s (q - z): X.qweight, q packed along the inputs; X.qzeros, z - 1 of each group and
    output; X.scales s in float16, which alone rounds anything; X.g_idx, each input's group. Raises UserError for other
    leaves, and for matrices that the layout has no place for.
    """

    def __init__(self, params: Params, arrays: Arrays):
        each = [x for x in jax.tree.leaves(params, is_leaf=leaves.is_leaf) if leaves.is_leaf(x)]
        kinds = {x.kind if isinstance(x, Grouped) else type(x).__name__ for x in each}
        if kinds not in ({"int4"}, {"Int8"}) or any(
            isinstance(x, Int8) and (x.q.dtype != np.int8 or x.activations) for x in each
        ):
            raise UserError(f"a folder holds quantised weights of int4 or int8 in GPTQ's layout, not {sorted(kinds)}")
        self.bits = 4 if kinds == {"int4"} else 8
        sizes = [math.prod(_rows(x).shape[-1:]) // x.scale.shape[-1] for x in each if isinstance(x, Grouped)]
        self.group = math.gcd(*sizes) if sizes else -1
        self._arrays = arrays
        self._scales = jax.tree.map(_scale, params, is_leaf=leaves.is_leaf)
        self._keys = {
            tuple(str(getattr(k, "key", k)) for k in path)
            for path, x in jax.tree_util.tree_leaves_with_path(params, is_leaf=leaves.is_leaf)
            if leaves.is_leaf(x)
        }

    @property
    def settings(self) -> dict[str, Any]:
        """config.json's quantization_config."""
        how = {"quant_method": "gptq", "bits": self.bits, "group_size": self.group, "desc_act": False, "sym": True}
        return how | {"checkpoint_format": "gptq"}

    def __call__(self, tensor: Tensor, w_OI: np.ndarray) -> dict[str, np.ndarray]:
        """What is written in a tensor's place: it, or its parts."""
        if not any(weight.key in self._keys for weight in tensor.weights):
            return {tensor.name: w_OI}
        rule = tensor.rule
        if not isinstance(rule, Rows) or rule.bias or rule.transposed or rule.experts or w_OI.shape[0] % 8:
            raise UserError(f"{tensor.name} has no place in GPTQ's layout: this family is not written quantised")
        ((_, scale_OI),) = self._arrays(self._scales, [tensor])
        inputs = w_OI.shape[1]
        group = inputs if self.group == -1 else self.group
        middle = 2 ** (self.bits - 1)
        q_IO = np.clip(np.round(w_OI / scale_OI), -middle, middle - 1).astype(np.int64).T + middle
        scale_GO = np.ascontiguousarray(scale_OI[:, ::group].T)
        zeros = np.full(scale_GO.shape, middle - 1)
        base = tensor.name.removesuffix("weight")
        return {
            f"{base}qweight": np.ascontiguousarray(_pack(q_IO.T, self.bits).T),
            f"{base}qzeros": _pack(zeros, self.bits),
            f"{base}scales": scale_GO.astype(np.float16),
            f"{base}g_idx": (np.arange(inputs) // group).astype(np.int32),
        }


def _rows(leaf: Grouped) -> Any:
    return jax.eval_shape(lambda: leaves.codes.unpack(leaf.codes, leaf.kind))


def _scale(leaf: Any) -> Any:
    """The scale of every number of a leaf; what is no leaf stays."""
    if isinstance(leaf, Int8):
        return np.broadcast_to(np.where(np.asarray(leaf.scale) == 0, 1, leaf.scale), leaf.q.shape)
    if not isinstance(leaf, Grouped):
        return leaf
    scale = np.asarray(leaf.scale.dense() if leaves.is_leaf(leaf.scale) else leaf.scale)
    n = _rows(leaf).shape[-1] // scale.shape[-1]
    where = leaf.where
    moved = np.moveaxis(np.repeat(scale, n, -1), tuple(range(-len(where), 0)), where)
    return np.where(moved == 0, 1, moved)


def _pack(numbers: np.ndarray, bits: int) -> np.ndarray:
    """(n, m) as int32 (n, m bits / 32), the lowest bits first."""
    each = 32 // bits
    if numbers.shape[1] % each:
        raise UserError(
            f"{numbers.shape[1]} numbers of {bits} bits do not fill whole words of 32: GPTQ's layout needs it"
        )
    parts = numbers.reshape(len(numbers), -1, each).astype(np.uint32) << (np.arange(each) * bits).astype(np.uint32)
    return np.bitwise_or.reduce(parts, -1).view(np.int32)
