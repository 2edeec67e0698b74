import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import config
from jaxlm.models import LM, LMConfig, flops
from jaxlm.nn import (
    AttentionConfig,
    BlockConfig,
    LayersConfig,
    LearnedConfig,
    MLAConfig,
    MLPConfig,
    MoEConfig,
    RMSNormConfig,
    SinusoidalConfig,
)
from jaxlm.nn.attention import mean_visible

GPT2 = config.resolve("gpt2_124m").model


def lm(*blocks: BlockConfig, repeat: int = 1, **changes) -> LMConfig:
    return LMConfig(**{"V": 50, "D": 16, "layers": (LayersConfig(blocks, repeat),)} | changes)


def test_gpt2_by_hand():
    N, D, F, V, T = 12, 768, 3072, 50257, 1024
    norm = 2 * D
    attention, ffn = 4 * D * D + 4 * D, 2 * D * F + F + D
    assert flops.parameters(GPT2) == N * (attention + ffn + 2 * norm) + norm + V * D + T * D == 124_439_808
    matmul = N * (4 * D * D + 2 * D * F) + V * D  # the tied head counts, tables, biases and norms do not
    assert flops.matmul_parameters(GPT2) == matmul == 123_532_032
    assert flops.train_flops(GPT2, T) == 6 * matmul + 6 * N * D * T == 797_815_296


def test_grouped_queries_gates_and_a_head_of_its_own():
    V, D, H, G, K, F = 50, 16, 4, 2, 8, 24
    c = lm(BlockConfig(AttentionConfig(H=H, K=K, G=G), MLPConfig(F=F)), repeat=3, tied=False)
    matmul = 3 * (2 * D * H * K + 2 * D * G * K + 3 * D * F) + V * D
    assert flops.matmul_parameters(c) == matmul
    assert flops.parameters(c) == matmul + V * D + (2 * 3 + 1) * D
    assert flops.train_flops(c, 100) == 6 * matmul + 3 * 6 * H * K * 100  # d_attn is H K, whatever D is


def test_of_experts_the_active_ones_count():
    """Mixtral 8x7B (arXiv:2401.04088): 47B parameters, 13B active."""
    block = lambda ffn: BlockConfig(AttentionConfig(H=32, K=128, G=8), ffn)
    moe = block(MoEConfig(F=14336, E=8, top_k=2))
    c = lm(moe, repeat=32, V=32000, D=4096, tied=False)
    assert flops.parameters(c) == 46_702_792_704
    assert flops.active_parameters(c) == 46_702_792_704 - 32 * 6 * 3 * 4096 * 14336 == 12_879_925_248
    dense = lm(block(MLPConfig(F=2 * 14336)), repeat=32, V=32000, D=4096, tied=False)
    assert flops.train_flops(c, 512) - flops.train_flops(dense, 512) == 6 * 32 * 4096 * 8  # the routers
    assert flops.active_parameters(dense) == flops.parameters(dense)


def test_shared_experts_and_biases():
    V, D, F, E, k = 50, 16, 24, 6, 2
    ffn = MoEConfig(
        F=F, E=E, top_k=k, bias=True, router_bias=True, score_correction_bias=True, shared=3, shared_gate=True
    )
    c = lm(BlockConfig(AttentionConfig(H=2, K=8), ffn), repeat=2)
    one, shared = 3 * D * F + 2 * F + D, 9 * D * F + 6 * F + D
    rest = 4 * D * 16 + D * E + 2 * E + shared + D + 2 * D  # attention, router, biases, shared, its gate, norms
    assert flops.parameters(c) == 2 * (E * one + rest) + V * D + D
    assert flops.active_parameters(c) == 2 * (k * one + rest) + V * D + D
    assert flops.matmul_parameters(c) == 2 * (4 * D * 16 + D * E + D + (k + 3) * 3 * D * F) + V * D


def test_a_table_of_another_width_than_the_model():
    """Two products lead to the model's width and back, and the head is as wide as the table."""
    block = BlockConfig(AttentionConfig(H=2, K=8), MLPConfig(F=24))
    inside = flops.matmul_parameters(lm(block)) - 50 * 16
    for tied in (True, False):
        assert flops.matmul_parameters(lm(block, tied=tied, embed_width=6)) == inside + 2 * 6 * 16 + 50 * 6


