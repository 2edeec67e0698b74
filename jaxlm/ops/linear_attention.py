"""Linear attention: softmax replaced by a product of features, so that the past is a sum of constant size.

o_t = phi(q_t) S_t / phi(q_t) z_t, S_t = sum_{s <= t} phi(k_s) v_s^T, z_t = sum_{s <= t} phi(k_s)
(Katharopoulos et al. 2020, arXiv:2006.16236). Give it features, Z a head: `elu_features` of queries and keys is the
paper's choice, `positive_features` approximates softmax. A state is S with z as one more column: every value has a
last entry of one, and what comes out is divided by its own last entry. States and sums are float32.
"""

import jax
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array

CHUNK = 128  # positions at a time


def elu_features(x: Array) -> Array:
    """phi(x) = elu(x) + 1, which is positive."""
    return jax.nn.elu(x) + 1


def orthogonal_directions(key: Array, Z: int, K: int) -> Array:
    """(Z, K) random directions for `positive_features`: normal, but at right angles in each group of K rows."""
    turn_key, length_key = jax.random.split(key)
    groups = jax.random.orthogonal(turn_key, K, (-(-Z // K),))
    length_Z1 = jnp.linalg.norm(jax.random.normal(length_key, (Z, K)), axis=1, keepdims=True)
    return groups.reshape(-1, K)[:Z] * length_Z1


def positive_features(x_BTHK: Array, directions_ZK: Array) -> Array:
    """phi(x) = exp(w x - |x|^2 / 2) / sqrt(Z) for Z directions w, of x scaled by K^-1/4; float32 (B, T, H, Z).

    The mean of phi(q) phi(k) over normal w is exp(q . k / sqrt(K)), the term of softmax (FAVOR+; Choromanski et al.
    2021, arXiv:2009.14794). For queries and keys of ordinary size: nothing is subtracted from the exponent.
    """
    x_BTHK = x_BTHK.astype(jnp.float32) * x_BTHK.shape[-1] ** -0.25
    half_BTH1 = jnp.sum(jnp.square(x_BTHK), -1, keepdims=True) / 2
    return jnp.exp(jnp.einsum("bthk,zk->bthz", x_BTHK, directions_ZK) - half_BTH1) * len(directions_ZK) ** -0.5


def linear_attention(q_BTHZ: Array, k_BSHZ: Array, v_BSHJ: Array, mask_BS: Array | None = None) -> Array:
    """Every query sees every key; returns (B, T, H, J). `mask_BS` is False on padding."""
    k_BSHZ = k_BSHZ.astype(jnp.float32)
    if mask_BS is not None:
        k_BSHZ = jnp.where(mask_BS[:, :, None, None], k_BSHZ, 0)
    state_BHZJ = jnp.einsum("bshz,bshj->bhzj", k_BSHZ, _with_one(v_BSHJ))
    return _divide(jnp.einsum("bthz,bhzj->bthj", q_BTHZ.astype(jnp.float32), state_BHZJ), v_BSHJ)


def causal_linear_attention(
    q_BTHZ: Array,
    k_BTHZ: Array,
    v_BTHJ: Array,
    segments_BT: Array | None = None,
    state_BHZJ: Array | None = None,
    chunk: int = CHUNK,
) -> tuple[Array, Array]:
    """A query sees the keys up to its own; returns (B, T, H, J) and the state (B, H, Z, J + 1) behind the last token.

    Products of `chunk` x `chunk` scores within a chunk, the state between: memory linear in T. A state given is what
    stands before the first token, as part of its text. `segments_BT` keeps texts packed one after the other apart;
    the state is of the last one.
    """
    (B, T, H, Z), J = q_BTHZ.shape, v_BTHJ.shape[-1]
    C = min(chunk, T)
    if state_BHZJ is None:
        state_BHZJ = jnp.zeros(
            (B, H, Z, J + 1), jnp.float32, out_sharding=sharding.out_sharding("batch", "heads", None, None)
        )
    if segments_BT is None:
        segments_BT = jnp.zeros((B, T), jnp.int32, out_sharding=sharding.out_sharding("batch", None))

    # Padding is keys of zero, which add nothing to the state, of the last segment.
    segments_BT = jnp.concatenate([segments_BT, jnp.repeat(segments_BT[:, -1:], -T % C, 1)], 1)

    def chunks(x: Array) -> Array:
        x = jnp.pad(x, [(0, -x.shape[1] % C) if axis == 1 else (0, 0) for axis in range(x.ndim)])
        return jnp.moveaxis(x.reshape(B, -1, C, *x.shape[2:]), 1, 0)

    def step(carry, xs):
        (state_BHZJ, before_B), (q_BCHZ, k_BCHZ, v_BCHJ, segments_BC) = carry, xs
        q_BCHZ, k_BCHZ, v_BCHJ = q_BCHZ.astype(jnp.float32), k_BCHZ.astype(jnp.float32), _with_one(v_BCHJ)
        last_B = segments_BC[:, -1]
        same_BCC = (segments_BC[:, :, None] == segments_BC[:, None]) & jnp.tril(jnp.ones((C, C), bool))[None]
        s_BHCC = jnp.where(same_BCC[:, None], jnp.einsum("bqhz,bkhz->bhqk", q_BCHZ, k_BCHZ), 0)
        go_on_BC = segments_BC == before_B[:, None]
        past_BCHJ = jnp.einsum("bqhz,bhzj->bqhj", q_BCHZ, state_BHZJ)
        o_BCHJ = jnp.einsum("bhqk,bkhj->bqhj", s_BHCC, v_BCHJ) + jnp.where(go_on_BC[:, :, None, None], past_BCHJ, 0)
        k_BCHZ = jnp.where((segments_BC == last_B[:, None])[:, :, None, None], k_BCHZ, 0)
        state_BHZJ = jnp.where((last_B == before_B)[:, None, None, None], state_BHZJ, 0)
        return (state_BHZJ + jnp.einsum("bkhz,bkhj->bhzj", k_BCHZ, v_BCHJ), last_B), _divide(o_BCHJ, v_BTHJ)

    xs = tuple(chunks(x) for x in (q_BTHZ, k_BTHZ, v_BTHJ, segments_BT))
    (state_BHZJ, _), o_nBCHJ = jax.lax.scan(step, (state_BHZJ, segments_BT[:, 0]), xs)
    return jnp.moveaxis(o_nBCHJ, 0, 1).reshape(B, -1, H, J)[:, :T], state_BHZJ


def linear_attention_step(q_BHZ: Array, k_BHZ: Array, v_BHJ: Array, state_BHZJ: Array) -> tuple[Array, Array]:
    """One more token: its output (B, H, J) and the new state. Time and memory do not grow with the text."""
    k_BHZ, v1_BHJ = k_BHZ.astype(jnp.float32), _with_one(v_BHJ)
    state_BHZJ = state_BHZJ + k_BHZ[..., None] * v1_BHJ[..., None, :]
    return _divide(jnp.einsum("bhz,bhzj->bhj", q_BHZ.astype(jnp.float32), state_BHZJ), v_BHJ), state_BHZJ


def _with_one(v: Array) -> Array:
    """float32 values with a last entry of one, which sums up the weights."""
    v = v.astype(jnp.float32)
    return jnp.concatenate([v, jnp.ones_like(v[..., :1])], -1)


def _divide(o: Array, v: Array) -> Array:
    """Weighted sums of `_with_one` values made means, in the dtype of v; zero where nothing was seen."""
    weight = o[..., -1:]
    return (o[..., :-1] / jnp.where(weight > 0, weight, 1)).astype(v.dtype)
