"""Models that see and read: their text part is found under the names that published files give it."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxlm
from jaxlm.api import LanguageModel
from jaxlm.convert import lm_config
from jaxlm.models import LM
from tests.weights import weights

SIZES = {"vocab_size": 20, "hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4}
TEXTS = {
    "gemma3": {"model_type": "gemma3_text", "num_hidden_layers": 7, "intermediate_size": 12, "sliding_window": 4},
    "llama4": {
        "model_type": "llama4_text",
        "num_hidden_layers": 4,
        "intermediate_size": 12,
        "intermediate_size_mlp": 16,
        "interleave_moe_layer_step": 2,
        "num_local_experts": 2,
    },
}
PREFIXES = {
    "published": lambda name: f"language_model.{name}",
    "newer": lambda name: name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name,
}


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("kind", TEXTS)
def test_the_text_model_of_a_wrapper(tmp_path, kind, prefix):
    config = lm_config(SIZES | TEXTS[kind])
    lm = LanguageModel(config, weights(LM(config), np.zeros((1, 1), np.int32)), None)
    lm.save(tmp_path / "text")
    tensors = load_file(tmp_path / "text" / "model.safetensors")
    renamed = {PREFIXES[prefix](name): x for name, x in tensors.items()}
    seeing = {"vision_tower.x.weight": np.ones((3, 3), np.float32), "multi_modal_projector.y": np.ones(2, np.float32)}
    (tmp_path / "all").mkdir()
    save_file(renamed | seeing, tmp_path / "all" / "model.safetensors")
    fields = {"model_type": kind, "text_config": json.loads((tmp_path / "text" / "config.json").read_text())}
    (tmp_path / "all" / "config.json").write_text(json.dumps(fields | {"vision_config": {"depth": 3}}))
    found = jaxlm.load(tmp_path / "all")
    assert found.config == config
    jax.tree.map(np.testing.assert_array_equal, found.params, lm.params)
    found.save(tmp_path / "again")  # as a text model
    assert set(load_file(tmp_path / "again" / "model.safetensors")) == set(tensors)
