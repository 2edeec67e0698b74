"""How peft's matrices lie in ours: those of one tensor of the base, which may be taken apart into several weights."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm import compat, sharding
from jaxlm.axes import Array, Params
from jaxlm.convert.names import Rows, Tensor, Weight
from jaxlm.errors import UserError
from jaxlm.sharding import Axes

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
TENSOR = "prompt_embeddings"
KINDS = ("LORA", "IA3", "PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING")


def at(tree: Params, key: tuple[str, ...]) -> Any:
    """What stands at `key` in a tree of parameters."""
    return functools.reduce(lambda branch, name: branch[name], key, tree)


def replaced(tree: Params, key: tuple[str, ...], value: Any) -> Params:
    """`tree` with `value` at `key`; nothing that was given is changed."""
    return {**tree, key[0]: replaced(tree[key[0]], key[1:], value) if len(key) > 1 else value}


def input_dims(weight: Weight) -> tuple[int, ...]:
    """The dimensions that activations meet; of a table the tokens."""
    return weight.axes.inputs or (0,)


def sides(tensor: Tensor) -> tuple[int, int]:
    """Inputs and outputs of a matrix as peft counts them."""
    if len(tensor.shape) != 2:
        raise UserError(f"no adapter can be of {tensor.name}, which is no matrix")
    first, second = tensor.shape
    return (first, second) if getattr(tensor.rule, "transposed", False) else (second, first)


def outputs(tensor: Tensor, up: np.ndarray) -> list[np.ndarray]:
    """(outputs, r) as the tensor is taken apart into our weights, r in place of their first input and 1 of others."""
    return _rows(tensor).read(up, _thin(tensor, up.shape[1]))


def joined(tensor: Tensor, ours: Sequence[np.ndarray]) -> np.ndarray:
    """The inverse of `outputs`."""
    return _rows(tensor).write(list(ours), _thin(tensor, ours[0].shape[input_dims(tensor.weights[0])[0]]))


def _rows(tensor: Tensor) -> Rows:
    """The tensor's rule, if it lay as (outputs, inputs)."""
    rule = tensor.rule
    return dataclasses.replace(rule, transposed=False) if isinstance(rule, Rows) else Rows(rule.paths)


def _thin(tensor: Tensor, r: int) -> tuple[Weight, ...]:
    def one(weight: Weight) -> Weight:
        dims = input_dims(weight)
        shape = tuple(r if d == dims[0] else 1 if d in dims else n for d, n in enumerate(weight.shape))
        return Weight(weight.key, shape, Axes(weight.axes.names, dims))

    return tuple(map(one, tensor.weights))


def place(array: np.ndarray, names: tuple[str | None, ...]) -> Array:
    """The array, laid out over the current mesh by logical names."""
    mesh = compat.concrete_mesh()
    if mesh.empty:
        return jnp.asarray(array)
    return jax.device_put(array, jax.sharding.NamedSharding(mesh, sharding.spec(*names, mesh=mesh)))
