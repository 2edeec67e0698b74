"""Scaled dot-product attention: one entry that chooses the fastest exact form for the machine and the options.

o_t = sum_s softmax_s(scale * q_t . k_s) v_s over the keys that `masks.visible` admits (Vaswani et al. 2017,
arXiv:1706.03762); query head h reads key/value head h // R (grouped queries, Ainslie et al. 2023, arXiv:2305.13245).
Scores may be capped, and biased by distance; a learned sink may take a share of the probability.
"""

import jax
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.errors import UserError, unknown
from jaxlm.ops.blockwise import blockwise_attention
from jaxlm.ops.kernels import cudnn_attention, cudnn_lacks, splash_attention, splash_lacks
from jaxlm.ops.ring import ring_attention
from jaxlm.ops.rule import MASKED, Extras, Rule, score
from jaxlm.ops.ulysses import ulysses_attention, ulysses_lacks


def attention(
    q_BTHK: Array,
    k_BTGK: Array,
    v_BTGJ: Array,
    segments_BT: Array | None = None,
    positions_BT: Array | None = None,
    *,
    causal: bool = True,
    window: int | None = None,
    chunk: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    bias_HZ: Array | None = None,
    sinks_H: Array | None = None,
    dropout: float = 0.0,
    key: Array | None = None,
    implementation: str = "auto",
) -> Array:
    """Self-attention of tokens that stand in order; returns (B, T, H, J).

    Args:
        segments_BT: keeps packed documents and padding apart; None: each row is one text.
        positions_BT: counted from the start of each text, for `chunk`; may have one row; None: the place in the row.
        window: a query sees keys less than this many places away.
        chunk: a query sees keys whose position // chunk is its own (Llama 4).
        scale: of the products q.k; K^-0.5 unless given.
        softcap: scores become softcap * tanh(score / softcap) (Gemma 2, arXiv:2408.00118).
        bias_HZ: (H, 2 T - 1), added to the score of query t and key s: bias[h, t - s + T - 1], by the place in the
            row (ALiBi, arXiv:2108.12409; T5's buckets, arXiv:1910.10683). Float32; differentiable.
        sinks_H: a logit per query head that takes probability and gives no value (gpt-oss; cf. arXiv:2309.17453).
        dropout: the share of probabilities set to zero, the others scaled up, where `key` is given.
        implementation: "auto" or one of "cudnn" (NVIDIA, bfloat16 or float16), "splash" (TPU), "blockwise"
            (anywhere, memory linear in T) and "reference" (all T x T scores). Where the mesh divides the positions,
            these, and "ulysses" for the best of them, attend to whole rows of some heads (`ops.ulysses`), while in a
            "ring" keys come to the queries (`ops.ring`); "auto" takes the first where it can, that is where the
            heads are a multiple of the devices that divide them and the positions. Where rows are whole, "ulysses"
            and "ring" mean "auto".

    What n devices that divide the positions send each other, in numbers a position, heads and layer, without what a
    recomputation repeats: "ulysses" (1 - 1/n) (2 H + 2 max(G, n)) K forward and as much backward; "ring"
    2 (n - 1) G K forward and (4 n - 2) G K backward, of which 2 n G K in float32, and to balance a causal row
    (2 H + 2 G) K and (3 H + 4 G) K. So the first sends less for any n, and the second hides more behind the work.

    Raises UserError for an unknown implementation and for one that cannot do what is asked.
    """
    T, H, K = q_BTHK.shape[1:]
    if bias_HZ is not None and bias_HZ.shape != (H, 2 * T - 1):
        raise UserError(f"attention: bias_HZ must be (H, 2 T - 1) = {(H, 2 * T - 1)}, got {bias_HZ.shape}")
    chunk = None if chunk is None or chunk >= T else chunk  # no text is longer than the row
    window = None if window is None or window >= T else window
    scale = float(K**-0.5 if scale is None else scale)
    key = key if dropout else None
    rule = Rule(causal, window, chunk, scale, softcap, dropout if key is not None else 0.0)
    extras = Extras(
        segments_BT,
        positions_BT if chunk else None,
        None if bias_HZ is None else sharding.constrain(bias_HZ.astype(jnp.float32), "heads", None),
        None if sinks_H is None else sharding.constrain(sinks_H.astype(jnp.float32), "heads"),
        key,
    )
    args = q_BTHK, k_BTGK, v_BTGJ, extras, rule
    if implementation not in (known := ["auto", *DIVIDED, *IMPLEMENTATIONS]):
        raise unknown("attention implementation", implementation, known)
    divided = sharding.mesh_size("positions") > 1 and sharding.rows(T)[1] is not None
    if divided and (implementation == "ring" or (implementation == "auto" and ulysses_lacks(*args))):
        return ring_attention(*args)
    local = implementation
    if implementation in ("auto", *DIVIDED):
        fused = FUSED.get(sharding.platform())
        local = "blockwise" if fused is None or IMPLEMENTATIONS[fused][1](*args) else fused
    run, lacks = IMPLEMENTATIONS[local]
    if lacking := lacks(*args) or (ulysses_lacks(*args) if divided else ""):
        raise UserError(
            f"attention implementation {implementation!r} cannot do {lacking}: use 'auto', which finds one that can"
        )
    return ulysses_attention(*args, run, kernel=local in FUSED.values()) if divided else run(*args)


