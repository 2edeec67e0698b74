"""Cross-entropy and log probabilities over a large vocabulary without ever holding all logits."""

import dataclasses
import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import struct

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.ops.activations import soft_cap
from jaxlm.sharding import einsum

WHOLE = 16 * 2**20  # bytes of float32 logits that a chunk may have whatever the size of the head
LEAST = 512  # tokens of a chunk: fewer wait for the bytes of the head


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
    bias_V: Array | None = None,
    chunk: int | None = None,
    head_grad_dtype: Any = None,
) -> TokenLoss:
    """Summed loss of logits l = hidden head^T + bias against integer labels, in chunks of at most `chunk` tokens.

    Per token, with p = softmax(l), Z = logsumexp(l), e = label_smoothing over V classes (Szegedy et al. 2016) and
    z_loss c (Chowdhery et al. 2022, arXiv:2204.02311):

        loss = Z - (1 - e) l_label - e mean(l) + c Z^2,   d loss / d l = p (1 + 2 c Z) - (1 - e) onehot - e / V

    `softcap` c turns logits into c tanh(l / c) first. A token of weight 0 counts nothing. The gradient is formed with
    the loss, chunk by chunk, so the logits are computed once and only one chunk of them (default: see `chunk_tokens`)
    is ever held. The head's gradient is summed over chunks and devices in `head_grad_dtype`: by default that of the
    hidden states, as the gradients of the layers' weights are, but float32 for float16, in which sums over tokens
    overflow. jnp.float32 is more exact than bfloat16, in twice the bytes: see benchmarks/losses.md.
    """
    tokens = _Tokens.of(hidden_BTD, head_VD, labels_BT, chunk)
    hidden_BTD = sharding.constrain(hidden_BTD, *sharding.rows(labels_BT.shape[1]))
    how = tokens, label_smoothing, z_loss, softcap, jnp.dtype(head_grad_dtype or _summable(hidden_BTD.dtype))
    bias_V = None if bias_V is None else sharding.constrain(bias_V.astype(jnp.float32), "vocab")
    total, nll = cast(tuple[Array, Array], _summed(hidden_BTD, head_VD, bias_V, labels_BT, weights_BT, how))
    return TokenLoss(total, nll, weights_BT.sum())


def token_logprobs(
    hidden_BTD: Array,
    head_VD: Array,
    labels_BT: Array,
    *,
    softcap: float | None = None,
    bias_V: Array | None = None,
    chunk: int | None = None,
) -> tuple[Array, Array]:
    """The log probability of each label under softmax(l), l = hidden head^T, and logsumexp(l): float32 (B, T) both.

        logprob = l_label - Z,   Z = logsumexp(l),   d logprob / d l = onehot - p,   d Z / d l = p

    In chunks as `cross_entropy`, with the same `softcap`; the head's gradient is summed in the hidden states' dtype.
    Both are differentiable in hidden states and head, with a cotangent a token: the gradient computes the logits again,
    chunk by chunk. Where none is asked for nothing of it is computed. A label outside 0..V-1 counts as a logit of 0:
    mask its result.
    """
    if bias_V is not None:  # one more entry of each hidden state, which is one
        one_BT1 = jnp.ones_like(hidden_BTD[..., :1])
        hidden_BTD = jnp.concatenate([hidden_BTD, one_BT1], -1)
        whole_VD = sharding.constrain(head_VD, "vocab", None)
        head_VD = jnp.concatenate([whole_VD, sharding.constrain(bias_V, "vocab")[:, None]], -1)
    tokens = _Tokens.of(hidden_BTD, head_VD, labels_BT, chunk)
    hidden_BTD = sharding.constrain(hidden_BTD, *sharding.rows(labels_BT.shape[1]))
    return cast(tuple[Array, Array], _logprobs(hidden_BTD, head_VD, labels_BT, (tokens, softcap)))


