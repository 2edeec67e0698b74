"""A model one layer at a time: what its first layer reads, and each layer as a function of its own."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.axes import Array, Params
from jaxlm.models.model import Layer, ModelConfig, Path, layers
from jaxlm.nn.context import Context
from jaxlm.nn.stack import place, unstack
from jaxlm.nn.state import with_handed


def entries(config: ModelConfig, params: Params, *inputs: Any, **more: Any) -> dict[Path, tuple[Array, Context]]:
    """What the first layer of every stack reads of these inputs of `forward`: x_BTD and the context.

    To trace: of all that the model computes afterwards nothing is left in the compiled program.
    """
    first = {layer.path(stacked=False): layer.stack for layer in layers(config) if layer.number == 0}
    found: dict[Path, tuple[Array, Context]] = {}

    def look(call: Any, args: Any, kwargs: Any, of: Any) -> Any:
        if of.module.path in first and of.method_name == "__call__":
            found[first[of.module.path]] = args[:2]
        return call(*args, **kwargs)

    with nn.intercept_methods(look):
        config.build(stacked=False).apply({"params": unstack(params)}, *inputs, **more, method="forward")
    return found


def apply(layer: Layer, depth: int, params: Params, x_BTD: Array, context: Context) -> tuple[Array, Context]:
    """What the next layer reads. `params` are this one's own, `depth` the number of layers of its stack; the layer's
    number is the context's."""
    block = layer.config.build(depth, place(0, block=layer.block)[2])
    x_BTD, (state, _) = block.apply({"params": params}, x_BTD, context)
    return x_BTD, dataclasses.replace(with_handed(context, state), layer=context.layer + 1)


def weights(params: Params, layer: Layer) -> Params:
    """A layer's own parameters in those of a model, whose layers are stacked."""
    for name in layer.path():
        params = params[name]
    return jax.tree.map(lambda x: x[layer.period], params)


def with_layers(config: ModelConfig, params: Params, each: list[Params]) -> Params:
    """The model's parameters with these of its layers, in order, in place of its own."""
    found: dict[Path, list[Params]] = {}
    for layer, own in zip(layers(config), each, strict=True):
        found.setdefault(layer.path(), []).append(own)
    for path, own in found.items():
        params = _put(params, path, jax.tree.map(lambda *xs: jnp.stack(xs), *own))
    return params


def _put(tree: Params, path: Path, new: Params) -> Params:
    return new if not path else {**tree, path[0]: _put(tree[path[0]], path[1:], new)}
