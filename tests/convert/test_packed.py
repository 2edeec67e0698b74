"""int4 and int8 matrices in GPTQ's layout: written, read back as the same weights."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import jaxlm
from jaxlm.cli import main
from jaxlm.errors import UserError
from tests.convert.checkpoints import LLAMA, llama, write

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "plain", llama(**SIZES), LLAMA | SIZES)


@pytest.mark.parametrize("kind", ["int4", "int8"])
def test_they_come_back(folder, tmp_path, kind):
    small = jaxlm.load(folder).quantize(kind)
    small.save(tmp_path / "small", packed=True)
    back = jaxlm.load(tmp_path / "small")
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(small.to_hf()), jax.tree.leaves(back.to_hf())):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6, err_msg=str(path))
    stored = load_file(tmp_path / "small" / "model.safetensors")
    packed, plain = stored["model.layers.1.mlp.down_proj.qweight"], small.to_hf()["model.layers.1.mlp.down_proj.weight"]
    assert packed.nbytes == plain.size * (0.5 if kind == "int4" else 1) and packed.dtype == np.int32
    said = json.loads((tmp_path / "small" / "config.json").read_text())["quantization_config"]
    assert said["bits"] == (4 if kind == "int4" else 8) and said["desc_act"] is False


def test_the_command(folder, tmp_path, capsys):
    tokens = np.random.default_rng(0).integers(0, 20, (4, 24))
    found = jaxlm.load(folder).quantize("gptq4", calibration=tokens)
    found.save(tmp_path / "gptq", packed=True)
    assert (tmp_path / "gptq" / "config.json").exists()
    assert main(["convert", str(folder), str(tmp_path / "x"), "--quantize", "gptq4"]) == 2
    assert "--quantize gptq4 needs --calibration FILE" in capsys.readouterr().err
    assert main(["convert", str(folder), str(tmp_path / "x"), "--quantize", "int8", "--calibration", "a"]) == 2
    assert "--calibration is of gptq4, gptq8" in capsys.readouterr().err
    assert main(["convert", str(folder), str(tmp_path / "x"), "--quantize", "awq4"]) == 2
    assert main(["convert", str(folder), str(tmp_path / "x"), "--quantize", "int8"]) == 0
    assert jaxlm.load(tmp_path / "x").config.D == 32


def test_what_cannot_be(folder, tmp_path):
    m = jaxlm.load(folder)
    with pytest.raises(UserError, match=r"int4 or int8 in GPTQ's layout, not \['nf4'\]"):
        m.quantize("nf4").save(tmp_path / "x", packed=True)
    with pytest.raises(UserError, match="int8 rounds to the nearest and reads no calibration: gptq4, gptq8, awq4"):
        m.quantize("int8", calibration=["a"])
    with pytest.raises(UserError, match="gptq4 needs calibration texts"):
        m.quantize("gptq4")
    with pytest.raises(UserError, match=r"cannot read calibration text .*nothing"):
        m.quantize("gptq4", calibration=tmp_path / "nothing")
    with pytest.raises(UserError, match="ids from 0 to"):
        m.quantize("gptq4", calibration=np.full((2, 8), 10**6))
    with pytest.raises(UserError, match=r"whole numbers \(rows, positions\), got \(3,\)"):
        m.quantize("gptq4", calibration=np.arange(3))
    with pytest.raises(UserError, match="calibration must be the path of a text"):
        m.quantize("gptq4", calibration=3)
