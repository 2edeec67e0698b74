"""Every family of the small goldens against what transformers computed: one call of the model computes it all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlm
from jaxlm.convert import lm_config
from jaxlm.errors import UserError
from tests.convert import golden, golden_families
from tests.convert.golden_families import ROWS
from tests.convert.reference import close


@pytest.mark.parametrize("name", golden_families.CONFIGS)
def test_logits_loss_gradients_greedy_and_tensors(name, tmp_path):
    e = golden_families.expected(name)
    lm = jaxlm.load(golden_families.write(tmp_path, name))
    labels_BT1 = jnp.asarray(e["tokens"][:ROWS, 1:, None], jnp.int32)

    def loss(params):
        logits_BTV = lm.logits(e["tokens"], e["mask"], params=params)
        chances = jax.nn.log_softmax(logits_BTV[:ROWS, :-1])
        return -jnp.take_along_axis(chances, labels_BT1, -1).mean(), logits_BTV

    (value, logits), found = jax.jit(jax.value_and_grad(loss, has_aux=True))(lm.params)
    close(logits, e["logits"], e["mask"])
    np.testing.assert_allclose(value, e["loss"], rtol=1e-5)
    following = np.asarray(logits)[-ROWS:].argmax(-1)[:, -e["greedy"].shape[1] - 1 : -1]
    np.testing.assert_array_equal(following, e["greedy"])
    gradients, weights = lm.to_hf(found), lm.to_hf()
    assert {key: x.shape for key, x in gradients.items()} == e["tensors"]
    for key, x in golden.weights(e["tensors"], int(e["seed"])).items():
        np.testing.assert_array_equal(weights[key], x, err_msg=key)
    for key, norm, projection in zip(e["tensors"], e["gradients"], e["projections"]):
        d, size = np.float64(gradients[key]), max(1e-3 * norm, 1e-6)
        assert abs(np.linalg.norm(d) - norm) < size, key
        assert abs(np.sum(d * golden.noise(key, d.shape, int(e["seed"]) + 1)) - projection) < size, key


HYBRID = {"num_hidden_layers": 3, "hybrid_override_pattern": "ME*"}
WRONG = [  # a golden, what its file says instead, and the line that names it
    (
        "nemotron_h",
        HYBRID | {"num_hidden_layers": 4},
        "hybrid_override_pattern has 3 layers, but num_hidden_layers is 4",
    ),
    (
        "nemotron_h",
        HYBRID | {"hybrid_override_pattern": "MX*"},
        r"hybrid_override_pattern has 'X': known are M, \*, -, E",
    ),
    ("nemotron_h", {"use_bias": True}, "use_bias is true"),
    ("qwen3_5", {"layer_types": ["full_attention"]}, "layer_types has 1 entries, but num_hidden_layers is 2"),
    ("qwen3_next", {"layer_types": ["conv", "conv"]}, "layer_types has 'conv': known are linear_attention, full_"),
    ("qwen3_5", {"linear_num_key_heads": 3}, "G=3 heads of keys must divide H=4"),
    ("granitemoehybrid", {"layer_types": ["mamba", "mlp"]}, "layer_types must say mamba or attention for each of 2"),
    ("granitemoehybrid", {"mamba_d_head": 7}, "mamba_n_heads 4 of width 7 are not mamba_expand times hidden_size 16"),
    ("bamba", {"attn_layer_indices": [2]}, "attn_layer_indices has 2, but there are 2 layers"),
    ("lfm2", {"layer_types": ["conv"]}, "layer_types must say conv or full_attention for each of 2 layers"),
    ("glm4_moe", {"mlp_layer_types": ["dense"]}, "mlp_layer_types must say dense or sparse for each of 2 layers"),
    ("glm4_moe", {"scoring_func": "softmax"}, "scoring_func 'softmax' is not supported: sigmoid"),
    ("mimo_v2_flash", {"swa_head_dim": 16}, "swa_head_dim is not that of global layers, 12"),
    ("phimoe", {"num_experts_per_tok": 1}, "num_experts_per_tok must be 2"),
    ("olmoe", {"clip_qkv": 1.0}, "clip_qkv behind the norms is not supported"),
    ("hunyuan_v1_moe", {"moe_topk": [1, 2]}, "moe_topk differs between layers"),
    ("stablelm", {"qk_layernorm": True}, "qk_layernorm is true"),
    ("gpt_neo", {"attention_types": [[["global"], 1]]}, "attention_types must name 2 layers global or local"),
    ("gpt_neo", {"attention_types": [3]}, "attention_types must be pairs of a list and a number"),
    ("gptj", {"rotary_dim": 64}, "rotary_dim 64 is more than a head's width, 4"),
    ("dbrx", {"ffn_config": {"moe_normalize_expert_weights": 2.0}}, "moe_normalize_expert_weights must be 1"),
]


@pytest.mark.parametrize("name, said, line", WRONG)
def test_a_contradiction_has_one_line(name, said, line):
    with pytest.raises(UserError, match=f"^config.json: .*{line}"):
        lm_config(golden_families.config(name) | said)
