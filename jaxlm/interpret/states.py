"""What recurrent layers remember: the kernel of a state space, Mamba's selectivity, and how large states grow."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxlm import picture
from jaxlm.axes import Array, Params
from jaxlm.decode import cache
from jaxlm.errors import UserError
from jaxlm.models.lm import LM, LMConfig
from jaxlm.models.model import forward, layers
from jaxlm.nn import H3Config, Mamba, MambaConfig, Recurrent, S4Config
from jaxlm.nn.stack import unstack
from jaxlm.ops.s4 import DPLR, s4_kernel
from jaxlm.ops.ssm import diagonal_kernel, zero_order_hold


def state_kernel(config: LMConfig, params: Params, layer: int, T: int) -> Array:
    """K (T, F) of a layer of S4, S4D or H3: what the outputs of the next T tokens get of one input, y_t = sum_l K_l
    x_(t - l). Raises UserError for other layers."""
    p = unstack(params)
    for key in _place(config, layer, (S4Config, H3Config), "S4 or H3"):
        p = p[key]
    both = lambda name: p[f"{name}_real"] + 1j * p[f"{name}_imag"]
    a_FZ, dt_F = -jnp.exp(p["log_a_real"]) + 1j * p["a_imag"], jnp.exp(p["log_dt"])
    if "p_real" in p:
        return s4_kernel(DPLR(a_FZ, both("p"), both("b"), both("c"), dt_F), T)
    log_FZ, c_FZ = zero_order_hold(a_FZ, both("c"), dt_F)
    return diagonal_kernel(log_FZ, c_FZ, T)


def selectivity(config: LMConfig, params: Params, tokens_BT: Array, layer: int, *args: Any) -> Array:
    """The step sizes (B, T, F) of a layer of Mamba: a channel takes in a token at a large one and passes over it at a
    small one. `args` go on as in `models.LM.forward`. Raises UserError for other layers."""
    path, params, seen = _place(config, layer, (MambaConfig,), "Mamba"), unstack(params), []

    def record(call, args, kwargs, context):
        out = call(*args, **kwargs)
        if isinstance(context.module, Mamba) and context.module.path == path and args[:1] == ("dt_in",):
            seen.append(out)
        return out

    with nn.intercept_methods(record):
        forward(LM(config, stacked=False), params, tokens_BT, *args)
    for key in path:
        params = params[key]
    return jax.nn.softplus(jnp.einsum("btl,lf->btf", seen[0], params["dt"]) + params["dt_bias"][None, None])


def state_norms(config: LMConfig, params: Params, tokens_BT: Array) -> Array:
    """(N, B, T): the length of the state of each recurrent layer behind each token, of the largest of its arrays; texts
    begin at the first token. Raises UserError where no layer is recurrent."""
    (B, T), model, params = tokens_BT.shape, LM(config, stacked=False), unstack(params)
    caches = cache.empty(config, B, T, jnp.dtype(config.dtype), stacked=False)
    if not _lengths(caches):
        raise UserError("no layer of the model is recurrent: there are no states to measure")
    start_B = jnp.zeros(B, jnp.int32)

    def step(caches: Any, at: Any) -> Any:
        token_B1, end = at
        positions = jnp.broadcast_to(end, (B, 1))
        out = forward(model, params, token_B1, positions, None, caches, end, start_B)
        caches = cache.write(caches, out.states, end)
        return caches, jnp.stack(_lengths(caches))

    _, norms_TNB = lax.scan(step, caches, (jnp.asarray(tokens_BT).T[..., None], jnp.arange(T)))
    return jnp.moveaxis(norms_TNB, 0, 2)


def plot_curves(
    values_NT: Any, path: str | Path, title: str, y: str, names: Sequence[str] = (), log: bool = False
) -> None:
    """A picture of some rows over positions: kernels of channels, norms of layers. Raises UserError if it cannot be
    written."""
    values_NT = np.asarray(values_NT)
    figure, axes = picture.blank(7, 3.2)
    for i, row in enumerate(values_NT):
        name = names[i] if names else str(i)
        axes.plot(row, color=picture.COLOURS[i % len(picture.COLOURS)], linewidth=1.3, label=name)
    picture.dress(axes, title, "position", y)
    if log:
        axes.set_yscale("log")
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    picture.save(figure, path)


def plot_selectivity(delta_TF: Any, tokens: Sequence[str], path: str | Path) -> None:
    """A picture of step sizes over a text: their mean, and how they lie between channels. Raises UserError if it cannot
    be written, or where there is not a token for each."""
    delta_TF = np.asarray(delta_TF, np.float64)
    if len(tokens) != len(delta_TF):
        raise UserError(f"{len(tokens)} tokens are not as many as there are step sizes: {len(delta_TF)}")
    figure, axes = picture.blank(max(5, 0.22 * len(tokens) + 3), 3.2)
    low, middle, high = np.quantile(delta_TF, (0.1, 0.5, 0.9), axis=1)
    each = np.arange(len(tokens))
    axes.bar(each, high - low, bottom=low, color=picture.BLUE, alpha=0.3, label="10 to 90 % of the channels")
    axes.plot(each, middle, "o", color=picture.BLUE, markersize=3, label="median")
    axes.plot(each, delta_TF.mean(1), color=picture.ORANGE, linewidth=1.3, label="mean")
    picture.dress(axes, "Step size of each token", "", "delta")
    axes.set_yscale("log")
    axes.set_xticks(each, [repr(token)[1:-1] for token in tokens], rotation=90, fontsize=8, family="monospace")
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    picture.save(figure, path)


def _place(config: LMConfig, layer: int, kinds: tuple[type, ...], name: str) -> tuple[str, ...]:
    """Where a layer's mixer of one of these kinds stands in the unstacked parameters."""
    if not 0 <= layer < config.depth:
        raise UserError(f"layer {layer} is not there: the model has layers 0 .. {config.depth - 1}")
    found = layers(config)[layer]
    for part, what in found.config.parts.items():
        if isinstance(what, kinds):
            return *found.path(stacked=False), part
    raise UserError(f"layer {layer} has no {name}, but {' and '.join(type(x).__name__ for x in found.config.mixers)}")


def _lengths(caches: Any) -> list[Array]:
    """Of the largest array of each recurrent state, (B,)."""
    states = [state for state in cache.states(caches) if isinstance(state, Recurrent)]
    largest = [max(jax.tree.leaves(state.value), key=lambda x: x.size) for state in states]
    return [jnp.linalg.norm(jnp.abs(x).reshape(len(x), -1), axis=1) for x in largest]
