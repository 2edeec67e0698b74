"""What a folder may get wrong and still be understood: tensors under other names, keys that are misspelt."""

import json
import warnings

import chex
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxlm
from jaxlm.convert import lm_config
from tests.convert import checkpoints, golden
from tests.convert.checkpoints import GPT2, LLAMA
from tests.convert.configs import read

# Names of tensors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "gemma3", "opt", "arcee"])
def test_a_tied_model_whose_file_has_only_the_head(tmp_path, name):
    """As some programs write it (huggingface/transformers#43159): loaded as the embedding, saved under its name."""
    folder = golden.write(tmp_path / "a", name)
    whole, tensors = jaxlm.load(folder), load_file(folder / "model.safetensors")
    assert whole.config.tied
    table = next(key for key in tensors if key.endswith(("embed_tokens.weight", "wte.weight")))
    save_file(
        {"lm_head.weight" if key == table else key: x for key, x in tensors.items()}, folder / "model.safetensors"
    )
    lm = jaxlm.load(folder)
    assert lm.config == whole.config
    chex.assert_trees_all_equal(lm.params, whole.params)
    lm.save(tmp_path / "b")
    assert load_file(tmp_path / "b/model.safetensors").keys() == tensors.keys()


RENAMED = {
    "the inner model": (LLAMA, lambda name: name.removeprefix("model."), "'' where 'model.' is usual"),
    "compiled": (LLAMA, "_orig_mod.{}".format, "'_orig_mod.' where '' is usual"),
    "parallel": (LLAMA, "module.{}".format, "'module.' where '' is usual"),
    "compiled inside": (LLAMA, lambda name: name.replace("model.", "model._orig_mod."), "'model._orig_mod.' where "),
    "gpt2": (GPT2, "_orig_mod.{}".format, "'_orig_mod.' where '' is usual"),
    "short gpt2": (GPT2, lambda name: name.replace("transformer.", "_orig_mod."), "'_orig_mod.' where 'transformer.'"),
}


@pytest.mark.parametrize("fields, rename, said", RENAMED.values(), ids=RENAMED)
def test_names_behind_another_prefix(tmp_path, fields, rename, said):
    """One for all names: read, said in a line, and saved under the usual names."""
    tensors = checkpoints.llama() if fields is LLAMA else checkpoints.gpt2()
    folder = checkpoints.write(tmp_path, {rename(name): x for name, x in tensors.items()}, fields)
    lines: list[str] = []
    found = jaxlm.load(folder, say=lines.append).to_hf()
    assert len(lines) == 2 and lines[0].startswith(f"names of tensors begin with {said}")
    assert found.keys() == tensors.keys() and all(np.array_equal(found[name], tensors[name]) for name in tensors)


def test_a_prefix_that_not_all_names_have(tmp_path):
    renamed = {f"_orig_mod.{name}" if "layers.1" not in name else name: x for name, x in checkpoints.llama().items()}
    with pytest.raises(jaxlm.UserError, match=r"9 tensors are missing: _orig_mod\.model\.layers\.1\..*; 9 .* unknown"):
        jaxlm.load(checkpoints.write(tmp_path, renamed, LLAMA))


# Keys of config.json --------------------------------------------------------------------------------------------------

YARN = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 16}
OTHER = {"kriginal_max_position_embeddings": 16, "rope_type": "yarn", "factor": 2.0}


@pytest.mark.parametrize(
    "kind, said, wrong, right",
    [
        ("llama", {"Rope_parameters": YARN}, "Rope_parameters", "rope_parameters"),
        ("llama", {"rope_scaling": OTHER}, "rope_scaling.kriginal_max_pos", "original_max_position_embeddings"),
        ("llama", {"rope_scaling": {"tyre": "linear", "factor": 2.0}}, "rope_scaling.tyre", "type"),
        ("llama", {"rope_scaling": {"tpye": "linear", "factor": 2.0}}, "rope_scaling.tpye", "type"),
        ("llama", {"num_key_valu_heads": 2}, "num_key_valu_heads", "num_key_value_heads"),
        ("llama", {"tie_word_embedding": True}, "tie_word_embedding", "tie_word_embeddings"),
        ("llama", {"dtypf": "bfloat16"}, "dtypf", "dtype"),
        ("llama", {"quantization_confih": {}}, "quantization_confih", "quantization_config"),
        ("gemma3_text", {"sliding_vindow": 3}, "sliding_vindow", "sliding_window"),
        ("gemma3_text", {"rope_scaling": {"rope_tipe": "linear"}}, "rope_scaling.rope_tipe", "rope_type"),
        ("gemma3_text", {"rope_parameters": {"full_attentiom": {}}}, "rope_parameters.full_", "full_attention"),
        ("mpt", {"attn_config": {"clip_qkw": 3.0}}, "attn_config.clip_qkw", "clip_qkv"),
        ("opt", {"_removf_final_layer_norm": True}, "_removf_final_layer_norm", "_remove_final_layer_norm"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_misspelt_key_is_named_beside_the_one_that_was_meant(kind, said, wrong, right):
    with pytest.warns(UserWarning, match=rf"config\.json: .* may be misspelt: '{wrong}\S* for '{right}'$"):
        read(kind, said | ({"sliding_window_pattern": 2} if kind == "gemma3_text" else {}))


def test_unknown_keys_far_from_known_ones_are_ignored():
    read("llama", {"a_key_that_nobody_knows": 1, "sliding_window_size": 3, "rope": {}, "_hidden_act": "silu"})


def test_no_published_config_is_suspected(shared):
    """Warnings are errors in tests."""
    read_some = 0
    for path in sorted([*shared.glob("data/configs/*.json"), *shared.glob("parity/*/config.json")]):
        fields = json.loads(path.read_text())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                lm_config(fields)
                read_some += 1
            except jaxlm.UserError:  # of a family that is not known
                continue
    assert read_some > 20
