"""The logit lens: what a model would say after each of its layers (nostalgebraist 2020), and its attention, looked at.

A layer's residual stream goes through the model's own end, its last norm and its head, as if no layer followed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxlm import picture
from jaxlm.axes import Array, Params
from jaxlm.errors import UserError
from jaxlm.interpret.probes import streams
from jaxlm.models.lm import LM, LMConfig
from jaxlm.models.model import forward, layers, logits
from jaxlm.nn.attention import Attention
from jaxlm.nn.stack import unstack


@struct.dataclass
class Lens:
    """For N layers: the k likeliest tokens and their log probabilities (N, B, T, k), best first, and how far each
    layer's distribution is from the last one's, KL(last || layer) in nats (N, B, T)."""

    tokens: Array
    logprobs: Array
    kl: Array


def logit_lens(config: LMConfig, params: Params, tokens_BT: Array, k: int = 5, *args: Any) -> Lens:
    """Through any model of layers; `args` go on as in `models.LM.forward`."""
    params, model = unstack(params), LM(config, stacked=False)
    stream_NBTD = jax.jit(lambda params: streams(config, params, tokens_BT, *args))(params)
    last = layers(config)[-1].path(stacked=False)

    @jax.jit
    def end(params: Params, x_BTD: Array) -> Array:
        def put(call, args, kwargs, context):
            out = call(*args, **kwargs)
            if context.method_name == "__call__" and context.module.path == last:
                return (x_BTD, *out[1:])
            return out

        with nn.intercept_methods(put):
            return jax.nn.log_softmax(logits(config, forward(model, params, tokens_BT, *args)), -1)

    final_BTV, found = end(params, stream_NBTD[-1]), []
    for x_BTD in stream_NBTD:  # a layer at a time: all would be N times the vocabulary
        logprob_BTV = end(params, x_BTD)
        best, ids = jax.lax.top_k(logprob_BTV, k)
        found.append((ids, best, (jnp.exp(final_BTV) * (final_BTV - logprob_BTV)).sum(-1)))
    return Lens(*(jnp.stack(part) for part in zip(*found)))


def attention_maps(config: LMConfig, params: Params, tokens_BT: Array, *args: Any) -> dict[int, Array]:
    """The weights (B, H, T, T) of each layer of attention, by its number: row t is where token t looks.

    Whatever the mask, the window, sinks or soft caps are: a value that is a row of the identity is weighted as any.
    Raises UserError where no layer is of this kind.
    """
    places: dict[tuple[str, ...], int] = {}
    for layer in layers(config):
        places |= {(*layer.path(stacked=False), name): layer.number for name in layer.config.parts}
    (_, T), found = tokens_BT.shape, {}

    def record(call, given, kwargs, context):
        out = call(*given, **kwargs)
        if isinstance(context.module, Attention) and context.method_name == "_attend":
            q, k, v_BTGK, where = given
            K, pieces = v_BTGK.shape[-1], []
            for first in range(0, T, K):
                one_TK = jnp.eye(T, K, -first, dtype=v_BTGK.dtype)
                v = jnp.broadcast_to(one_TK[None, :, None], v_BTGK.shape)
                pieces.append(call(q, k, v, where, **kwargs))
            weights_BTHS = jnp.concatenate(pieces, -1)[..., :T]
            found[places[tuple(context.module.path)]] = jnp.swapaxes(weights_BTHS, 1, 2).astype(jnp.float32)
        return out

    with nn.intercept_methods(record):
        forward(LM(config, stacked=False), unstack(params), tokens_BT, *args)
    if not found:
        raise UserError("no layer of the model is plain attention: there are no maps to see")
    return found


def induction_scores(config: LMConfig, params: Params, V: int, T: int = 32, B: int = 4, seed: int = 0) -> np.ndarray:
    """(N, H): how much each head looks, in a random text said twice, at what came after the token's first time
    (Olsson et al. 2022, arXiv:2209.11895): the mean weight from position t to t - T + 1. 1 is an induction head; a
    layer without attention has NaN. V tokens are drawn from."""
    rng = np.random.default_rng(seed)
    half = rng.integers(0, V, (B, T))
    tokens_BT = jnp.asarray(np.concatenate([half, half], 1), jnp.int32)
    maps = jax.jit(lambda params, tokens_BT: attention_maps(config, params, tokens_BT))(params, tokens_BT)
    at = np.arange(T, 2 * T)
    heads = max(len(one[0]) for one in maps.values())
    scores = np.full((config.depth, heads), np.nan)
    for number, one in maps.items():
        scores[number, : one.shape[1]] = np.asarray(one)[:, :, at, at - T + 1].mean((0, 2))
    return scores


def repeated_gain(config: LMConfig, params: Params, V: int, T: int = 32, B: int = 8, seed: int = 0) -> float:
    """In-context learning in one number: nats a token by which a random text is better known when said again."""
    rng = np.random.default_rng(seed)
    half = rng.integers(0, V, (B, T))
    tokens_BT = jnp.asarray(np.concatenate([half, half], 1), jnp.int32)

    @jax.jit
    def known(params: Params) -> Array:
        out = forward(LM(config, stacked=False), unstack(params), tokens_BT)
        logprob_BTV = jax.nn.log_softmax(logits(config, out), -1)
        return jnp.take_along_axis(logprob_BTV[:, :-1], tokens_BT[:, 1:, None], -1)[..., 0]

    each_BT = known(params)
    return float(each_BT[:, T:].mean() - each_BT[:, : T - 1].mean())


def plot_lens(lens: Lens, words: Sequence[str], spell: Any, path: str | Path) -> None:
    """A table of the likeliest token after each layer of the first text, dark where it is sure. `spell(id)` -> text."""
    ids_NT, sure_NT = np.asarray(lens.tokens)[:, 0, :, 0], np.exp(np.asarray(lens.logprobs)[:, 0, :, 0])
    N, T = ids_NT.shape
    if len(words) != T:
        raise UserError(f"{len(words)} words are not as many as the lens has tokens: {T}")
    figure, axes = picture.blank(1.5 + 0.7 * T, 1.2 + 0.3 * N)
    axes.imshow(sure_NT, cmap="Blues", vmin=0, vmax=1, aspect="auto", origin="lower")
    for n in range(N):
        for t in range(T):
            word = spell(int(ids_NT[n, t]))[:10]
            colour = "white" if sure_NT[n, t] > 0.5 else "black"
            axes.text(t, n, word, ha="center", va="center", fontsize=7, color=colour, parse_math=False)
    axes.set_xticks(range(T), list(words), fontsize=8, parse_math=False)
    axes.set_yticks(range(N), [f"after layer {n}" for n in range(N)], fontsize=8)
    picture.save(figure, path)


def plot_heads(scores_NH: Any, path: str | Path, title: str = "Induction heads") -> None:
    """A score of every head: a row for each layer."""
    scores_NH = np.asarray(scores_NH, np.float64)
    N, H = scores_NH.shape
    figure, axes = picture.blank(1.8 + 0.45 * H, 1.4 + 0.35 * N)
    shown = axes.imshow(scores_NH, cmap="Blues", vmin=0, vmax=1, aspect="auto", origin="lower")
    figure.colorbar(shown, ax=axes)
    picture.dress(axes, title, "head", "layer")
    axes.grid(False)
    axes.set_xticks(range(H))
    axes.set_yticks(range(N))
    picture.save(figure, path)
