"""Products of positions whose weight decays between them, safe for decays of any size, by doubling of blocks.

A_ij = sum_k r_ik k_jk exp(sum_(j < l < i) log_lk) for j < i, where log <= 0. The exponent does not come apart into one
of i and one of j whose exponentials can be held: the second would be positive. But where i stands in the right half of
a block and j in the left one, it is the sum from the middle to i and that from j to the middle, neither positive: every
block of 2 m positions is two blocks of m and one product of matrices. All sums are sums, never differences.
"""

import jax.numpy as jnp

from jaxlm.axes import Array


def by_heads(*xs_BCH: Array) -> tuple[Array, ...]:
    """(B, C, H, ...) -> (B, H, P, ...) in float32, with zeros up to P positions, a power of two."""
    more = (1 << (xs_BCH[0].shape[1] - 1).bit_length()) - xs_BCH[0].shape[1]
    pad = lambda x: jnp.pad(x, ((0, 0), (0, more), *((0, 0),) * (x.ndim - 2))) if more else x
    return tuple(jnp.moveaxis(pad(x.astype(jnp.float32)), 1, 2) for x in xs_BCH)


def forgotten(log_BHCK: Array, fresh_BC: Array | None) -> tuple[Array, Array]:
    """Decays, and what is added to those before a token: where a text begins, all of the past is forgotten."""
    if fresh_BC is None:
        return log_BHCK, jnp.zeros_like(log_BHCK)
    fresh_BC = jnp.pad(fresh_BC, ((0, 0), (0, log_BHCK.shape[2] - fresh_BC.shape[1])))
    gone_BHCK = fresh_BC[:, None, :, None] | jnp.zeros_like(log_BHCK, bool)
    return jnp.where(gone_BHCK, -jnp.inf, log_BHCK), jnp.where(gone_BHCK, -jnp.inf, 0)


def decayed(
    reads_BHRCK: Array, keys_BHQCK: Array, log_BHCK: Array, before_BHCK: Array
) -> tuple[list[Array], Array, Array, Array]:
    """A of R readers and Q keys at each of C positions (a power of two), as its blocks: the m-th array has, for every
    pair of neighbouring blocks of m positions, the products (B, H, R, Q, C / 2m, m, m) of the right with the left one.

    With them the decays, in logarithms: from the chunk's begin until before each token, (B, H, C, K), with
    `before_BHCK` added; from behind each token to the chunk's end; and of the whole chunk, (B, H, 1, K). The last
    dimension of decays may be 1, for all K.
    """
    C = log_BHCK.shape[2]
    before, after, whole = (x[:, :, :, None] for x in (before_BHCK, jnp.zeros_like(log_BHCK), log_BHCK))  # B H n m K
    crosses, m = [], 1
    while m < C:
        halves = lambda x: (x[:, :, 0::2], x[:, :, 1::2])
        (left_before, right_before), (left_after, right_after), (left, right) = map(halves, (before, after, whole))
        reads, keys = (x.reshape(*x.shape[:3], -1, 2, m, x.shape[-1]) for x in (reads_BHRCK, keys_BHQCK))
        reads = reads[:, :, :, :, 1] * jnp.exp(right_before)[:, :, None]
        keys = keys[:, :, :, :, 0] * jnp.exp(left_after)[:, :, None]
        crosses.append(jnp.einsum("bhrnik,bhqnjk->bhrqnij", reads, keys))
        before = jnp.concatenate([left_before, left + right_before], 3)
        after = jnp.concatenate([left_after + right, right_after], 3)
        whole, m = left + right, 2 * m
    return crosses, before[:, :, 0], after[:, :, 0], whole[:, :, 0]


def lower(crosses: list[Array], like_BHC: Array) -> Array:
    """The strictly lower triangular matrices (..., C, C) whose blocks these are; of one position like_BHC is zero."""
    return _double(crosses, jnp.zeros_like, lambda left, cross, right: cross, like_BHC)


def inverse(crosses: list[Array], like_BHC: Array) -> Array:
    """(1 - A)^-1 of the matrices A whose blocks these are: of [[L, 0], [X, R]] the inverse is [[L', 0], [R' X L', R']].

    This is forward substitution, block by block; where entries of A are larger than one, its own may grow as fast."""
    below = lambda left, cross, right: jnp.einsum("...ij,...jk,...kl->...il", right, cross, left)
    return _double(crosses, jnp.ones_like, below, like_BHC)


def _double(crosses, begin, below, like_BHC):
    first = crosses[0] if crosses else like_BHC[..., None, None]
    blocks = jnp.repeat(begin(first), 2, -3) if crosses else begin(first)
    for cross in crosses:
        left, right = blocks[..., 0::2, :, :], blocks[..., 1::2, :, :]
        upper = jnp.concatenate([left, jnp.zeros_like(left)], -1)
        blocks = jnp.concatenate([upper, jnp.concatenate([below(left, cross, right), right], -1)], -2)
    return blocks[..., 0, :, :]


def carried(whole_BH1K: Array, state_BHKJ: Array) -> Array:
    """The state behind a chunk, of what it was before."""
    return jnp.exp(jnp.moveaxis(whole_BH1K, 2, 3)) * state_BHKJ
