"""Models that see against what transformers computed: the goldens, and the folders beside the repository."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import jaxlm
from tests.convert import golden, golden_vision
from tests.convert.reference import close
from tests.convert.test_parity import ABSENT, INFOS, PARITY

FOLDERS = [name for name, info in INFOS.items() if info["kind"] == "vision"]
turned = lambda x: np.transpose(x, (0, 2, 3, 1))  # (B, C, Y, X) -> (B, Y, X, C)


@pytest.mark.parametrize("name", golden_vision.GOLDENS)
def test_goldens(name, tmp_path):
    e = golden_vision.expected(name)
    folder = golden.checkpoint(tmp_path / "model", golden_vision.config(name), e)
    m, pixels = jaxlm.load(folder), turned(golden_vision.pixels(name))

    def loss(params):
        found = {"hidden": m.hidden(pixels, params=params)}
        found |= {key: getattr(m, key)(pixels, params=params) for key in ("pooled", "logits") if key in e}
        return sum(jnp.sum(x * golden.noise(key, x.shape, golden_vision.SEED)) for key, x in found.items()), found

    (value, found), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(m.params)
    for key, x in found.items():
        close(x, e[key])
    np.testing.assert_allclose(value, e["loss"], rtol=1e-4)
    gradients = m.to_hf(gradients)
    assert {key: x.shape for key, x in gradients.items()} == e["tensors"]
    for i, key in enumerate(e["tensors"]):
        scale, norm = 1e-3 * e["gradients"][i] + 1e-3, np.linalg.norm(gradients[key])
        np.testing.assert_allclose(norm, e["gradients"][i], rtol=1e-3, atol=1e-3, err_msg=key)
        projection = np.sum(gradients[key] * golden.noise(key, gradients[key].shape, golden_vision.SEED + 1))
        np.testing.assert_allclose(projection, e["projections"][i], rtol=1e-3, atol=10 * scale, err_msg=key)
    m.save(tmp_path / "saved")
    was, now = (load_file(where / "model.safetensors") for where in (folder, tmp_path / "saved"))
    assert was.keys() == now.keys() and all(now[key].tobytes() == x.tobytes() for key, x in was.items())


@pytest.fixture(params=FOLDERS or [ABSENT])
def folder(request):
    return PARITY / request.param


def test_folders(folder, tmp_path):
    m, inputs, e = jaxlm.load(folder), np.load(folder / "inputs.npz"), np.load(folder / "expected.npz")
    pixels, labels = turned(inputs["pixel_values"]), inputs["labels"]
    close(m.hidden(pixels), e["last_hidden_state"])

    def loss(params):
        logits = m.logits(pixels, params=params)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None].astype(np.int32), 1).mean(), logits

    (value, logits), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(m.params)
    close(logits, e["logits"])
    np.testing.assert_allclose(value, e["loss"], rtol=1e-5)
    gradients = m.to_hf(gradients)
    for name, norm in zip(e["grad_norm_names"].tolist(), e["grad_norm_values"]):
        np.testing.assert_allclose(np.linalg.norm(gradients[name]), norm, rtol=1e-3, atol=1e-6, err_msg=name)
    for key in (key for key in e.files if key.startswith("grad/")):
        wanted = e[key]
        np.testing.assert_allclose(
            gradients[key[5:]], wanted, rtol=0, atol=max(1e-3 * np.abs(wanted).max(), 1e-6), err_msg=key
        )
    m.save(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads((folder / "config.json").read_text())
