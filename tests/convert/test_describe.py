import dataclasses

import chex
import jax
import numpy as np
import pytest

import jaxlm
from jaxlm import cli
from jaxlm.api import LanguageModel
from jaxlm.convert import describe
from jaxlm.errors import UserError
from jaxlm.models import LM
from jaxlm.nn import AttentionConfig, BlockConfig, LayerNormConfig, LearnedConfig, MLPConfig, SegmentConfig
from jaxlm.text import ByteTokenizer
from tests import tiny
from tests.test_api import write_run
from tests.weights import weights


def gpt2():
    attention = AttentionConfig(4, 8, rope=None, bias=True, bias_out=True)
    block = BlockConfig(attention, MLPConfig(100, "gelu_tanh", gated=False, bias=True), LayerNormConfig())
    return tiny.model(segments=(SegmentConfig((block,), 2),), positions=LearnedConfig(24), norm=LayerNormConfig())


def changed(config, **changes):
    """The config with this changed in every block's mixer."""
    block = config.segments[0].blocks[0]
    block = dataclasses.replace(block, mixer=dataclasses.replace(block.mixer, **changes))
    return dataclasses.replace(config, segments=(dataclasses.replace(config.segments[0], blocks=(block,)),))


@pytest.mark.parametrize(
    "config, kind",
    [
        (tiny.model(), "llama"),
        (tiny.model(tied=False, dtype="bfloat16", remat="full", dropout=0.1), "llama"),
        (changed(tiny.model(), G=None, implementation="reference"), "llama"),
        (changed(tiny.model(), bias=True, bias_out=True), "llama"),
        (gpt2(), "gpt2"),
    ],
    ids=["tied", "untied", "multi-head", "biased", "gpt2"],
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


def test_a_model_of_no_family(tmp_path):
    message = r"no family .* like this one; the nearest is llama, which differs in .*mixer\.by_depth: false -> true"
    config = changed(tiny.model(), by_depth=True)
    with pytest.raises(UserError, match=message):
        describe(config)
    lm = LanguageModel(config, weights(LM(config), np.zeros((1, 1), np.int32)), None)
    with pytest.raises(UserError, match=message):
        lm.save(tmp_path / "hf")
    assert not (tmp_path / "hf").exists()