def reference_attention(
    q_BTHK: Array,
    k_BSGK: Array,
    v_BSGJ: Array,
    mask_BTS: Array,
    scale: float,
    *,
    softcap: float | None = None,
    bias_BHTS: Array | None = None,
    sinks_H: Array | None = None,
) -> Array:
    """Attention as the formula has it, with all T x S scores: for tests, short texts and odd masks; (B, T, H, J).

    `bias_BHTS` may have one row.
    """
    q_BTGRK = _group(q_BTHK, k_BSGK.shape[2])
    s_BGRTS = jnp.einsum("btgrk,bsgk->bgrts", q_BTGRK, k_BSGK, preferred_element_type=jnp.float32)
    s_BGRTS = _masked(score(s_BGRTS, scale, softcap), bias_BHTS, mask_BTS)
    p_BGRTS = _softmax(s_BGRTS, sinks_H).astype(v_BSGJ.dtype)
    return jnp.einsum("bgrts,bsgj->btgrj", p_BGRTS, v_BSGJ).reshape(*q_BTHK.shape[:3], -1)


def attention_with_past(
    q_BTHK: Array,
    k_BGTK: Array,
    v_BGTJ: Array,
    past_k_BGSK: Array,
    past_v_BGSJ: Array,
    mask_BTS: Array,
    mask_BTT: Array,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    bias_BHTS: Array | None = None,
    bias_BHTT: Array | None = None,
    sinks_H: Array | None = None,
) -> Array:
    """Attention of new tokens to a cache that is only read, and to themselves; returns (B, T, H, J).

    The cache and the new keys are never concatenated: two score blocks share one softmax. Heads stand before positions,
    as the products want them: on CPU, XLA would turn the whole cache round for every token. Biases may have one row;
    all else is as in `attention`.
    """
    G, S = past_k_BGSK.shape[1:3]
    k_BGTK, v_BGTJ = sharding.replicated(k_BGTK, 2), sharding.replicated(v_BGTJ, 2)
    scale = float(q_BTHK.shape[-1] ** -0.5 if scale is None else scale)
    q_BTGRK = _group(q_BTHK, G)
    T, _, R, _ = q_BTGRK.shape[1:]
    # Of one row the TPU's compiler makes no product but a sum of elements, for which it copies the whole cache.
    rows = 2 if T * R == 1 and sharding.platform() == "tpu" else R

    def scores(k, bias, mask):
        q = jnp.broadcast_to(q_BTGRK, (*q_BTGRK.shape[:3], rows, q_BTGRK.shape[4]))
        s = jnp.einsum("btgrk,bgsk->bgrts", q, k.astype(q_BTHK.dtype), preferred_element_type=jnp.float32)
        return _masked(score(s[:, :, :R], scale, softcap), bias, mask)

    s_BGRTS = jnp.concatenate([scores(past_k_BGSK, bias_BHTS, mask_BTS), scores(k_BGTK, bias_BHTT, mask_BTT)], -1)
    p_BGRTS = _softmax(s_BGRTS, sinks_H).astype(q_BTHK.dtype)
    p_BGRTS = jnp.broadcast_to(p_BGRTS, (*p_BGRTS.shape[:2], rows, *p_BGRTS.shape[3:]))
    o_BGRTJ = jnp.einsum("bgrts,bgsj->bgrtj", p_BGRTS[..., :S], past_v_BGSJ.astype(q_BTHK.dtype))
    o_BGRTJ += jnp.einsum("bgrts,bgsj->bgrtj", p_BGRTS[..., S:], v_BGTJ)
    return jnp.moveaxis(o_BGRTJ[:, :, :R], 3, 1).reshape(*q_BTHK.shape[:3], -1)