def test_experts_that_a_token_is_not_given_cost_nothing():
    """The router meets all of them. Beside a dense layer, in a group of both."""
    dense = BlockConfig(AttentionConfig(H=2, K=8), MLPConfig(F=24))
    sparse = dataclasses.replace(
        dense, ffn=MoEConfig(F=10, E=6, top_k=2, bias=True, router_bias=True, score_correction_bias=True, shared=1)
    )
    expert, router, shared = 3 * 16 * 10, 16 * 6, 3 * 16 * 10
    inside = lambda c: flops.matmul_parameters(c) - 50 * 16
    mlp = 3 * 16 * 24
    assert inside(lm(dense, sparse, repeat=3)) == inside(lm(dense, repeat=6)) + 3 * (2 * expert + router + shared - mlp)
    idle = 3 * 4 * (expert + 10 + 10 + 16)  # with the biases
    c = lm(dense, sparse, repeat=3)
    assert flops.active_parameters(c) == flops.parameters(c) - idle
    assert flops.active_parameters(GPT2) == flops.parameters(GPT2)


def test_latent_attention_by_hand():
    H, K, R, J, L, D, T = 4, 6, 2, 3, 5, 16, 40
    c = lm(BlockConfig(MLAConfig(H=H, K=K, R=R, J=J, L=L, query_L=7), MLPConfig(F=24)))
    mixer = D * 7 + 7 * H * (K + R) + D * (L + R) + L * H * (K + J) + H * J * D
    assert flops.matmul_parameters(c) == mixer + 3 * D * 24 + 50 * D
    assert flops.train_flops(c, T) == 6 * (mixer + 3 * D * 24 + 50 * D) + 3 * 2 * H * (K + R + J) * T / 2


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window, chunk", [(None, None), (5, None), (None, 6), (4, 6), (99, 99)])
def test_how_many_positions_are_seen(causal, window, chunk):
    """Counted pair by pair, to within the query's own."""
    T = 24
    i, j = np.mgrid[:T, :T]
    seen = (i // (chunk or T) == j // (chunk or T)) & (np.abs(i - j) < (window or T)) & ((j <= i) | (not causal))
    assert mean_visible(T, causal, window, chunk) == pytest.approx(seen.sum() / T, abs=1)


@pytest.mark.parametrize("positions, rows", [(None, 0), (SinusoidalConfig(), 0), (LearnedConfig(30), 30)])
def test_positions_cost_parameters_but_no_products(positions, rows):
    block = BlockConfig(AttentionConfig(H=2, K=8, rope=None), MLPConfig(F=24))
    plain, c = lm(block), lm(block, positions=positions)
    assert flops.parameters(c) - flops.parameters(plain) == rows * c.D
    assert flops.train_flops(c, 64) == flops.train_flops(plain, 64)


@pytest.mark.parametrize("window, T", [(1, 64), (16, 64), (63, 64), (64, 64), (1000, 64), (16, 1024)])
def test_a_window_sees_the_mean_number_of_positions(window, T):
    """Against a sum over all positions; the arithmetic is the integral, half a position per token less."""
    block = lambda window: BlockConfig(AttentionConfig(H=2, K=8, window=window), MLPConfig(F=24))
    c = lm(block(window))
    seen = sum(min(t + 1, window) for t in range(T)) / T
    found = (flops.train_flops(c, T) - 6 * flops.matmul_parameters(c)) / (12 * 2 * 8)
    assert found == pytest.approx(seen, abs=0.5)
    if window >= T:
        assert flops.train_flops(c, T) == flops.train_flops(lm(block(None)), T)


def test_segments_add_up():
    local, whole = (BlockConfig(AttentionConfig(H=2, K=8, window=w), MLPConfig(F=24)) for w in (8, None))
    scores = lambda c: flops.train_flops(c, 64) - 6 * flops.matmul_parameters(c)
    mixed = dataclasses.replace(lm(local), layers=(LayersConfig((local, whole), 3), LayersConfig((whole,), 2)))
    assert scores(mixed) == 3 * scores(lm(local)) + 5 * scores(lm(whole))


def test_recomputation_and_how_it_is_computed_count_nothing():
    for change in ({"remat": "full"}, {"dtype": "bfloat16"}, {"unroll": 3}, {"norm": RMSNormConfig()}):
        assert flops.train_flops(dataclasses.replace(GPT2, **change), 1024) == flops.train_flops(GPT2, 1024)


def test_the_compiler_counts_the_same():
    """A forward pass of one full block, without the causal half, as XLA counts its products."""
    T = 64
    attention = AttentionConfig(H=4, K=64, implementation="reference", rope=None)
    c = lm(BlockConfig(attention, MLPConfig(F=512)), V=512, D=256, tied=False)
    params = jax.eval_shape(lambda: LM(c).init(jax.random.key(0), jnp.zeros((1, T), jnp.int32)))
    tokens = jax.ShapeDtypeStruct((1, T), jnp.int32)
    counted = jax.jit(LM(c).apply).lower(params, tokens).cost_analysis()["flops"] / T
    scores = flops.train_flops(c, T) / 3 - 2 * flops.matmul_parameters(c)
    assert counted == pytest.approx(2 * flops.matmul_parameters(c) + 2 * scores, rel=0.05)
