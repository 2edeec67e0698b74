import dataclasses
import json
import re

import chex
import jax
import numpy as np
import pytest

import jaxlm
from jaxlm import cli
from jaxlm.api import LanguageModel
from jaxlm.config import resolve
from jaxlm.convert import describe
from jaxlm.errors import UserError
from jaxlm.models import LM
from jaxlm.nn import (
    AttentionConfig,
    BlockConfig,
    BranchConfig,
    BranchesConfig,
    LayerNormConfig,
    LayersConfig,
    LearnedConfig,
    LinearAttentionConfig,
    LSTMConfig,
    MLAConfig,
    MLPConfig,
    MoEConfig,
    QKNormConfig,
    RMSNormConfig,
    RopeConfig,
)
from jaxlm.ops.rope import Yarn
from jaxlm.text import ByteTokenizer
from tests import tiny
from tests.test_api import write_run
from tests.weights import weights

RELU2 = MLPConfig(64, "relu2", gated=False)
EXPERTS = MoEConfig(E=4, top_k=2, F=16, shared=1)
MLA = MLAConfig(H=4, K=8, R=4, J=8, L=16)
BRANCHES = BranchesConfig((BranchConfig("ffn1", RELU2), BranchConfig("lstm", LSTMConfig(16, H=2))))
BLOCK = tiny.model().layers[0].blocks[0]


def gpt2():
    attention = AttentionConfig(4, 8, rope=None, bias=True, bias_out=True)
    block = BlockConfig(attention, MLPConfig(100, "gelu_tanh", gated=False, bias=True), LayerNormConfig())
    return tiny.model(layers=(LayersConfig((block,), 2),), positions=LearnedConfig(24), norm=LayerNormConfig())


def changed(config, **changes):
    """The config with this changed in every block's mixer."""
    block = config.layers[0].blocks[0]
    block = dataclasses.replace(block, mixer=dataclasses.replace(block.mixer, **changes))
    return dataclasses.replace(config, layers=(dataclasses.replace(config.layers[0], blocks=(block,)),))


@pytest.mark.parametrize(
    "config, kind",
    [
        (tiny.model(), "llama"),
        (tiny.model(tied=False, dtype="bfloat16", remat="full", dropout=0.1), "llama"),
        (changed(tiny.model(), G=None, implementation="reference"), "llama"),
        (changed(tiny.model(), bias=True, bias_out=True), "llama"),
        (gpt2(), "gpt2"),
        (tiny.model(layers=(LayersConfig((BlockConfig(AttentionConfig(4, 8), RELU2),), 2),)), "arcee"),
    ],
    ids=["tied", "untied", "multi-head", "biased", "gpt2", "arcee"],
)
def test_models_made_here_are_saved_and_come_back(tmp_path, config, kind):
    lm = LanguageModel(config, weights(LM(config), np.zeros((1, 1), np.int32)), ByteTokenizer())
    lm.save(tmp_path)
    again = jaxlm.load(tmp_path)
    chex.assert_trees_all_equal(jax.device_get(again.params), lm.params)
    assert kind in again.source.family.MODEL_TYPES and again.tokenizer.V == 257
    assert again.source.fields["model_type"] == kind and ("n_embd" in again.source.fields) == (kind == "gpt2")
    tokens = np.array([[1, 2, 3]])
    plain = LanguageModel(dataclasses.replace(config, dtype="float32"), lm.params, None)
    np.testing.assert_allclose(again.logits(tokens), plain.logits(tokens), atol=1e-5)


def test_a_run_is_converted(tmp_path, capsys):
    write_run(tmp_path / "run")
    assert cli.main(["convert", str(tmp_path / "run"), str(tmp_path / "hf")]) == 0
    a, b = jaxlm.load(tmp_path / "run"), jaxlm.load(tmp_path / "hf")
    chex.assert_trees_all_equal(a.params, b.params)
    assert a.generate("ab", 5).texts == b.generate("ab", 5).texts


