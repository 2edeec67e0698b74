import dataclasses

import jax
import jax.numpy as jnp
import pytest

from jaxlm import config
from jaxlm.models import LM, LMConfig, flops
from jaxlm.nn import (
    AttentionConfig,
    BlockConfig,
    LearnedConfig,
    MLPConfig,
    RMSNormConfig,
    SegmentConfig,
    SinusoidalConfig,
)

GPT2 = config.resolve("gpt2_124m").model


def lm(*blocks: BlockConfig, repeat: int = 1, **changes) -> LMConfig:
    return LMConfig(**{"V": 50, "D": 16, "segments": (SegmentConfig(blocks, repeat),)} | changes)


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
    mixed = dataclasses.replace(lm(local), segments=(SegmentConfig((local, whole), 3), SegmentConfig((whole,), 2)))
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
