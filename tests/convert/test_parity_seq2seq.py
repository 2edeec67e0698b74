"""Encoder-decoders against what transformers computed: the folders of reference outputs beside the repository."""

import numpy as np
import pytest

import jaxlm
from tests.convert.reference import close, ended, learn_pairs
from tests.convert.test_goldens import assert_equal_folders
from tests.convert.test_parity import ABSENT, INFOS, PARITY

NAMES = [name for name, info in INFOS.items() if info["kind"] == "seq2seq"]


@pytest.fixture(params=NAMES or [ABSENT], scope="module")
def folder(request):
    return PARITY / request.param


@pytest.fixture(scope="module")
def model(folder):
    return jaxlm.load(folder)


@pytest.fixture(scope="module")
def inputs(folder):
    with np.load(folder / "inputs.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def expected(folder):
    with np.load(folder / "expected.npz") as arrays:
        return dict(arrays)


def test_encoder(model, inputs, expected):
    """Also with all the padding on the left."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    wanted = expected["encoder_last_hidden_state"]
    close(model.encode(ids, mask), wanted, mask)
    turn = lambda x: np.stack([np.roll(row, len(m) - m.sum(), 0) for row, m in zip(x, mask)])
    close(model.encode(turn(ids), turn(mask)), turn(wanted), turn(mask))


def test_loss_and_gradients(model, inputs, expected):
    loss, logits, gradients = learn_pairs(
        model, *(inputs[name] for name in ("input_ids", "attention_mask", "decoder_input_ids", "labels"))
    )
    close(logits, expected["logits"])
    np.testing.assert_allclose(loss, expected["loss"], rtol=1e-5)
    norms = dict(zip(expected["grad_norm_names"].tolist(), expected["grad_norm_values"]))
    assert set(gradients) >= set(norms)
    for name, norm in norms.items():
        np.testing.assert_allclose(np.linalg.norm(gradients[name]), norm, rtol=1e-3, atol=1e-6, err_msg=name)
    for key in expected:
        if key.startswith("grad/"):
            found, wanted = gradients[key.removeprefix("grad/")], expected[key]
            most = max(1e-3 * np.abs(wanted).max(), 1e-7)  # that of a key's bias is zero but for rounding
            np.testing.assert_allclose(found, wanted, rtol=0, atol=most, err_msg=key)


def test_greedy(model, inputs, expected):
    """The end is not looked for: stops are cut afterwards."""
    wanted, stops = expected["greedy"], model.stops
    assert (wanted[:, 0] == model.writing.start).all()
    out = model.generate(inputs["input_ids"], wanted.shape[1] - 1, mask=inputs["attention_mask"])
    np.testing.assert_array_equal(out.tokens, ended(wanted[:, 1:], stops))


def test_beam_search(model, inputs, expected):
    """Without an end token, and with one."""
    stops, model.stops, new = model.stops, (), expected["beam"].shape[1] - 1
    try:
        for stop, name in ((None, "beam"), (int(expected["beam_eos_token_id"]), "beam_eos")):
            out = model.generate(inputs["input_ids"], new, jaxlm.Beam(3), stop=stop, mask=inputs["attention_mask"])
            wanted = expected[name][:, 1:]
            np.testing.assert_array_equal(out.tokens[:, : wanted.shape[1]], wanted)
            assert (out.tokens[:, wanted.shape[1] :] == -1).all()
            np.testing.assert_allclose(out.scores, expected[f"{name}_scores"], rtol=0, atol=1e-4)
    finally:
        model.stops = stops


def test_saved_as_it_was(model, folder, tmp_path):
    model.save(tmp_path)
    assert_equal_folders(tmp_path, folder)
    assert (tmp_path / "generation_config.json").read_bytes() == (folder / "generation_config.json").read_bytes()
