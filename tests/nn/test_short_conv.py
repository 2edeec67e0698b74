"""LFM2's short convolution."""

import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.nn import AttentionConfig, DeltaNetConfig, RMSNormConfig, RopeConfig, ShortConvConfig
from tests.nn import mixers
from tests.nn.mixers import CONTEXT, SEGMENTS, B, T, X

C = ShortConvConfig(F=6, W=3)


def test_each_channel_sees_its_last_inputs_by_a_loop():
    p = mixers.initial(C)
    y, _ = C.build(3, "mixer").apply({"params": p}, X, CONTEXT)
    b, c, x = (np.einsum("btd,dfk->btfk", X, np.asarray(p[name]))[..., 0] for name in ("b", "c", "x"))
    w, wanted = np.asarray(p["conv"])[..., 0], np.zeros_like(x)
    for row in range(B):
        for t in range(T):
            for back in range(3):
                if t - back >= 0 and SEGMENTS[row, t - back] == SEGMENTS[row, t] == 1:
                    wanted[row, t] += w[2 - back] * (b * x)[row, t - back]
    wanted = np.einsum("btf,fd->btd", c * wanted, np.asarray(p["o"])[:, 0])
    np.testing.assert_allclose(y * SEGMENTS[..., None], wanted * SEGMENTS[..., None], atol=1e-5)


GROUPED = DeltaNetConfig(H=4, K=4, J=6, W=3, decay="head", G=2)  # Qwen3.5's


@pytest.mark.parametrize("c", [C, GROUPED], ids=["short", "grouped delta"])
def test_a_past_is_the_whole_text_and_keeps_its_size(c):
    mixers.a_past_is_the_whole_text(c, 2)
    mixers.the_state_has_one_size(c)


def test_grouped_heads_serve_their_own_values():
    """As many heads of q and k with equal weights do."""
    p = mixers.initial(GROUPED)
    each = {name: np.repeat(p[name], 2, 1) for name in ("q", "k", "conv_q", "conv_k")}
    each |= {name: np.reshape(p[name], (X.shape[-1], 4)) for name in ("rate", "decay")}
    alone = DeltaNetConfig(H=4, K=4, J=6, W=3, decay="head")
    y, _ = GROUPED.build(3, "mixer").apply({"params": p}, X, CONTEXT)
    wanted, _ = alone.build(3, "mixer").apply({"params": p | each}, X, CONTEXT)
    np.testing.assert_allclose(y, wanted, atol=1e-6)


@pytest.mark.parametrize("gate", ["head", "channel"])
def test_gated_attention_with_narrow_values_and_a_norm_decodes_as_it_reads(gate):
    """Two tokens behind a cache are as in the whole text, and the cache has the widths of keys and values."""
    c = AttentionConfig(
        4, 8, 2, J=6, gate=gate, norm_out=RMSNormConfig(), rope=RopeConfig(), scale_out=0.7, implementation="reference"
    )
    p, at = mixers.initial(c), mixers.POSITIONS
    apply = lambda x, context, past=None: c.build(3, "mixer").apply({"params": p}, x, context, past)
    whole, new = apply(X, CONTEXT)
    cache = c.init_cache(B, T, np.float32).write(apply(X[:, :-2], _part(slice(-2)))[1], np.int32(0))
    y, _ = apply(X[:, -2:], _part(slice(-2, None), np.int32(T - 2)), cache)
    np.testing.assert_allclose(y, whole[:, -2:], atol=1e-5)
    assert [x.shape[-1] for x in new.value] == [8, 6] and at.shape == (B, T)
    open_gate = p | {"gate": np.zeros_like(p["gate"])}
    plain = AttentionConfig(4, 8, 2, J=6, rope=RopeConfig(), scale_out=0.7, implementation="reference")
    half, _ = (
        AttentionConfig(4, 8, 2, J=6, gate=gate, scale_out=0.7, implementation="reference")
        .build(3, "m")
        .apply({"params": {name: x for name, x in open_gate.items() if name != "norm_out"}}, X, CONTEXT)
    )
    rest = {name: x for name, x in p.items() if name not in ("gate", "norm_out")}
    np.testing.assert_allclose(2 * half, plain.build(3, "m").apply({"params": rest}, X, CONTEXT)[0], atol=1e-5)


def _part(at: slice, end=None):
    start = None if end is None else mixers.START.astype(np.int32)
    return mixers.Context(mixers.POSITIONS[:, at], SEGMENTS[:, at], end, start)


def test_bad_input():
    with pytest.raises(UserError, match="W=1"):
        ShortConvConfig(4, W=1)
    with pytest.raises(UserError, match="G=3 heads of keys must divide H=4"):
        DeltaNetConfig(H=4, K=4, G=3)
