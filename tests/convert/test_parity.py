"""Whole models against what transformers computed: the folders of reference outputs beside the repository."""

import json
from pathlib import Path

import numpy as np
import pytest

import jaxlm
from tests.convert.reference import close, ended, learn

PARITY = Path(__file__).resolve().parents[3] / "shared" / "parity"
INFOS = {path.parent.name: json.loads(path.read_text()) for path in sorted(PARITY.glob("*/info.json"))}
RECURRENT = ("mamba", "mamba2", "recurrent_gemma", "rwkv", "xlstm")
CAUSAL = [name for name, info in INFOS.items() if info["kind"] == "causal" or name in RECURRENT]
ABSENT = pytest.param(None, marks=pytest.mark.skip(f"needs the reference outputs in {PARITY}, which is not there"))


@pytest.fixture(params=CAUSAL or [ABSENT], scope="module")
def folder(request):
    return PARITY / request.param


@pytest.fixture(scope="module")
def lm(folder):
    return jaxlm.load(folder)


@pytest.fixture(scope="module")
def inputs(folder):
    with np.load(folder / "inputs.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def expected(folder):
    with np.load(folder / "expected.npz") as arrays:
        return dict(arrays)


def test_logits(lm, inputs, expected):
    """The short text too is padded on the left: one shape is one compilation."""
    rows, length = 3, inputs["input_ids"].shape[1]
    short = inputs["short_input_ids"]
    padded = np.pad(np.repeat(short, rows, 0), ((0, 0), (length - short.shape[1], 0)))
    mask = np.arange(length) >= length - short.shape[1]
    logits = lm.logits(padded, np.broadcast_to(mask, padded.shape))
    close(logits[:, mask], np.repeat(expected["short_logits"], rows, 0))
    if "padded_input_ids" in inputs:
        mask = inputs["padded_attention_mask"]
        close(lm.logits(inputs["padded_input_ids"], mask), expected["padded_logits"], mask)


def test_loss_and_gradients(lm, inputs, expected):
    loss, logits, gradients = learn(lm, inputs["input_ids"])
    close(logits, expected["logits"])
    np.testing.assert_allclose(loss, expected["loss"], rtol=1e-5)
    norms = dict(zip(expected["grad_norm_names"].tolist(), expected["grad_norm_values"]))
    assert set(gradients) >= set(norms)
    for name, norm in norms.items():
        np.testing.assert_allclose(np.linalg.norm(gradients[name]), norm, rtol=1e-3, atol=1e-6, err_msg=name)
    for key in expected:
        if key.startswith("grad/"):
            found, wanted = gradients[key.removeprefix("grad/")], expected[key]
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-3 * np.abs(wanted).max(), err_msg=key)


def test_decoding(lm, inputs, expected):
    """Both with three rows, which is one compilation."""

    def continued(tokens, mask, wanted):
        new = ended(wanted[:, tokens.shape[1] :], lm.stops)
        np.testing.assert_array_equal(lm.generate(tokens, new.shape[1], mask_BT=mask).tokens, new)

    continued(inputs["prompt_ids"][[0, 1, 0]], None, expected["greedy"][[0, 1, 0]])
    if "padded_prompt_ids" in inputs:
        continued(inputs["padded_prompt_ids"], inputs["padded_prompt_mask"], expected["padded_greedy"])


def test_beam_search(lm, folder, inputs, expected):
    """Without an end token, and with one."""
    if folder.name == "recurrent_gemma":
        pytest.skip("transformers does not reorder its recurrent state: its beams are not those of whole passes")
    prompts, wanted = inputs["prompt_ids"], expected["beam"]
    T, stops, lm.stops = prompts.shape[1], lm.stops, ()
    try:
        for stop, name in ((None, "beam"), (int(expected["beam_eos_token_id"]), "beam_eos")):
            out = lm.generate(prompts, wanted.shape[1] - T, sampler=jaxlm.Beam(3), stop=stop)
            new = expected[name][:, T:]
            np.testing.assert_array_equal(out.tokens[:, : new.shape[1]], new)
            assert (out.tokens[:, new.shape[1] :] == -1).all()
            np.testing.assert_allclose(out.scores, expected[f"{name}_scores"], rtol=0, atol=1e-4)
            assert (np.diff(out.alternatives[1]) <= 0).all()
            np.testing.assert_array_equal(out.alternatives[0][:, 0], out.tokens)
    finally:
        lm.stops = stops


def test_the_older_spelling_of_the_config_is_the_same_model(lm, folder, tmp_path):
    if not (folder / "config_legacy.json").exists():
        pytest.skip("its config has one spelling only")
    (tmp_path / "config.json").symlink_to(folder / "config_legacy.json")
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    assert jaxlm.load(tmp_path).config == lm.config
