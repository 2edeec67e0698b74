"""Cross-entropy over a large vocabulary without ever holding all logits."""

import functools
from typing import cast

import jax
import jax.numpy as jnp
from flax import struct

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.ops.activations import soft_cap
from jaxlm.sharding import einsum


@struct.dataclass
class TokenLoss:
    """Sums over tokens, so that parts of a batch can be added before dividing by `weight`."""

    total: Array  # what is minimised: nll with smoothing and z-loss
    nll: Array  # plain negative log-likelihood, in nats
    weight: Array  # tokens counted

    def __add__(self, other: "TokenLoss") -> "TokenLoss":
        return jax.tree.map(jnp.add, self, other)


def cross_entropy(
    hidden_BTD: Array,
    head_VD: Array,
    labels_BT: Array,
    weights_BT: Array,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    chunk: int | None = None,
) -> TokenLoss:
    """Summed loss of logits l = hidden head^T against integer labels, computed in chunks of about `chunk` tokens.

    Per token, with p = softmax(l), Z = logsumexp(l), e = label_smoothing over V classes (Szegedy et al. 2016) and
    z_loss c (Chowdhery et al. 2022, arXiv:2204.02311):

        loss = Z - (1 - e) l_label - e mean(l) + c Z^2,   d loss / d l = p (1 + 2 c Z) - (1 - e) onehot - e / V

    `softcap` c turns logits into c tanh(l / c) first. A token of weight 0 counts nothing. The gradient is formed with
    the loss, chunk by chunk, so the logits are computed once and only one chunk of them (default: two thirds as many
    tokens as the model is wide) is ever held.
    """
    tokens = max(256, head_VD.shape[1] * 2 // 3) if chunk is None else chunk
    chunks = _chunks(labels_BT.size // sharding.mesh_size(_spread(labels_BT)), tokens)
    hidden_BTD = sharding.constrain(hidden_BTD, *sharding.rows(labels_BT.shape[1]))
    how = chunks, label_smoothing, z_loss, softcap
    total, nll = cast(tuple[Array, Array], _summed(hidden_BTD, head_VD, labels_BT, weights_BT, how))
    return TokenLoss(total, nll, weights_BT.sum())


def _chunks(N: int, tokens: int) -> int:
    """The smallest number of equal pieces of N tokens that hold at most `tokens` each."""
    return next(n for n in range(1, N + 1) if N % n == 0 and N // n <= tokens)


def _spread(labels_BT: Array) -> str:
    """The logical axis of all tokens as one dimension: over every device that holds them, where these divide them."""
    return "tokens" if labels_BT.size % sharding.mesh_size("tokens") == 0 else _lie(labels_BT)


def _lie(labels_BT: Array) -> str:
    """The same as they come."""
    return "batch" if sharding.rows(labels_BT.shape[1])[1] is None else "places"


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _summed(hidden_BTD, head_VD, labels_BT, weights_BT, how):
    return _forward(hidden_BTD, head_VD, labels_BT, weights_BT, how)[0]


def _forward(hidden_BTD, head_VD, labels_BT, weights_BT, how):
    chunks, smoothing, z_loss, softcap = how
    V, dtype = head_VD.shape[0], hidden_BTD.dtype
    head = sharding.constrain(head_VD.astype(dtype), "vocab", None)  # gathered over its width once
    ids_V = jnp.arange(V, dtype=labels_BT.dtype, out_sharding=sharding.creation("vocab"))
    T, spread, lie = labels_BT.shape[1], _spread(labels_BT), _lie(labels_BT)
    rows = sharding.rows(T)[:2]

    def cut(x):  # (B, T, ...) to (chunks, C, ...), every device its own tokens: the order of a sum is free
        rest = (None,) * (x.ndim - 2)
        local = lambda x: x.reshape(chunks, -1, *x.shape[2:])
        return sharding.constrain(
            sharding.per_device(local, [(*rows, *rest)], (None, lie, *rest), x), None, spread, *rest
        )

    def uncut(x):
        t = T // sharding.mesh_size("positions") if rows[1] else T
        return sharding.per_device(lambda x: x.reshape(-1, t, x.shape[2]), [(None, lie, None)], (*rows, None), x)

    def step(dhead_VD, piece):
        x_CD, label_C, weight_C = piece
        l_CV = einsum("cd,vd->cv", x_CD, head, dtype=jnp.float32)
        if softcap is not None:
            l_CV = soft_cap(l_CV, softcap)
        lse_C1 = jax.nn.logsumexp(l_CV, -1, keepdims=True)
        hit_CV = label_C[..., None] == ids_V[None]
        nll_C = lse_C1[..., 0] - jnp.sum(jnp.where(hit_CV, l_CV, 0), -1)
        loss_C = nll_C
        if smoothing:
            loss_C = (1 - smoothing) * nll_C + smoothing * (lse_C1[..., 0] - jnp.mean(l_CV, -1))
        if z_loss:
            loss_C += z_loss * jnp.square(lse_C1[..., 0])
        target_CV = jnp.where(hit_CV, 1 - smoothing + smoothing / V, smoothing / V)
        p_CV = jnp.exp(l_CV - lse_C1) * (1 + 2 * z_loss * lse_C1)
        dl_CV = (p_CV - target_CV) * weight_C[..., None]
        if softcap is not None:
            dl_CV *= 1 - jnp.square(l_CV / softcap)
        dl_CV = dl_CV.astype(dtype)
        dx_CD = einsum("cv,vd->cd", dl_CV, head, out=(spread, None))
        dhead_VD += sharding.partial_einsum("cv,cd->vd", dl_CV, x_CD, over=spread, out=("vocab", None))
        return dhead_VD, (jnp.sum(loss_C * weight_C), jnp.sum(nll_C * weight_C), dx_CD)

    xs = cut(hidden_BTD), cut(labels_BT), cut(weights_BT)
    zero = sharding.partial_zeros(head.shape, over=spread, out=("vocab", None))
    dhead_VD, (total, nll, dx) = jax.lax.scan(step, zero, xs)
    dhead_VD = sharding.constrain(dhead_VD, "vocab", "embed").astype(head_VD.dtype)
    # The head's gradient is summed over devices before the layers go backward: else all of it would wait until then.
    return (total.sum(), nll.sum()), jax.lax.optimization_barrier((uncut(dx), dhead_VD))


def _backward(how, saved, cotangents):
    dx_BTD, dhead_VD = saved
    scale = cotangents[0]  # nll is reported, not minimised
    return (dx_BTD * scale).astype(dx_BTD.dtype), (dhead_VD * scale).astype(dhead_VD.dtype), None, None


_summed.defvjp(_forward, _backward)