def chunk_tokens(N: int, V: int, D: int, dtype: Any) -> int:
    """How many of a device's N tokens meet its (V, D) share of the head at a time.

    As many as have at most two thirds as many bytes of float32 logits as the head has in `dtype`, or `WHOLE`; but no
    fewer than `LEAST`, and where that is all of them, all at once. So the head and its gradient decide what the loss
    takes, not the logits. A chunk of C tokens does 6 C V D operations and reads the head twice and its gradient once,
    and writes it: in bfloat16 8 V D bytes, 384 operations a byte at C = 512, which is what accelerators do.

    The vocabulary is not tiled: a tile would be computed twice, once for Z and once for the gradient, to make smaller
    what is already smaller than the head.
    """
    logits = max(WHOLE, 2 * V * D * jnp.dtype(dtype).itemsize // 3)
    return N if logits >= 4 * N * V else max(LEAST, logits // (4 * V))


@dataclasses.dataclass(frozen=True)
class _Tokens:
    """(B, T) tokens as `chunks` equal pieces of C, every device its own tokens: the order of a sum is free."""

    chunks: int
    B: int
    T: int
    spread: str  # the logical axis of all tokens as one dimension: over every device that holds them, where it divides
    lie: str  # the same as they come

    @classmethod
    def of(cls, hidden_BTD: Array, head_VD: Array, labels_BT: Array, chunk: int | None) -> "_Tokens":
        B, T = labels_BT.shape
        lie = "batch" if sharding.rows(T)[1] is None else "places"
        spread = "tokens" if B * T % sharding.mesh_size("tokens") == 0 else lie
        N = B * T // sharding.mesh_size(spread)
        if chunk is None:
            V, D = head_VD.shape
            chunk = chunk_tokens(N, V // sharding.mesh_size("vocab"), D, hidden_BTD.dtype)
        return cls(_chunks(N, chunk), B, T, spread, lie)

    def cut(self, x: Array) -> Array:
        """(B, T, ...) to (chunks, C, ...), with zeros where the tokens do not fill them."""
        rest = (None,) * (x.ndim - 2)
        pieces = self.chunks * sharding.mesh_size(self.spread) // sharding.mesh_size(self.lie)

        def local(x):
            x = x.reshape(-1, *x.shape[2:])
            x = jnp.pad(x, ((0, -len(x) % pieces), *((0, 0) for _ in rest)))
            return x.reshape(self.chunks, -1, *x.shape[1:])

        x = sharding.shard_map(local, [(*sharding.rows(self.T)[:2], *rest)], (None, self.lie, *rest), x)
        return sharding.constrain(x, None, self.spread, *rest)

    def uncut(self, x: Array) -> Array:
        """(chunks, C, ...) to (B, T, ...)."""
        rest, rows = (None,) * (x.ndim - 2), sharding.rows(self.T)[:2]
        N, t = self.B * self.T // sharding.mesh_size(self.lie), self.T // sharding.mesh_size(rows[1])
        local = lambda x: x.reshape(-1, *x.shape[2:])[:N].reshape(-1, t, *x.shape[2:])
        return sharding.shard_map(local, [(None, self.lie, *rest)], (*rows, *rest), x)


def _chunks(N: int, tokens: int) -> int:
    """The smallest number of equal pieces of N tokens that hold at most `tokens` each; of such as do not quite fill the
    last where else twice as many were needed."""
    least = -(-N // tokens)
    return next((n for n in range(least, 2 * least) if N % n == 0), least)


def _summable(dtype: Any) -> Any:
    """The dtype itself, where sums over tokens do not overflow in it."""
    return jnp.float32 if dtype == jnp.float16 else dtype


def _gathered(head_VD: Array, dtype: Any) -> Array:
    """The head in the compute dtype, gathered over its width once."""
    return sharding.constrain(head_VD.astype(dtype), "vocab", None)


def _logits(
    x_CD: Array, head: Array, label_C: Array, softcap: float | None, bias_V: Array | None = None
) -> tuple[Array, Array]:
    """A chunk's logits, and which of them are the labels'."""
    l_CV = einsum("cd,vd->cv", x_CD, head, dtype=jnp.float32)
    l_CV = l_CV if bias_V is None else l_CV + bias_V[None]
    ids_V = jnp.arange(head.shape[0], dtype=label_C.dtype, out_sharding=sharding.out_sharding("vocab"))
    hit_CV = label_C[:, None] == ids_V[None]
    return l_CV if softcap is None else soft_cap(l_CV, softcap), hit_CV


def _pulled(
    dl_CV: Array, l_CV: Array, x_CD: Array, head: Array, softcap: float | None, tokens: _Tokens, dtype: Any
) -> tuple[Array, Array]:
    """The gradient of a chunk's logits as those of its hidden states and of the head, a sum still to be taken."""
    if softcap is not None:
        dl_CV *= 1 - jnp.square(l_CV / softcap)
    dl_CV = dl_CV.astype(head.dtype)
    dx_CD = einsum("cv,vd->cd", dl_CV, head, out=(tokens.spread, None))
    over, out = tokens.spread, ("vocab", None)
    return dx_CD, sharding.partial_einsum("cv,cd->vd", dl_CV, x_CD, over=over, out=out, dtype=dtype)


def _no_gradient(head: Array, tokens: _Tokens, dtype: Any) -> Array:
    """Where the sum of the head's gradient begins."""
    return sharding.partial_zeros(head.shape, over=tokens.spread, out=("vocab", None), dtype=dtype)


def _gradients(dx: Array, dhead_VD: Array, head_VD: Array, tokens: _Tokens) -> tuple[Array, Array]:
    """Those of hidden states and head, as these lie. The head's is summed over devices before the layers go backward:
    else all of it would wait until then."""
    dhead_VD = sharding.constrain(dhead_VD, "vocab", "embed").astype(head_VD.dtype)
    return jax.lax.optimization_barrier((tokens.uncut(dx), dhead_VD))


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _summed(hidden_BTD, head_VD, bias_V, labels_BT, weights_BT, how):
    return _summed_forward(hidden_BTD, head_VD, bias_V, labels_BT, weights_BT, how)[0]


def _summed_forward(hidden_BTD, head_VD, bias_V, labels_BT, weights_BT, how):
    tokens, smoothing, z_loss, softcap, grad_dtype = how
    V, head = head_VD.shape[0], _gathered(head_VD, hidden_BTD.dtype)

    def step(sums, piece):
        dhead_VD, dbias_V1 = sums
        x_CD, label_C, weight_C = piece
        l_CV, hit_CV = _logits(x_CD, head, label_C, softcap, bias_V)
        lse_C1 = jax.nn.logsumexp(l_CV, -1, keepdims=True)
        nll_C = lse_C1[:, 0] - jnp.sum(jnp.where(hit_CV, l_CV, 0), -1)
        loss_C = nll_C
        if smoothing:
            loss_C = (1 - smoothing) * nll_C + smoothing * (lse_C1[:, 0] - jnp.mean(l_CV, -1))
        if z_loss:
            loss_C += z_loss * jnp.square(lse_C1[:, 0])
        target_CV = jnp.where(hit_CV, 1 - smoothing + smoothing / V, smoothing / V)
        p_CV = jnp.exp(l_CV - lse_C1) * (1 + 2 * z_loss * lse_C1)
        dl_CV = (p_CV - target_CV) * weight_C[:, None]
        dx_CD, more_VD = _pulled(dl_CV, l_CV, x_CD, head, softcap, tokens, grad_dtype)
        if dbias_V1 is not None:
            dl_CV = dl_CV if softcap is None else dl_CV * (1 - jnp.square(l_CV / softcap))
            ones_C1 = jnp.ones_like(weight_C, jnp.float32)[:, None]
            dbias_V1 += sharding.partial_einsum("cv,cd->vd", dl_CV, ones_C1, over=tokens.spread, out=("vocab", None))
        return (dhead_VD + more_VD, dbias_V1), (jnp.sum(loss_C * weight_C), jnp.sum(nll_C * weight_C), dx_CD)

    xs = tokens.cut(hidden_BTD), tokens.cut(labels_BT), tokens.cut(weights_BT)
    no_bias = None if bias_V is None else sharding.partial_zeros((V, 1), over=tokens.spread, out=("vocab", None))
    (dhead_VD, dbias_V1), (total, nll, dx) = jax.lax.scan(step, (_no_gradient(head, tokens, grad_dtype), no_bias), xs)
    dbias_V = None if dbias_V1 is None else sharding.constrain(dbias_V1, "vocab", None)[:, 0]
    return (total.sum(), nll.sum()), (*_gradients(dx, dhead_VD, head_VD, tokens), dbias_V)


def _summed_backward(how, saved, cotangents):
    scale = cotangents[0]  # nll is reported, not minimised
    dx_BTD, dhead_VD, dbias_V = (None if d is None else (d * scale).astype(d.dtype) for d in saved)
    return dx_BTD, dhead_VD, dbias_V, None, None


_summed.defvjp(_summed_forward, _summed_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _logprobs(hidden_BTD, head_VD, labels_BT, how):
    return _logprobs_forward(hidden_BTD, head_VD, labels_BT, how)[0]


def _logprobs_forward(hidden_BTD, head_VD, labels_BT, how):
    tokens, softcap = how
    head = _gathered(head_VD, hidden_BTD.dtype)

    def step(piece):
        l_CV, hit_CV = _logits(piece[0], head, piece[1], softcap)
        lse_C = jax.nn.logsumexp(l_CV, -1)
        return jnp.sum(jnp.where(hit_CV, l_CV, 0), -1) - lse_C, lse_C

    found = jax.lax.map(step, (tokens.cut(hidden_BTD), tokens.cut(labels_BT)))
    logprob_BT, lse_BT = map(tokens.uncut, found)
    return (logprob_BT, lse_BT), (hidden_BTD, head_VD, labels_BT, lse_BT)


def _logprobs_backward(how, saved, cotangents):
    tokens, softcap = how
    hidden_BTD, head_VD, labels_BT, lse_BT = saved
    head, dtype = _gathered(head_VD, hidden_BTD.dtype), _summable(hidden_BTD.dtype)

    def step(dhead_VD, piece):
        x_CD, label_C, lse_C, dlogprob_C, dlse_C = piece
        l_CV, hit_CV = _logits(x_CD, head, label_C, softcap)
        p_CV = jnp.exp(l_CV - lse_C[:, None])
        dl_CV = jnp.where(hit_CV, dlogprob_C[:, None], 0) + p_CV * (dlse_C - dlogprob_C)[:, None]
        dx_CD, more_VD = _pulled(dl_CV, l_CV, x_CD, head, softcap, tokens, dtype)
        return dhead_VD + more_VD, dx_CD

    xs = map(tokens.cut, (hidden_BTD, labels_BT, lse_BT, *cotangents))
    dhead_VD, dx = jax.lax.scan(step, _no_gradient(head, tokens, dtype), tuple(xs))
    return *_gradients(dx, dhead_VD, head_VD, tokens), None


_logprobs.defvjp(_logprobs_forward, _logprobs_backward)
