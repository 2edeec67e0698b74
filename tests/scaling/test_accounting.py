import dataclasses
import math

import pytest

from jaxlm import config
from jaxlm.models import flops
from jaxlm.scaling import Part, chinchilla_flops, matrices, parts, summary
from tests import tiny

GPT3 = config.resolve("gpt3_175b").model
D, V, L, F, H, K, T = 12288, 50257, 96, 49152, 96, 128, 2048

TABLE_D1 = {  # Brown et al. 2020, arXiv:2005.14165: PF-days, FLOPs, millions of parameters
    "gpt3_small": (2.60, 2.25e20, 125),
    "gpt3_medium": (7.42, 6.41e20, 356),
    "gpt3_large": (15.8, 1.37e21, 760),
    "gpt3_xl": (27.5, 2.38e21, 1_320),
    "gpt3_2_7b": (55.2, 4.77e21, 2_650),
    "gpt3_6_7b": (139, 1.20e22, 6_660),
    "gpt3_13b": (268, 2.31e22, 12_850),
    "gpt3_175b": (3_640, 3.14e23, 174_600),
}


@pytest.mark.parametrize(
    "name", ["gpt3_175b", "deepseek_v3", "gpt_oss_20b", "gemma3_1b", "opt_350m", "diffllama_375m", "bloom_560m"]
)
def test_parts_and_matrices_sum_to_the_totals(name):
    run = config.resolve(name)
    total = sum(parts(run.model, run.data.T).values(), Part())
    assert total.parameters == flops.parameters(run.model) == sum(m.parameters for m in matrices(run.model))
    assert total.active == pytest.approx(flops.active_parameters(run.model), abs=2)
    assert total.train_flops == pytest.approx(flops.train_flops(run.model, run.data.T), rel=1e-12)


def test_parts_of_gpt3_by_hand():
    found = parts(GPT3, T)
    assert found["embedding"].parameters == (V + T) * D and found["embedding"].forward_flops == 0
    assert found["attention"].parameters == L * (4 * D * D + 4 * D)
    assert found["feed-forward"].parameters == L * (2 * D * F + F + D)
    assert found["norms"].parameters == (2 * L + 1) * 2 * D
    assert found["head"].parameters == 0 and found["head"].forward_flops == 2 * V * D  # tied
    assert found["attention"].forward_flops == 2 * L * 4 * D * D
    assert found["attention scores"].forward_flops == 2 * L * D * T  # half of all pairs are visible


def test_experts_are_all_counted_and_some_active():
    found = parts(config.resolve("mixtral_8x7b").model, 4096)["feed-forward"]
    router, expert = 32 * 4096 * 8, 32 * 3 * 4096 * 14336
    assert (found.parameters, found.active) == (router + 8 * expert, router + 2 * expert)


def test_the_lecture_table_of_gpt3s_matrices():
    """3Blue1Brown, "How might LLMs store facts" (2024): a head of its own, no positions, biases and norms left out."""
    by_name = {m.name: m for m in matrices(dataclasses.replace(GPT3, tied=False, positions=None))}
    expected = {
        "embed.table": 617_558_016,
        "mixer.k": 14_495_514_624,
        "mixer.q": 14_495_514_624,
        "mixer.v": 14_495_514_624,
        "mixer.o": 14_495_514_624,
        "ffn.up": 57_982_058_496,
        "ffn.down": 57_982_058_496,
        "head": 617_558_016,
    }
    vectors = by_name.pop("vectors").parameters
    assert {name: m.parameters for name, m in by_name.items()} == expected
    assert sum(expected.values()) == 175_181_291_520
    assert by_name["mixer.k"].shape == (D, H, K) and by_name["mixer.k"].count == L
    # What is in ours and not in the lecture's: positions, biases (13 D a layer with norms), the last norm; not a head.
    assert vectors == L * 13 * D + 2 * D
    assert flops.parameters(GPT3) == 175_181_291_520 - V * D + T * D + vectors == 174_604_259_328


def test_matrices_of_experts_are_counted_one_by_one():
    by_name = {(m.name, m.shape): m.count for m in matrices(config.resolve("mixtral_8x7b").model)}
    assert by_name["ffn.up", (4096, 14336)] == 32 * 8
    assert by_name["ffn.router", (4096, 8)] == 32


@pytest.mark.parametrize("name", TABLE_D1)
def test_the_training_compute_of_gpt3(name):
    pf_days, total, millions = TABLE_D1[name]
    row = summary(config.resolve(name))
    assert row["tokens"] == pytest.approx(300e9, rel=1e-4)
    assert row["parameters"] / 1e6 == pytest.approx(millions, rel=0.004)
    assert row["6 N D"] == pytest.approx(total, rel=0.006)  # the table's three digits
    assert row["PF-days"] == pytest.approx(pf_days, rel=0.006)
    assert row["12 L D^2"] < row["parameters"] and row["FLOPs"] > row["6 N D"]


def test_the_rules_come_close_for_the_largest():
    row = summary(config.resolve("gpt3_175b"))
    assert row["12 L D^2"] == 12 * L * D**2 == pytest.approx(row["parameters"], rel=0.004)
    assert row["of 6 N D"] == pytest.approx(1.0136, abs=1e-4)
    assert row["FLOPs"] == pytest.approx(flops.train_flops(GPT3, T) * row["tokens"])


def test_chinchillas_count_by_their_own_list():
    """Appendix F of arXiv:2203.15556, line by line for a whole text."""
    embeddings = 2 * T * V * D
    attention = (
        2 * 3 * T * D * (K * H) + 2 * T * T * (K * H) + 3 * H * T * T + 2 * T * T * (K * H) + 2 * T * (K * H) * D
    )
    dense = 2 * T * (D * F + D * F)
    forward = embeddings + L * (attention + dense) + 2 * T * D * V
    assert chinchilla_flops(GPT3, T) == pytest.approx(3 * forward / T, rel=1e-12)
    assert chinchilla_flops(config.resolve("deepseek_v3").model, T) is None  # not of their kind
    assert chinchilla_flops(GPT3, T) / flops.train_flops(GPT3, T) == pytest.approx(1.0173, abs=1e-4)


def test_a_part_is_of_a_token_and_training_is_three_passes():
    part = parts(tiny.model(), 32)["feed-forward"]
    assert part.train_flops == 3 * part.forward_flops == 6 * part.active == 6 * 2 * 3 * 32 * 64
    assert math.isclose(Part(1, 1, 2.0).train_flops, 6.0)
