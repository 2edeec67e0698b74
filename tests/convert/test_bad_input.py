"""Folders from strangers: each mistake and each damage is one line that names it, and nothing outside is opened."""

import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save, save_file

import jaxlm
from jaxlm import cli
from jaxlm.convert import lm_config
from tests.convert import checkpoints
from tests.convert.checkpoints import LLAMA, NO_PATHS


@pytest.fixture
def folder(tmp_path) -> Path:
    return checkpoints.write(tmp_path / "model", checkpoints.llama(), LLAMA)


@pytest.fixture
def refused(folder, capsys):
    """What the command line says of the folder (or of this path), in one line."""

    def run(path: Path | None = None) -> str:
        assert cli.main(["convert", str(path or folder), str(folder.parent / "out")]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("jaxlm: error: ") and err.count("\n") == 1 and len(err) < 800, (out, err)
        assert not (folder.parent / "out").exists()
        return err.removeprefix("jaxlm: error: ").rstrip()

    return run


# config.json ---------------------------------------------------------------------------------------------------------


def config(folder: Path, **fields) -> None:
    kept = {key: value for key, value in (LLAMA | fields).items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(kept))


@pytest.mark.parametrize(
    "text, message",
    [
        (b"", "config.json is not valid JSON"),
        (b"{", "config.json is not valid JSON"),
        (b'{"model_type": "ll\xff"}', "config.json is not valid JSON"),
        (b"[" * 100_000, "config.json is not valid JSON"),
        (b'["llama"]', "config.json must hold a JSON object, not a list"),
        (b"{}", "config.json"),
        (b'{"hidden_size": 8}', "config.json"),
        (b'{"model_type": ["llama"]}', "config.json: model_type must be a text, not ['llama']"),
        (b'{"model_type": null}', "config.json: model_type must be a text, not None"),
    ],
    ids=lambda x: str(x[:20]),
)
def test_a_config_that_is_none(folder, refused, text, message):
    (folder / "config.json").write_bytes(text)
    assert message in refused()


def test_a_model_type_that_is_not_known(folder, refused):
    config(folder, model_type="llamma")
    assert refused().startswith(f"{folder}/config.json: unknown model_type 'llamma': did you mean 'llama'?")


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"vocab_size": ...}, "vocab_size is missing"),
        ({"hidden_size": "8"}, "hidden_size must be a whole number, not '8'"),
        ({"hidden_size": -8}, "hidden_size must be at least 1 and below 2**31, not -8"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be at least 1 and below 2**31, not 0"),
        ({"num_key_value_heads": 3}, "G=3 key/value heads must divide H=4 query heads"),
        ({"head_dim": 3}, "rotary positions turn pairs, but 1 of the head width 3 is 3"),
        ({"rms_norm_eps": None, "hidden_act": "laplace"}, "hidden_act 'laplace' is not supported: relu"),
        ({"rope_theta": float("nan")}, "rope_theta must be a number, not nan"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings must be true or false, not 'yes'"),
        ({"quantization_config": {"quant_method": "hqq"}}, "the weights are quantised (quantization_config"),
    ],
    ids=str,
)
def test_a_config_that_contradicts_itself(folder, refused, fields, message):
    config(folder, **fields)
    line = refused()
    assert line.startswith(f"{folder}/config.json: ") and message in line


def test_sizes_beyond_all_measure(folder, refused):
    config(folder, num_hidden_layers=10**9)
    assert "num_hidden_layers is 1000000000: no more than 1000 layers are read" in refused()
    config(folder, vocab_size=10**9)
    assert "model.embed_tokens.weight (20, 8) instead of (1000000000, 8)" in refused()
    config(folder, vocab_size=10**15)
    assert "vocab_size must be at least 1 and below 2**31, not 1000000000000000" in refused()
    config(folder, hidden_size=10**6, num_attention_heads=10**5, num_key_value_heads=10**5)
    assert "of another shape than config.json says" in refused()


def test_lm_config_names_no_folder_where_it_has_none():
    with pytest.raises(jaxlm.UserError, match=r"^config\.json: hidden_size is missing$"):
        lm_config({"model_type": "llama", "vocab_size": 3, "num_attention_heads": 2})


