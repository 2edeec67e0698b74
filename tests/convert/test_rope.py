from typing import Any

import pytest

from jaxlm.convert import lm_config
from jaxlm.ops.rope import DynamicNTK, Linear, Llama3, LongRope, Unscaled, Yarn
from tests.convert.configs import USUAL, read, seen

LOCAL, FULL = "sliding_attention", "full_attention"

SHORT, LONG = [1.0, 1.5], [2.0, 3.0]
LONGROPE = {"short_factor": SHORT, "long_factor": LONG}
SCALINGS = [
    ({}, Unscaled()),
    ({"rope_type": "default"}, Unscaled()),
    ({"rope_type": "linear", "factor": 2}, Linear(2.0)),
    ({"type": "linear", "factor": 2}, Linear(2.0)),
    ({"rope_type": "dynamic", "factor": 2.0}, DynamicNTK(2.0, 64)),
    ({"rope_type": "yarn", "factor": 2.0}, Yarn(2.0, 64)),
    ({"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 16}, Yarn(4.0, 16)),
    ({"rope_type": "yarn", "factor": 2.0, "beta_fast": 8, "beta_slow": 2}, Yarn(2.0, 64, 8.0, 2.0)),
    ({"rope_type": "yarn", "factor": 2.0, "truncate": False}, Yarn(2.0, 64, truncate=False)),
    ({"rope_type": "yarn", "factor": 2.0, "attention_factor": 0.5}, Yarn(2.0, 64, attention=0.5)),
    (
        {"rope_type": "yarn", "factor": 2.0, "mscale": 0.7, "mscale_all_dim": 1},
        Yarn(2.0, 64, mscale=0.7, mscale_all_dim=1.0),
    ),
    ({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1, "high_freq_factor": 4}, Llama3(8.0, 64, 1.0, 4.0)),
    ({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1, "high_freq_factor": 1}, Llama3(8.0, 64, 1.0, 1.0)),
    (
        {"rope_type": "longrope", "original_max_position_embeddings": 16} | LONGROPE,
        LongRope((1.0, 1.5), (2.0, 3.0), 16, 4.0),
    ),
    ({"type": "su", "original_max_position_embeddings": 16} | LONGROPE, LongRope((1.0, 1.5), (2.0, 3.0), 16, 4.0)),
    ({"type": "yarn", "factor": 2.0} | LONGROPE, LongRope((1.0, 1.5), (2.0, 3.0), 64, 2.0)),
    ({"rope_type": "longrope", "attention_factor": 1.2} | LONGROPE, LongRope((1.0, 1.5), (2.0, 3.0), 64, 1.0, 1.2)),
]


@pytest.mark.parametrize("section", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize("said, expected", SCALINGS)
def test_scalings_of_rotary_positions_are_read(section: str, said: dict[str, Any], expected: Any):
    assert seen(read("llama", {section: said}), "mixer.rope.scaling") == [expected] * 4


def test_the_length_is_the_family_s_own_where_the_file_has_none():
    said = {"max_position_embeddings": 16, "rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}
    assert seen(read("llama", said), "mixer.rope.scaling") == [DynamicNTK(2.0, 16)] * 4
    del said["max_position_embeddings"]
    fields = {key: value for key, value in USUAL.items() if key != "max_position_embeddings"} | said
    assert seen(lm_config(fields | {"model_type": "llama"}), "mixer.rope.scaling") == [DynamicNTK(2.0, 2048)] * 4


def test_the_length_beside_the_section_counts_before_the_one_in_it():
    yarn = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 16}
    found = read("llama", {"rope_parameters": yarn, "original_max_position_embeddings": 8})
    assert seen(found, "mixer.rope.scaling") == [Yarn(2.0, 8)] * 4


@pytest.mark.parametrize(
    "kind, base",
    {
        "llama": 1e4,
        "mixtral": 1e6,
        "smollm3": 2e6,
        "cohere": 5e5,
        "cohere2": 1e4,
        "gpt_oss": 1.5e5,
        "llama4_text": 5e5,
        "gpt_neox": 1e4,
        "phi3": 1e4,
    }.items(),
)
def test_the_base_is_in_the_section_or_beside_it_or_the_family_s_own(kind: str, base: float):
    first = lambda **said: read(kind, said).layers[0].blocks[0].mixer.rope.base
    default = {"rope_type": "default"}
    assert first() == first(rope_parameters=default) == base
    assert first(rope_theta=7.0) == first(rope_theta=7.0, rope_scaling=None) == 7.0
    assert first(rope_theta=7.0, rope_parameters=default | {"rope_theta": 8.0}) == 8.0


@pytest.mark.parametrize("kind, usual", [("gpt_neox", 0.25), ("glm", 0.5), ("phi3", 1.0)])
def test_the_rotated_part_of_a_head(kind: str, usual: float):
    first = lambda **said: (
        read(kind, {"head_dim": 16, "hidden_size": 128} | said).layers[0].blocks[0].mixer.rope.fraction
    )
    assert first() == usual
    assert first(partial_rotary_factor=0.75) == 0.75
    assert first(partial_rotary_factor=0.75, rope_parameters={"partial_rotary_factor": 0.5}) == 0.5


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2", "cohere", "llama4_text"])
def test_families_that_rotate_whole_heads_do_so_whatever_the_file_says(kind: str):
    assert read(kind, {"partial_rotary_factor": 0.5}).layers[0].blocks[0].mixer.rope.fraction == 1.0


def test_gpt_neox_has_names_of_its_own():
    rope = read("gpt_neox", {"rotary_pct": 0.5, "rotary_emb_base": 9}).layers[0].blocks[0].mixer.rope
    assert (rope.fraction, rope.base) == (0.5, 9.0)


def test_gemma3_is_found_in_the_models_that_also_see():
    """Published files say no more of it than this."""
    text = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024}
    scaling = {"factor": 8.0, "rope_type": "linear"}
    config = lm_config({"model_type": "gemma3", "text_config": text | {"rope_scaling": scaling}})
    first = config.layers[0].blocks[0].mixer
    assert (config.V, config.depth, first.H, first.G, first.K, first.window) == (262_208, 34, 8, 4, 256, 1024)
    assert seen(config, "mixer.rope.scaling")[4:6] == [Unscaled(), Linear(8.0)]


def test_gemma3_has_two_kinds_of_rotary_positions():
    both = {"sliding_window_pattern": 2}
    base, scaling = (
        (lambda said, p=p: seen(read("gemma3_text", both | said), f"mixer.rope.{p}")[:2]) for p in ("base", "scaling")
    )
    linear, default = {"rope_type": "linear", "factor": 2.0}, {"rope_type": "default", "rope_theta": 5.0}
    assert base({}) == [1e4, 1e6]
    assert base({"rope_theta": 8.0, "rope_local_base_freq": 9.0}) == [9.0, 8.0]
    assert scaling({"rope_scaling": linear}) == [Unscaled(), Linear(2.0)]
    new = {"rope_parameters": {LOCAL: linear, FULL: default}}
    assert base(new) == [1e4, 5.0]
    assert scaling(new) == [Linear(2.0), Unscaled()]
    assert scaling({"rope_parameters": {FULL: linear}}) == [Unscaled(), Linear(2.0)]


def test_yarn_sharpens_latent_attention():
    yarn = {"rope_type": "yarn", "factor": 40.0, "mscale": 1.0, "mscale_all_dim": 1.0}
    said = {"qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "rope_parameters": yarn}
    scale = read("deepseek_v3", said).layers[0].blocks[0].mixer.scale
    assert scale == pytest.approx(10**-0.5 * 1.3688879454113936**2)  # 0.1 ln 40 + 1


def test_gpt_oss_is_stretched_unless_the_file_says_otherwise():
    assert seen(read("gpt_oss", {}), "mixer.rope.scaling") == [Yarn(32.0, 4096, truncate=False)] * 4
    assert (
        seen(read("gpt_oss", {"rope_parameters": {"rope_type": "default"}}), "mixer.rope.scaling") == [Unscaled()] * 4
    )
