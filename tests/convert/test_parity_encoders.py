"""Whole encoders against what transformers computed: the folders of reference outputs beside the repository."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import jaxlm
from tests.convert.reference import close
from tests.convert.test_parity import ABSENT, INFOS, PARITY

ENCODERS = [name for name, info in INFOS.items() if info["kind"] == "encoder"]


@pytest.fixture(params=ENCODERS or [ABSENT], scope="module")
def folder(request):
    return PARITY / request.param


@pytest.fixture(scope="module")
def encoder(folder):
    return jaxlm.load(folder)


@pytest.fixture(scope="module")
def inputs(folder):
    return dict(np.load(folder / "inputs.npz"))


@pytest.fixture(scope="module")
def expected(folder):
    return dict(np.load(folder / "expected.npz"))


@pytest.fixture(scope="module")
def given(inputs):
    """What every call is given."""
    more = {"types_BT": "token_type_ids", "global_BT": "global_attention_mask"}
    found = {name: inputs[key] for name, key in more.items() if key in inputs}
    return {"tokens_BT": inputs["input_ids"], "mask_BT": inputs["attention_mask"], **found}


def test_hidden_states_and_heads(encoder, given, expected):
    mask = given["mask_BT"]
    close(encoder.hidden(**given), expected["last_hidden_state"], mask)
    if "mlm_logits" in expected:
        close(encoder.logits(**given), expected["mlm_logits"], mask)
    if "logits" in expected:
        close(encoder.logits(**given)[..., None], expected["logits"][..., None] * mask[..., None], mask)
    if "pooler_output" in expected:
        close(encoder.pooled(**given), expected["pooler_output"])
    if "nsp_logits" in expected:
        close(encoder.next_sentence(**given), expected["nsp_logits"])


def test_loss_and_gradients(encoder, given, inputs, expected):
    def mean(logits, labels):
        logprobs = jax.nn.log_softmax(logits)
        found = jnp.take_along_axis(logprobs, jnp.maximum(labels, 0)[..., None], -1)[..., 0]
        return -jnp.sum(found * (labels >= 0)) / np.sum(labels >= 0)

    def loss(params):
        logits = encoder.logits(**given, params=params)
        if "logits" in expected:  # whether each token was replaced
            real, labels = given["mask_BT"], inputs["labels"]
            return -jnp.sum(jax.nn.log_sigmoid(jnp.where(labels == 1, logits, -logits)) * real) / real.sum()
        total = mean(logits, inputs["labels"])
        if "nsp_labels" in inputs:
            total += mean(encoder.next_sentence(**given, params=params), inputs["nsp_labels"])
        return total

    value, gradients = jax.jit(jax.value_and_grad(loss))(encoder.params)
    np.testing.assert_allclose(value, expected["loss"], rtol=1e-5)
    gradients = encoder.to_hf(gradients)
    norms = dict(zip(expected["grad_norm_names"].tolist(), expected["grad_norm_values"]))
    assert set(gradients) == set(norms)
    for name, norm in norms.items():
        np.testing.assert_allclose(np.linalg.norm(gradients[name]), norm, rtol=1e-3, atol=1e-6, err_msg=name)
    whole = {key.removeprefix("grad/"): wanted for key, wanted in expected.items() if key.startswith("grad/")}
    assert whole
    for name, wanted in whole.items():
        atol = max(1e-3 * np.abs(wanted).max(), 1e-6)  # some are zero in exact arithmetic, as those of key biases
        np.testing.assert_allclose(gradients[name], wanted, rtol=0, atol=atol, err_msg=name)


def test_saved_as_it_was(encoder, folder, tmp_path):
    encoder.save(tmp_path)
    found, wanted = (load_file(where / "model.safetensors") for where in (tmp_path, folder))
    assert found.keys() == wanted.keys()
    assert all(found[name].tobytes() == x.tobytes() and found[name].shape == x.shape for name, x in wanted.items())
    said = [json.loads((where / "config.json").read_text()) for where in (tmp_path, folder)]
    assert said[0] == said[1]