# Tensors -------------------------------------------------------------------------------------------------------------


def test_missing_and_surplus_tensors(folder, refused):
    tensors = checkpoints.llama()
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors")
    assert refused() == f"{folder}: one tensor is missing: model.norm.weight"
    tensors = {name: x for name, x in checkpoints.llama().items() if "layers.2" not in name}
    save_file(tensors | {"extra.bias": np.ones(3)}, folder / "model.safetensors")
    line = refused()
    assert line.startswith(f"{folder}: 9 tensors are missing: model.layers.2.") and line.count("layers.2") == 3
    assert line.endswith(", ...; one tensor is unknown to this model: extra.bias")


def test_a_layer_too_many(folder, refused):
    config(folder, num_hidden_layers=2)
    assert refused().startswith(f"{folder}: 9 tensors are unknown to this model: model.layers.2.")


def test_a_head_that_the_config_wants_and_the_file_lacks(folder, refused):
    save_file(checkpoints.llama(tie_word_embeddings=True), folder / "model.safetensors")
    assert refused() == f"{folder}: one tensor is missing: lm_head.weight"


def test_shapes(folder, refused):
    tensors = checkpoints.llama()
    tensors["model.norm.weight"] = np.ones((8, 1), np.float32)
    tensors["model.layers.0.self_attn.q_proj.weight"] = np.ones((4, 8), np.float32)
    save_file(tensors, folder / "model.safetensors")
    assert refused() == (
        f"{folder}: 2 tensors are of another shape than config.json says: model.norm.weight (8, 1) instead of (8,), "
        "model.layers.0.self_attn.q_proj.weight (4, 8) instead of (8, 8)"
    )


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.float64, ml_dtypes.float8_e4m3fn])
def test_dtypes(folder, refused, dtype):
    tensors = checkpoints.llama()
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(dtype)
    save_file(tensors, folder / "model.safetensors")
    line = refused()
    assert line.startswith(f"{folder}: one tensor is quantised or otherwise not of F32, F16, BF16: model.norm.weight (")


# Files ---------------------------------------------------------------------------------------------------------------


def header(value: bytes, size: int | None = None) -> bytes:
    return struct.pack("<Q", len(value) if size is None else size) + value


WHOLE = save(checkpoints.llama())
NAMED = WHOLE.index(b'"F32"')


@pytest.mark.parametrize(
    "data",
    [
        b"",
        WHOLE[:4],
        WHOLE[:100],
        WHOLE[:-1],
        WHOLE + b"\0",
        WHOLE[:NAMED] + bytes([WHOLE[NAMED] ^ 1]) + WHOLE[NAMED + 1 :],
        header(b"{}", 2**60),
        header(b"{}", 2**64 - 1),
        header(b'{"a":' * 100_000),
        header(b"[" * 100_000),
        header(b'{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}'),
        header(b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}') + bytes(4),
        header(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[99,103]}}') + bytes(4),
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 100\n",
    ],
    ids=lambda x: str(x[:12]),
)
def test_a_file_that_is_not_whole(folder, refused, data):
    (folder / "model.safetensors").write_bytes(data)
    assert refused().startswith(f"{folder}/model.safetensors is not a whole safetensors file: ")


def test_a_flipped_bit_anywhere_in_the_header(folder):
    """It is refused or makes no difference to names, shapes and dtypes; never another exception."""
    rng, size = np.random.default_rng(0), struct.unpack("<Q", WHOLE[:8])[0]
    for _ in range(50):
        at, bit = int(rng.integers(0, size + 8)), 1 << int(rng.integers(0, 8))
        (folder / "model.safetensors").write_bytes(WHOLE[:at] + bytes([WHOLE[at] ^ bit]) + WHOLE[at + 1 :])
        with pytest.raises(jaxlm.UserError, match=str(folder)):
            jaxlm.load(folder)
            raise jaxlm.UserError(f"{folder} was loaded as it should be")


def test_a_folder_in_place_of_the_file(folder, refused):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    assert str(folder / "model.safetensors") in refused()


