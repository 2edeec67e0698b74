"""Memories that a network reads and writes by attention: the formulas of the neural Turing machine (NTM; Graves et al.
2014, arXiv:1410.5401) and of the differentiable neural computer (DNC; Graves et al. 2016, Nature 538).

A memory has M rows of K numbers, memory_BMK; a head looks at rows with weights w_BHM that sum to at most one.
"""

import jax
import jax.numpy as jnp

from jaxlm.axes import Array

EPSILON = 1e-6


def content_weights(memory_BMK: Array, key_BHK: Array, strength_BH: Array) -> Array:
    """Content addressing: w_m = softmax_m(beta cos(k, M_m)), beta > 0 the strength."""
    length = lambda x: jnp.sqrt(jnp.sum(jnp.square(x), -1) + EPSILON)
    dot_BHM = jnp.einsum("bmk,bhk->bhm", memory_BMK, key_BHK)
    cosine_BHM = dot_BHM / (length(key_BHK)[:, :, None] * length(memory_BMK)[:, None])
    return jax.nn.softmax(strength_BH[..., None] * cosine_BHM, -1)


def interpolate(content_BHM: Array, before_BHM: Array, gate_BH: Array) -> Array:
    """g w_content + (1 - g) w_before."""
    return gate_BH[..., None] * content_BHM + (1 - gate_BH[..., None]) * before_BHM


def shift(w_BHM: Array, by_BHW: Array) -> Array:
    """Circular convolution: w'_m = sum_j s_j w_(m - j), j from -(W // 2) to W // 2 for the W entries of s."""
    W = by_BHW.shape[-1]
    rolled = [jnp.roll(w_BHM, j - W // 2, -1) * by_BHW[..., j, None] for j in range(W)]
    return sum(rolled[1:], rolled[0])


def sharpen(w_BHM: Array, power_BH: Array) -> Array:
    """w_m^gamma / sum_m w_m^gamma, gamma >= 1; by logarithms, so that no power vanishes."""
    return jax.nn.softmax(power_BH[..., None] * jnp.log(jnp.maximum(w_BHM, EPSILON)), -1)


def read(memory_BMK: Array, w_BHM: Array) -> Array:
    """r_h = sum_m w_hm M_m, (B, H, K)."""
    return jnp.einsum("bmk,bhm->bhk", memory_BMK, w_BHM)


def erase_and_add(memory_BMK: Array, w_BHM: Array, erase_BHK: Array, add_BHK: Array) -> Array:
    """M_m prod_h (1 - w_hm e_h) + sum_h w_hm a_h: all heads erase, then all add."""
    kept_BMK = jnp.prod(1 - w_BHM[..., None] * erase_BHK[:, :, None], 1)
    return memory_BMK * kept_BMK + jnp.einsum("bhm,bhk->bmk", w_BHM, add_BHK)


def usage(usage_BM: Array, write_BM: Array, read_BHM: Array, free_BH: Array) -> Array:
    """How much each row is in use: (u + w - u w) prod_h (1 - f_h r_h), after what was written (w) and what the read
    heads (r) set free (f)."""
    kept_BM = jnp.prod(1 - free_BH[..., None] * read_BHM, 1)
    return (usage_BM + write_BM - usage_BM * write_BM) * kept_BM


def allocation(usage_BM: Array) -> Array:
    """Weights of the rows least in use: a_m = (1 - u_m) prod of u over all rows used less than m; of equally used rows
    the first counts as less."""
    M = usage_BM.shape[-1]
    u_BM = EPSILON + (1 - EPSILON) * usage_BM
    mine, other = u_BM[:, :, None], u_BM[:, None]
    first_MM = (jnp.arange(M)[None] < jnp.arange(M)[:, None])[None]
    less_BMM = (other < mine) | ((other == mine) & first_MM)
    return (1 - u_BM) * jnp.prod(jnp.where(less_BMM, jnp.broadcast_to(other, less_BMM.shape), 1.0), -1)


def link(links_BMM: Array, last_BM: Array, write_BM: Array) -> tuple[Array, Array]:
    """Which row was written after which: L_ij = (1 - w_i - w_j) L_ij + w_i p_j, zero where i = j, and who was written
    last: p = (1 - sum w) p + w."""
    w_i, w_j = write_BM[:, :, None], write_BM[:, None]
    linked_BMM = (1 - w_i - w_j) * links_BMM + w_i * last_BM[:, None]
    linked_BMM *= 1 - jnp.eye(write_BM.shape[-1], dtype=linked_BMM.dtype)[None]
    return linked_BMM, (1 - jnp.sum(write_BM, -1, keepdims=True)) * last_BM + write_BM


def follow(links_BMM: Array, w_BHM: Array) -> tuple[Array, Array]:
    """The weights of the rows written after those that a head saw, and before them: L w and L^T w."""
    return jnp.einsum("bij,bhj->bhi", links_BMM, w_BHM), jnp.einsum("bji,bhj->bhi", links_BMM, w_BHM)


def read_mode(mode_BH3: Array, before_BHM: Array, content_BHM: Array, after_BHM: Array) -> Array:
    """Backwards, by content or forwards: the sum of the three by the modes, which sum to one."""
    mode = jnp.moveaxis(mode_BH3, -1, 0)[..., None]
    return mode[0] * before_BHM + mode[1] * content_BHM + mode[2] * after_BHM
