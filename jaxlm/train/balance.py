"""Load balancing of experts: by terms of the loss, or by a bias that each step moves.

Works on what `ops.routing.statistics` reports for each layer, as `models.Output.statistics` brings it: of each stack,
for each group of layers, for each block of its period, arrays with a leading axis of periods.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.axes import Array, Params
from jaxlm.models import ModelConfig, blocks
from jaxlm.trains import spell


def expert_layers(statistics: Any) -> list[dict[str, Array]]:
    """The statistics of blocks that have experts."""
    groups = (group for stack in statistics.values() for group in stack)
    return [block for group in groups for block in group if "load" in block]


def auxiliary_loss(statistics: Any, aux_loss_coef: float, router_z_loss: float) -> Array:
    """The weighted balance and z-losses, as means over the layers with experts; 0 without any."""
    total, layers = jnp.zeros(()), expert_layers(statistics)
    for name, scale in (("balance_loss", aux_loss_coef), ("z_loss", router_z_loss)):
        if layers and scale:
            total += scale * jnp.concatenate([layer[name] for layer in layers]).mean()
    return total


def report(statistics: Any) -> dict[str, Array]:
    """max_load: how much the most used expert of any layer is used, as a multiple of an even share; and the fraction of
    choices dropped. Nothing for a model without experts."""
    layers = expert_layers(statistics)
    if not layers:
        return {}
    return {
        "max_load": jnp.stack([layer["load"].max() * layer["load"].shape[-1] for layer in layers]).max(),
        "dropped": jnp.concatenate([layer["dropped"] for layer in layers]).mean(),
    }


def rebalance(config: ModelConfig, params: Params, before: Params, statistics: Any, rate: float) -> Params:
    """`params` with every "balance" as it was `before` the optimizer, plus rate sign(mean load - load): experts used
    less than evenly become likelier (Wang et al. 2024, arXiv:2408.15664)."""

    def one(path: Any, new: Array, old: Array) -> Array:
        *key, _, name = ["", *spell(path).split(".")]  # segment_0.periods.block_1.ffn.balance
        if name != "balance":
            return new
        layer = kinds[tuple(key[1:])]
        load = statistics[layer.stack][layer.group][layer.block]["load"]
        return old + rate * jnp.sign(load.mean(-1, keepdims=True) - load)

    kinds = blocks(config)
    return jax.tree_util.tree_map_with_path(one, params, before)