# An index ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def index(tmp_path, folder):
    """Writes the index with these changes to where the tensors are."""
    (folder / "model.safetensors").unlink()
    checkpoints.write(folder, checkpoints.llama(), LLAMA, shards=2)
    path = folder / "model.safetensors.index.json"
    where = json.loads(path.read_text())["weight_map"]
    return lambda **changes: path.write_text(json.dumps({"weight_map": where | changes}))


@pytest.mark.parametrize(
    "name",
    [
        *["../secret.safetensors", "/etc/secret.safetensors", "sub/secret.safetensors", "..\\secret.safetensors"],
        *["..", ".", "", "secret.bin", "a\0.safetensors", 3, None, ["model.safetensors"]],
    ],
    ids=repr,
)
def test_an_index_that_points_elsewhere(folder, refused, index, name):
    save_file({"secret": np.ones(2)}, folder.parent / "secret.safetensors")
    (folder / "sub").mkdir()
    save_file({"secret": np.ones(2)}, folder / "sub/secret.safetensors")
    index(secret=name)
    line = refused()
    assert line.startswith(f"{folder}/model.safetensors.index.json names the file ") and "same folder" in line


def test_an_index_of_files_that_are_not_there(folder, refused, index):
    index(extra="model-00003-of-00002.safetensors")
    assert refused().endswith(
        "index.json names 'model-00003-of-00002.safetensors', which is not there: download it too"
    )


def test_an_index_of_tensors_that_are_not_there(folder, refused, index):
    index(extra="model-00001-of-00002.safetensors")
    line = refused()
    assert line.startswith(f"{folder}/model-00001-of-00002.safetensors has no tensor 'extra', which ")


@pytest.mark.parametrize("value", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": 3}'])
def test_an_index_that_is_none(folder, refused, index, value):
    (folder / "model.safetensors.index.json").write_text(value)
    assert refused().startswith(f"{folder}/model.safetensors.index.json")


# Quantised ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said, message",
    [
        (
            {"quantization": {"quant_algo": "NVFP4", "group_size": 16}},
            "quantised (hf_quant_config.json: NVFP4), of which fp8, gptq",
        ),
        ({"quantization": {"quant_algo": ["FP8"]}}, "quantised (hf_quant_config.json: ['FP8']), of which fp8, gptq"),
        ({"quantization": 3}, "hf_quant_config.json: quantization must be an object"),
        ({}, "hf_quant_config.json: quantization must be an object"),
        ([], "hf_quant_config.json must hold a JSON object, not a list"),
    ],
    ids=str,
)
def test_quantised_says_a_file_beside_the_config(folder, refused, said, message):
    (folder / "hf_quant_config.json").write_text(json.dumps(said))
    assert message in refused()


def test_a_quantised_cache_leaves_weights_plain(folder):
    said = {"quantization": {"quant_algo": None, "kv_cache_quant_algo": "FP8"}}
    (folder / "hf_quant_config.json").write_text(json.dumps(said))
    jaxlm.load(folder)


# No weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, message",
    [
        ("pytorch_model.bin", "only in pytorch_model.bin, a pickle, and pickles are never opened"),
        ("pytorch_model.bin.index.json", "a pickle, and pickles are never opened"),
        ("consolidated.00.pth", "only in consolidated.00.pth, a pickle"),
        ("model.Q4_K_M.gguf", "only in model.Q4_K_M.gguf: open that file itself"),
        ("consolidated.safetensors", "has consolidated.safetensors but neither model.safetensors nor model.safetens"),
        ("README.md", "has no weights: neither model.safetensors nor model.safetensors.index.json"),
    ],
)
def test_other_weights_or_none(folder, refused, name, message):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"")
    assert message in refused()


def test_paths_that_are_no_folder(folder, refused):
    for name in ("model.safetensors", "pytorch_model.bin"):
        (folder / name).write_bytes(b"")
        assert f"{folder / name} is a file: give a .gguf, a run's folder" in refused(folder / name)
    (folder / "model.gguf").write_bytes(b"")
    assert refused(folder / "model.gguf") == f"{folder / 'model.gguf'} is no GGUF file: it is empty"
    assert "has no config.json" in refused(folder / "nothing")
    for no_path in NO_PATHS:
        with pytest.raises(jaxlm.UserError, match=r"path|no such user"):
            jaxlm.load(no_path)
    (folder / "config.json").unlink()
    assert "has no config.json" in refused()
