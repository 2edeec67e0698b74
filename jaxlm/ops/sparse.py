"""Block-sparse attention: for each block of queries a list of the blocks of keys that it sees, and no other cost.

A pattern is data, known when the program is compiled. `Fixed`, `Strided` and `Local` make those of the literature for
texts of T tokens; any other lists do as well. Blocks of one position (C = 1) are the papers' patterns to the letter,
larger ones are what runs fast. Blocks count from the beginning of the row, also where rows are packed with texts.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.errors import UserError
from jaxlm.ops.rule import MASKED


@dataclasses.dataclass(frozen=True)
class Pattern:
    """`blocks[i]` are the blocks of keys seen by block i of queries, in any order; one listed twice counts once.

    For texts of at most C * len(blocks) tokens. Raises UserError for a block that is not there.
    """

    C: int  # positions a block
    blocks: tuple[tuple[int, ...], ...]

    def __post_init__(self):
        n = len(self.blocks)
        check(self, C=">= 1")
        wrong = [(i, j) for i, listed in enumerate(self.blocks) for j in listed if not 0 <= j < n]
        if wrong or not n:
            what = f"block {wrong[0][0]} lists block {wrong[0][1]}" if wrong else "no block"
            raise UserError(f"sparse pattern: {what}, and needs blocks 0 .. {n - 1}")

    def pairs(self, T: int, causal: bool) -> np.ndarray:
        """Blocks of queries and of keys that meet in a text of T tokens, int32 (2, P), ordered by query."""
        n = -(-T // self.C)
        if n > len(self.blocks):
            raise UserError(f"sparse pattern: {T} tokens exceed its {len(self.blocks)} blocks of {self.C}")
        found = sorted({(i, j) for i in range(n) for j in self.blocks[i] if j < n and (j <= i or not causal)})
        return np.array(found, np.int32).reshape(-1, 2).T


def _pattern(C: int, sees_nn: np.ndarray) -> Pattern:
    return Pattern(C, tuple(tuple(np.flatnonzero(row).tolist()) for row in sees_nn))


def _grid(T: int, C: int) -> tuple[np.ndarray, np.ndarray]:
    """The block of queries and the block of keys at each place of a boolean matrix."""
    i, j = np.indices((-(-T // C),) * 2)
    return i, j


@dataclasses.dataclass(frozen=True)
class Fixed:
    """A block sees its own stretch of `stride` blocks, and the last `summary` blocks of every stretch (Sparse
    Transformer; Child et al. 2019, arXiv:1904.10509)."""

    C: int
    stride: int
    summary: int = 1

    def __post_init__(self):
        check(self, C=">= 1", stride=">= 1", summary=">= 1")
        if self.summary > self.stride:
            raise UserError(f"fixed pattern: needs summary <= stride, got {self}")

    def __call__(self, T: int) -> Pattern:
        i, j = _grid(T, self.C)
        return _pattern(
            self.C, (i // self.stride == j // self.stride) | (j % self.stride >= self.stride - self.summary)
        )


@dataclasses.dataclass(frozen=True)
class Strided:
    """A block sees those at most `stride` away, and every `stride`-th (Child et al. 2019, arXiv:1904.10509)."""

    C: int
    stride: int

    def __post_init__(self):
        check(self, C=">= 1", stride=">= 1")

    def __call__(self, T: int) -> Pattern:
        i, j = _grid(T, self.C)
        return _pattern(self.C, (abs(i - j) <= self.stride) | ((i - j) % self.stride == 0))


@dataclasses.dataclass(frozen=True)
class Local:
    """A block sees those at most `near` away, and some that are seen by all.

    The first `everywhere` blocks see and are seen by all: with near, Longformer (Beltagy et al. 2020,
    arXiv:2004.05150). Each other block sees `random` more, drawn from the rest: BigBird (Zaheer et al. 2020,
    arXiv:2007.14062).
    """

    C: int
    near: int
    everywhere: int = 0
    random: int = 0
    seed: int = 0

    def __post_init__(self):
        check(self, C=">= 1", **dict.fromkeys(("near", "everywhere", "random", "seed"), ">= 0"))

    def __call__(self, T: int) -> Pattern:
        i, j = _grid(T, self.C)
        sees_nn = (abs(i - j) <= self.near) | (np.minimum(i, j) < self.everywhere)
        rng = np.random.default_rng(self.seed)
        for row in sees_nn:
            rest = np.flatnonzero(~row)
            row[rng.permutation(rest)[: self.random]] = True
        return _pattern(self.C, sees_nn)


def pattern_mask(pattern: Pattern, query_BT: Array, key_BS: Array) -> Array:
    """Boolean (B, T, S): whether the pattern lets positions `query_BT` see positions `key_BS`, as decoding has them.

    Nothing is said of causality and segments, see `masks.visible`.
    """
    n = len(pattern.blocks)
    sees_nn = np.zeros((n, n), bool)
    sees_nn[tuple(pattern.pairs(n * pattern.C, causal=False))] = True
    return jnp.asarray(sees_nn)[query_BT[:, :, None] // pattern.C, key_BS[:, None, :] // pattern.C]


def dense_mask(pattern: Pattern, T: int, causal: bool = True) -> np.ndarray:
    """Boolean (T, T), who sees whom in a text of T tokens: a picture of the pattern, for `plt.imshow`."""
    at_1T = jnp.arange(T)[None]
    mask_TT = np.asarray(pattern_mask(pattern, at_1T, at_1T)[0])
    return np.tril(mask_TT) if causal else mask_TT


def block_sparse_attention(
    q_BTHK: Array,
    k_BTGK: Array,
    v_BTGK: Array,
    pattern: Pattern,
    segments_BT: Array | None = None,
    *,
    causal: bool = True,
    scale: float | None = None,
    bias_P: np.ndarray | None = None,
) -> Array:
    """Exact attention under the pattern's mask; returns (B, T, H, K), zero for a query that sees nothing.

    Only the P listed pairs of blocks are gathered and multiplied: time and memory are P C^2, forward and backward.
    The softmax of a query goes over all its pairs. `segments_BT` keeps packed documents and padding apart; `bias_P` is
    added to the scores of each of `pattern.pairs`: log 2 counts its keys twice.
    Raises UserError for a text longer than the pattern.
    """
    (B, T, H, K), G, C = q_BTHK.shape, k_BTGK.shape[2], pattern.C
    scale = float(K**-0.5 if scale is None else scale)
    row_P, column_P = pattern.pairs(T, causal)

    def blocks(x: Array) -> Array:
        """Axis 1 cut into blocks of C, the last one padded."""
        x = jnp.pad(x, [(0, -T % C) if axis == 1 else (0, 0) for axis in range(x.ndim)])
        return x.reshape(B, -1, C, *x.shape[2:])

    at_C = jnp.arange(C)
    t_PC, s_PC = (jnp.asarray(block_P * C)[:, None] + at_C[None] for block_P in (row_P, column_P))
    mask_BPCC = (s_PC < T)[None, :, None]
    if causal:
        mask_BPCC = mask_BPCC & (t_PC[:, :, None] >= s_PC[:, None])[None]
    if segments_BT is not None:
        segments_BnC = blocks(segments_BT)
        same_BPCC = segments_BnC[:, row_P][:, :, :, None] == segments_BnC[:, column_P][:, :, None]
        mask_BPCC = mask_BPCC & same_BPCC
    mask_B11PCC = mask_BPCC[:, None, None]

    q_BGRnCK = blocks(q_BTHK).reshape(B, -1, C, G, H // G, K).transpose(0, 3, 4, 1, 2, 5)
    k_BGPCK, v_BGPCK = (blocks(x).transpose(0, 3, 1, 2, 4)[:, :, column_P] for x in (k_BTGK, v_BTGK))
    s_BGRPCC = jnp.einsum("bgrpqk,bgpsk->bgrpqs", q_BGRnCK[:, :, :, row_P], k_BGPCK, preferred_element_type=jnp.float32)
    s_BGRPCC = s_BGRPCC * scale if bias_P is None else s_BGRPCC * scale + bias_P[None, None, None, :, None, None]
    s_BGRPCC = jnp.where(mask_B11PCC, s_BGRPCC, MASKED)

    # One softmax a query over all its pairs: sums and maxima over pairs of the same row of blocks.
    none_BGRnC = jnp.zeros_like(q_BGRnCK[..., 0], jnp.float32)
    m_BGRPC = jax.lax.stop_gradient(jnp.max(s_BGRPCC, -1))
    m_BGRnC = (none_BGRnC + MASKED).at[:, :, :, row_P].max(m_BGRPC)
    p_BGRPCC = jnp.where(mask_B11PCC, jnp.exp(s_BGRPCC - m_BGRnC[:, :, :, row_P][..., None]), 0)
    total_BGRnC = none_BGRnC.at[:, :, :, row_P].add(jnp.sum(p_BGRPCC, -1))
    part_BGRPCK = jnp.einsum("bgrpqs,bgpsk->bgrpqk", p_BGRPCC.astype(v_BTGK.dtype), v_BGPCK)
    o_BGRnCK = jnp.zeros_like(q_BGRnCK, jnp.float32).at[:, :, :, row_P].add(part_BGRPCK.astype(jnp.float32))
    o_BGRnCK /= jnp.where(total_BGRnC > 0, total_BGRnC, 1)[..., None]
    o_BnCGRK = o_BGRnCK.astype(q_BTHK.dtype).transpose(0, 3, 4, 1, 2, 5)
    return o_BnCGRK.reshape(B, -1, G, H // G, K)[:, :T].reshape(q_BTHK.shape)
