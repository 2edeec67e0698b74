"""Alignments: how much of each source token an encoder-decoder reads for each token that it writes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxlm import picture
from jaxlm.axes import Array, Params
from jaxlm.errors import UserError
from jaxlm.models import Seq2SeqConfig, forward
from jaxlm.nn.attentive_rnn import AttentiveRNN
from jaxlm.nn.cross import CrossAttention
from jaxlm.nn.stack import unstack


def alignments(
    config: Seq2SeqConfig, params: Params, tokens_BT: Array, source_BS: Array, mask_BS: Array | None = None
) -> tuple[Array, ...]:
    """The weights (B, H, T, S) of every layer that reads the source, from the first on: of H heads of a cross
    attention, softmax_s(scale q_t . k_s), or of a recurrent decoder's own attention, H = 1.

    Row t is what the model reads when it is given token t of the target, so that of the token it predicts. `params` in
    either layout of `nn.stack`; `mask_BS` is 0 on padding.
    """
    found = []

    def record(call, args, kwargs, context):
        out, module = call(*args, **kwargs), context.module
        if isinstance(module, AttentiveRNN) and context.method_name == "aligned":
            found.append(out[2][:, None])
        if isinstance(module, CrossAttention) and context.method_name == "__call__":
            found.append(_cross(module, *args[:2]))
        return out

    with nn.intercept_methods(record):
        forward(
            config.build(stacked=False), unstack(params), tokens_BT, source_BS=source_BS, source_segments_BS=mask_BS
        )
    if not found:
        raise UserError("no layer of the decoder reads a source by attention")
    return tuple(found)


def _cross(module: CrossAttention, x_BTD: Array, context: Any) -> Array:
    c, p = module.c, module.variables["params"]

    def project(name: str, x: Array) -> Array:
        y_BTHK = jnp.einsum("btd,dhk->bthk", x, p[name])
        return y_BTHK + p[f"{name}_bias"][None, None] if f"{name}_bias" in p else y_BTHK

    k_BSHK = jnp.repeat(project("k", context.memory_BSD), c.H // c.groups, 2)
    s_BHTS = jnp.einsum("bthk,bshk->bhts", project("q", x_BTD), k_BSHK) * (c.K**-0.5 if c.scale is None else c.scale)
    if context.memory_mask_BS is not None:
        s_BHTS = jnp.where(context.memory_mask_BS[:, None, None], s_BHTS, -jnp.inf)
    return jax.nn.softmax(s_BHTS.astype(jnp.float32), -1)


def plot_alignment(weights_TS: Any, source: Sequence[str], target: Sequence[str], path: str | Path) -> None:
    """Writes a PNG of one alignment: a row for each word written, a column for each word read, dark where it looked.

    Raises UserError where words and weights do not fit, and for a file that cannot be written.
    """
    weights_TS = np.asarray(weights_TS, np.float64)
    if weights_TS.shape != (len(target), len(source)):
        raise UserError(f"weights of shape {weights_TS.shape} do not fit {len(target)} and {len(source)} words")
    T, S = weights_TS.shape
    figure, axes = picture.blank(1.5 + 0.42 * S, 1.3 + 0.3 * T)
    axes.imshow(weights_TS, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    spell = lambda words: [word.strip() or repr(word) for word in words]
    axes.set_xticks(range(S), spell(source), rotation=60, ha="left", parse_math=False)
    axes.set_yticks(range(T), spell(target), parse_math=False)
    axes.tick_params(colors=picture.GREY, labelsize=9, top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_color(picture.LINE)
    picture.save(figure, path)