def _group(q_BTHK: Array, G: int) -> Array:
    B, T, H, K = q_BTHK.shape
    return q_BTHK.reshape(B, T, G, H // G, K)


def _masked(s_BGRTS: Array, bias_BHTS: Array | None, mask_BTS: Array) -> Array:
    if bias_BHTS is not None:
        s_BGRTS += bias_BHTS.reshape(len(bias_BHTS), *s_BGRTS.shape[1:])
    return jnp.where(mask_BTS[:, None, None], s_BGRTS, MASKED)


def _softmax(s_BGRTS: Array, sinks_H: Array | None) -> Array:
    """Over the last axis; exp(sink) joins the denominator only."""
    if sinks_H is None:
        return jax.nn.softmax(s_BGRTS, -1)
    sink_1GR11 = sinks_H.astype(jnp.float32).reshape(s_BGRTS.shape[1:3])[None, ..., None, None]
    m_BGRT1 = jax.lax.stop_gradient(jnp.maximum(s_BGRTS.max(-1, keepdims=True), sink_1GR11))
    e_BGRTS = jnp.exp(s_BGRTS - m_BGRT1)
    return e_BGRTS / (e_BGRTS.sum(-1, keepdims=True) + jnp.exp(sink_1GR11 - m_BGRT1))


def _all_scores(q_BTHK: Array, k_BTGK: Array, v_BTGJ: Array, extras: Extras, rule: Rule) -> Array:
    """The reference for what `attention` is given."""
    at_T = jnp.arange(q_BTHK.shape[1])
    mask_BTT = rule.visible(at_T[None], at_T[None], extras, extras)
    bias = extras.bias_HZ
    bias_1HTT = None if bias is None else bias[None, :, at_T[:, None] - at_T[None, :] + len(at_T) - 1]
    more = {"softcap": rule.softcap, "bias_BHTS": bias_1HTT, "sinks_H": extras.sinks_H}
    return reference_attention(q_BTHK, k_BTGK, v_BTGJ, mask_BTT, rule.scale, **more)


FUSED = {"gpu": "cudnn", "tpu": "splash"}
DIVIDED = ("ulysses", "ring")  # of rows that lie in pieces on many devices
IMPLEMENTATIONS = {  # name: the function, and one that says what it lacks for these arguments, or ""
    "cudnn": (cudnn_attention, cudnn_lacks),
    "splash": (splash_attention, splash_lacks),
    "blockwise": (blockwise_attention, lambda *args: ""),
    "reference": (_all_scores, lambda *args: "dropout" if args[-1].dropout else ""),
}
