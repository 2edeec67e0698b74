"""Structured pruning: whole heads, hidden units and layers go, and the shapes shrink."""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.axes import Array, Params
from jaxlm.errors import UserError
from jaxlm.models import LMConfig, ModelConfig, abstract, by_layer, layers
from jaxlm.nn import AttentionConfig, BlockConfig, LayersConfig, MLPConfig, ParallelConfig
from jaxlm.nn.stack import GROUP, group_layers
from jaxlm.sharding import Axes
from jaxlm.trains import is_axes, spell
from jaxlm.tune.calibrate import by_inputs
from jaxlm.tune.seen import Matrix, Seen


def prune_heads(config: LMConfig, params: Params, keep: int, batches: Any = None) -> tuple[LMConfig, Params]:
    """The model with `keep` key heads a layer, and the query heads that share them (Michel et al. 2019,
    arXiv:1905.10650): those whose part of the attention's output is largest, |x_h o_h|^2 over `batches` (see
    `tune.calibrate.by_inputs`), or without them |o_h|^2.

    Raises UserError for a layer without attention or with fewer heads, and for quantised parameters.
    """
    return _shrunk(config, params, "mixer", "o", AttentionConfig, keep, batches)


def prune_units(config: LMConfig, params: Params, keep: int, batches: Any = None) -> tuple[LMConfig, Params]:
    """The same of hidden units of feed-forwards: those with the largest |x_f down_f|^2."""
    return _shrunk(config, params, "ffn", "down", MLPConfig, keep, batches)


def prune_layers(
    config: LMConfig, params: Params, keep: int, batches: Iterable[Any] | None = None
) -> tuple[LMConfig, Params]:
    """The model with `keep` of its layers: those that change most what they read, by 1 - cos(x, layer(x)) over
    `batches` (ShortGPT, Men et al. 2024, arXiv:2403.03853); without them, spread evenly over the depth."""
    every = layers(config)
    if not 1 <= keep <= len(every):
        raise UserError(f"keep={keep} must be from 1 to the model's {len(every)} layers")
    if batches is None:
        chosen = np.round(np.linspace(0, len(every) - 1, keep)).astype(int)
    else:
        chosen = np.sort(np.argsort(-_influence(config, params, batches), kind="stable")[:keep])
    kept = [every[i] for i in chosen]
    small = dataclasses.replace(config, layers=group_layers([layer.config for layer in kept]))
    own = [by_layer.weights(params, layer) for layer in kept]
    rest = {name: tree for name, tree in params.items() if not name.startswith(GROUP)}
    holes: dict[str, Any] = {}
    for layer in layers(small):
        place: Any = holes
        for name in layer.path():
            place = place.setdefault(name, {})
    return small, by_layer.with_layers(small, {**rest, **holes}, own)


def _influence(config: LMConfig, params: Params, batches: Iterable[Any]) -> np.ndarray:
    every, total = layers(config), np.zeros(config.depth)
    step = jax.jit(by_layer.apply, static_argnums=(0, 1))
    enter = jax.jit(lambda params, tokens_BT: by_layer.entries(config, params, tokens_BT))
    unit = lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)
    cosine = jax.jit(lambda a, b: jnp.mean(jnp.sum(unit(a) * unit(b), -1)))
    for batch in batches:
        x_BTD, context = enter(params, jnp.asarray(batch["tokens"] if isinstance(batch, dict) else batch))[()]
        for i, layer in enumerate(every):
            kind = layer._replace(number=0, group=0, period=0)
            y_BTD, context = step(kind, config.depth, by_layer.weights(params, layer), x_BTD, context)
            total[i] += 1 - float(cosine(x_BTD, y_BTD))
            x_BTD = y_BTD
    return total


def _shrunk(
    config: LMConfig, params: Params, part: str, last: str, kind: type, keep: int, batches: Any
) -> tuple[LMConfig, Params]:
    """The model with as many heads, or units, of each layer: `part` is whose, `last` the weight that reads them."""
    name, axis = f"{part}.{last}", "heads" if part == "mixer" else "mlp"
    for layer in layers(config):
        own = layer.config.parts.get(part) if isinstance(layer.config, BlockConfig | ParallelConfig) else None
        if not isinstance(own, kind):
            raise UserError(f"layer {layer.number} has no {kind.__name__} called {part}, so it cannot be pruned so")
        if not 1 <= keep <= (count := _count(own)):
            raise UserError(f"keep={keep} must be from 1 to the {count} of layer {layer.number}")
    scores = _energies(config, params, name, batches)
    each = []
    for layer, score_I in zip(layers(config), scores, strict=True):
        own = layer.config.parts[part]
        score_C = score_I.reshape(_count(own), -1).sum(1)
        chosen = np.sort(np.argsort(-score_C, kind="stable")[:keep])
        axes = _axes(abstract(config)[1], layer)
        tree = by_layer.weights(params, layer)
        take = functools.partial(_taken, axis=axis, chosen=chosen, count=_count(own))
        each.append({**tree, part: jax.tree.map(take, axes[part], tree[part], is_leaf=is_axes)})
    blocks = lambda group: tuple(dataclasses.replace(b, **{part: _with(b.parts[part], keep)}) for b in group.blocks)
    found = dataclasses.replace(config, layers=tuple(LayersConfig(blocks(g), g.repeat, g.remat) for g in config.layers))
    return found, by_layer.with_layers(config, params, each)


def _count(part: Any) -> int:
    return part.groups if isinstance(part, AttentionConfig) else part.F


def _with(part: Any, keep: int) -> Any:
    if isinstance(part, AttentionConfig):
        H = keep * (part.H // part.groups)
        return dataclasses.replace(part, H=H, G=None if part.G is None else keep)
    return dataclasses.replace(part, F=keep)


def _taken(axes: Axes, w: Array, axis: str, chosen: np.ndarray, count: int) -> Array:
    """A weight of what was chosen along the axis, each with the equal share of it that is its own."""
    for i, name in enumerate(axes.names):
        if name == axis and w.shape[i] % count == 0:
            each = w.shape[i] // count
            w = jnp.take(w, (chosen[:, None] * each + np.arange(each)).ravel(), i)
    return w


def _axes(axes: Params, layer: Any) -> Params:
    for name in layer.path():
        axes = axes[name]
    return jax.tree.map(lambda a: Axes(a.names[1:], tuple(i - 1 for i in a.inputs)), axes, is_leaf=is_axes)


def _energies(config: ModelConfig, params: Params, name: str, batches: Any) -> list[np.ndarray]:
    """Of each layer, what each input of a matrix adds to its products: sum_j w_ij (H w)_ij."""
    found: list[np.ndarray] = []

    def look(matrices: list[Matrix], seen: Seen | None) -> list[Any]:
        for m in matrices:
            if m.name == name:
                w_IO = m.w_IO
                found.append(np.asarray(jnp.sum(w_IO * (w_IO if seen is None else seen.hessian_II @ w_IO), 1)))
        return [m.w for m in matrices]

    if batches is not None:
        by_inputs(config, params, batches, look, lambda m: m.w)
        return found
    for layer in layers(config):
        own, axes = by_layer.weights(params, layer), _axes(abstract(config)[1], layer)
        for path, w in jax.tree_util.tree_leaves_with_path(own):
            if spell(path) == name:
                a: Any = axes
                for key in path:
                    a = a[key.key]  # pyright: ignore
                look([Matrix(w, name, a)], None)
    return found