@pytest.mark.parametrize(
    "changes",
    [
        {"mixer": AttentionConfig(4, 8, scale_by_layer=True), "ffn": RELU2},
        {"mixer": AttentionConfig(4, 8, qk_norm=QKNormConfig(RMSNormConfig())), "ffn": EXPERTS},
    ],
    ids=["dense", "experts"],
)
def test_a_model_of_no_family(tmp_path, changes):
    """It is written in a layout of our own: the same config, the same bits, the same tokenizer; and so again."""
    first, plain = BlockConfig(**changes), tiny.model().layers[0]
    layers = (LayersConfig((first,), 1), plain, LayersConfig((first, plain.blocks[0]), 2))
    config = tiny.model(layers=layers, tied=False, dtype="bfloat16", remat="full", dropout=0.1)
    lm = LanguageModel(config, weights(LM(config), np.zeros((1, 1), np.int32)), ByteTokenizer())
    lines: list[str] = []
    lm.save(tmp_path / "a", say=lines.append, max_shard_size="10KB")
    assert lines[-1].startswith("no family of Hugging Face's layout has models like this one")
    jaxlm.load(tmp_path / "a").save(tmp_path / "b")
    again = jaxlm.load(tmp_path / "b")
    assert again.config == config and again.tokenizer.V == 257 and not diff_of_files(tmp_path / "a", tmp_path / "b")
    chex.assert_trees_all_equal(jax.device_get(again.params), lm.params)
    assert set(again.to_hf()) == {tensor.name for tensor in describe(config).tensors(config)}
    assert jaxlm.load(tmp_path / "b", dtype="float32").config.dtype == "float32"


@pytest.mark.parametrize(
    "config, kind",
    [
        (tiny.model(logit_scale=0.0), "jaxlm"),
        (changed(tiny.model(), scale=0.0), "granite"),
        (changed(tiny.model(), scale=1e-300), "granite"),
        (changed(tiny.model(), rope=RopeConfig(scaling=Yarn(3e38, 64)), scale_by_layer=True), "jaxlm"),
        (tiny.model(layers=(LayersConfig((BlockConfig(LinearAttentionConfig(4, 8), RELU2),), 2),)), "jaxlm"),
        (tiny.model(layers=(LayersConfig((BlockConfig(AttentionConfig(4, 8), None),), 2),)), "jaxlm"),
        (tiny.model(layers=(LayersConfig((BRANCHES, BLOCK), 2),)), "jaxlm"),
        (tiny.model(layers=(LayersConfig((BLOCK, dataclasses.replace(BLOCK, mixer=MLA)), 1),)), "jaxlm"),
    ],
    ids=["no logits", "no scores", "nearly none", "stretched for ever", "linear", "no ffn", "branches", "two kinds"],
)
def test_unusual_models_have_a_layout_too(config, kind):
    source = describe(config)
    assert source.fields["model_type"] == kind and len(list(source.tensors(config))) > 5


def diff_of_files(a, b) -> list[str]:
    """The files beside the weights that differ."""
    names = {path.name for path in (*a.iterdir(), *b.iterdir()) if not path.name.startswith("model")}
    return [name for name in names if (a / name).read_bytes() != (b / name).read_bytes()]


@pytest.mark.parametrize(
    "said, message",
    [
        ({"config": ...}, "config is missing"),
        ({"config": 3}, "config must be an object"),
        ({"config": {"type": "os.system"}}, "it must name a config class of jaxlm"),
        ({"config": {"type": "jaxlm.nn.mlp.MLPConfig", "F": 3}}, "config must describe a model, not a MLPConfig"),
        ({"config.D": 40}, "of another shape than config.json says"),
        ({"config.D": -1}, "D=-1 must be at least 1"),
        ({"config.depth": 3}, "unknown key 'depth'"),
    ],
    ids=str,
)
def test_a_layout_of_our_own_that_is_damaged(tmp_path, said, message):
    config = changed(tiny.model(), scale_by_layer=True, qk_norm=QKNormConfig(RMSNormConfig()))
    LanguageModel(config, weights(LM(config), np.zeros((1, 1), np.int32)), None).save(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    for key, value in said.items():
        inside, _, name = key.rpartition(".")
        (fields[inside] if inside else fields)[name] = value
    kept = {key: value for key, value in fields.items() if value is not ...}
    (tmp_path / "config.json").write_text(json.dumps(kept))
    with pytest.raises(UserError, match=re.escape(message)):
        jaxlm.load(tmp_path)


@pytest.mark.parametrize("name, kind", [("quickstart", "arcee"), ("shakespeare", "arcee"), ("gpt(depth=1)", "apertus")])
def test_shipped_runs_have_a_layout(name, kind):
    model = resolve(name).model
    source = describe(model)
    assert source.fields["model_type"] == kind and len(list(source.tensors(model))) > 5
