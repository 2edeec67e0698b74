"""GGUF files: written and read again, opened by the gguf library, and refused where they are damaged."""

import struct

import jax
import numpy as np
import pytest

import jaxlm
from jaxlm.api import LanguageModel
from jaxlm.convert import Source, lm_config
from jaxlm.convert.families import find
from jaxlm.convert.gguf import GGUF, Entry, write
from jaxlm.errors import UserError
from jaxlm.ops import leaves
from jaxlm.ops.leaves import Blocks
from tests.weights import weights

gguf = pytest.importorskip("gguf", reason="needs the gguf library: pip install gguf")
TOKENS = np.arange(12).reshape(2, 6) + 5
SIZES = {
    **{"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 6, "head_dim": 32},
    **{"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64},
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
FAMILIES = {
    "llama": {"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 8192}, "rope_theta": 500_000.0},
    "qwen2": {"head_dim": 16},
    "qwen3": {"tie_word_embeddings": True},
    "olmo2": {"head_dim": 16},
    "gemma2": {"query_pre_attn_scalar": 32, "sliding_window": 4},
    "gemma3_text": {"query_pre_attn_scalar": 32, "sliding_window": 4, "rms_norm_eps": 1e-5},
}


def made(model_type: str, **more) -> LanguageModel:
    fields = {"model_type": model_type, **SIZES, **FAMILIES[model_type], **more}
    config = lm_config(fields)
    params = weights(config.build(), np.zeros((1, 1), np.int32))
    return LanguageModel(config, params, None, Source(find(fields)[0], fields))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_there_and_back(name, tmp_path):
    """Rows of q and k, norms with their 1, scaled frequencies and tied heads lie as each architecture has them."""
    lm = made(name)
    lm.save_gguf(tmp_path / "m.gguf", "F32")
    again = jaxlm.load(tmp_path / "m.gguf")
    assert again.config == lm.config
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), again.params, lm.params)
    theirs = {tensor.name for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert theirs == set(GGUF(tmp_path / "m.gguf").tensors)


@pytest.fixture(scope="module")
def quantised(tmp_path_factory):
    """A model of widths that blocks divide, of 8 bits."""
    lm, path = made("qwen3", num_hidden_layers=3), tmp_path_factory.mktemp("gguf") / "m.gguf"
    lm.save_gguf(path, "Q8_0")
    return lm, path


def test_matrices_keep_their_bytes(quantised):
    """8.5 bits a weight, dense one layer at a time; the logits are those of the dense weights."""
    lm, path = quantised
    again = jaxlm.load(path)
    leaf = again.params["segment_0"]["periods"]["block_0"]["ffn"]["down"]
    assert isinstance(leaf, Blocks) and leaf.raw.nbytes == 3 * 32 * 64 * 34 // 32
    dense = lm.params["segment_0"]["periods"]["block_0"]["ffn"]["down"]
    assert 0 < np.abs(leaf.dense() - dense).max() <= np.abs(dense).max() / 254 + 1e-6
    plain = LanguageModel(again.config, leaves.dense(again.params), None)
    np.testing.assert_allclose(again.logits(TOKENS), plain.logits(TOKENS), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(again.generate(TOKENS, 4).tokens, plain.generate(TOKENS, 4).tokens)


def test_layers_of_several_kinds_in_one_stack(quantised, tmp_path):
    """As files of mixed precision have them."""
    _, path = quantised
    file, mixed = GGUF(path), {}
    for name, entry in file.tensors.items():
        rows = file.read(name)
        if name == "blk.1.ffn_down.weight":
            w = jaxlm.convert.gguf.dequantize(rows, "Q8_0")
            entry, rows = Entry("Q4_0", entry.shape, 0), jaxlm.convert.gguf.quantize(w, "Q4_0")
        mixed[name] = (entry, rows)
    write(tmp_path / "m.gguf", file.metadata, [(name, *both) for name, both in mixed.items()])
    before, after = jaxlm.load(path).params, jaxlm.load(tmp_path / "m.gguf").params
    down = lambda params: np.asarray(params["segment_0"]["periods"]["block_0"]["ffn"]["down"].dense())
    np.testing.assert_array_equal(down(after)[[0, 2]], down(before)[[0, 2]])
    assert 0 < np.abs(down(after)[1] - down(before)[1]).max() < 0.2
    jaxlm.load(tmp_path / "m.gguf").logits(TOKENS)


def test_values_come_back(tmp_path):
    values = {"a": "text", "b": 3, "c": -3, "d": True, "e": [1, 2], "f": ["x", "ñ"], "g": [0.5], "h": []}
    write(tmp_path / "m.gguf", values, [("t", Entry("F32", (2, 3), 0), np.ones((2, 3), np.float32))])
    assert GGUF(tmp_path / "m.gguf").metadata == values
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    assert [field.contents() for key, field in reader.fields.items() if len(key) == 1][:7] == list(values.values())[:7]


@pytest.mark.parametrize("cut", [3, 20, 200, 2_000, 10_000])
def test_a_file_cut_short(quantised, tmp_path, cut):
    data = quantised[1].read_bytes()
    assert len(data) > cut
    (tmp_path / "m.gguf").write_bytes(data[:cut])
    with pytest.raises(UserError, match=r"m\.gguf"):
        jaxlm.load(tmp_path / "m.gguf")


def test_damage_is_one_line(quantised, tmp_path):
    data, path = quantised[1].read_bytes(), tmp_path / "m.gguf"

    def refused(changed: bytes, match: str) -> None:
        path.write_bytes(changed)
        with pytest.raises(UserError, match=match) as error:
            jaxlm.load(path)
        assert "\n" not in str(error.value)

    refused(b"GGML" + data[4:], "is no GGUF file")
    refused(data[:4] + struct.pack("<I", 1) + data[8:], "of GGUF version 1")
    refused(data[:8] + struct.pack("<Q", 10**12) + data[16:], "damaged or cut short")
    at = data.index(b"blk.0.ffn_down.weight") + len(b"blk.0.ffn_down.weight") + 4 + 16
    refused(data[:at] + struct.pack("<I", 19) + data[at + 4 :], "is of kind IQ1_S")
    refused(data[: at + 4] + struct.pack("<Q", 2**40) + data[at + 12 :], r"blk\.0\.ffn_down\.weight ends at byte")
    refused(data.replace(b"\x05\x00\x00\x00\x00\x00\x00\x00qwen3", b"\x05\x00\x00\x00\x00\x00\x00\x00qwen9"), "qwen9")


def test_what_is_not_written(quantised, tmp_path):
    with pytest.raises(UserError, match=r"of a gemma2 has no place for layers\[0\]\.blocks\[0\]\.mixer\.scale 0\.25"):
        made("gemma2", query_pre_attn_scalar=16).save_gguf(tmp_path / "m.gguf")
    with pytest.raises(UserError, match="Q4_K"):
        quantised[0].save_gguf(tmp_path / "m.gguf", "Q4_K")
    assert not list(tmp_path.iterdir())
