"""Speech to text against what transformers computed: the folders of reference outputs beside the repository."""

import numpy as np
import pytest

import jaxlm
from tests.convert.reference import close, learn_pairs
from tests.convert.test_parity import ABSENT, INFOS, PARITY
from tests.convert.test_parity_seq2seq import expected, inputs, model, test_saved_as_it_was

__all__ = ["expected", "inputs", "model", "test_saved_as_it_was"]
NAMES = [name for name, info in INFOS.items() if info["kind"] == "speech2text"]


@pytest.fixture(params=NAMES or [ABSENT], scope="module")
def folder(request):
    return PARITY / request.param


def test_encoder(model, inputs, expected):
    """Also of features whose bands come last."""
    features, wanted = inputs["input_features"], expected["encoder_last_hidden_state"]
    close(model.encode(features), wanted)
    close(model.encode(features.swapaxes(1, 2)), wanted)


def test_loss_and_gradients(model, inputs, expected):
    loss, logits, gradients = learn_pairs(
        model, inputs["input_features"], None, inputs["decoder_input_ids"], inputs["labels"]
    )
    close(logits, expected["logits"])
    np.testing.assert_allclose(loss, expected["loss"], rtol=1e-5)
    for name, norm in zip(expected["grad_norm_names"].tolist(), expected["grad_norm_values"]):
        np.testing.assert_allclose(np.linalg.norm(gradients[name]), norm, rtol=1e-3, atol=1e-6, err_msg=name)
    for key in (key for key in expected if key.startswith("grad/")):
        found, wanted = gradients[key.removeprefix("grad/")], expected[key]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-3 * np.abs(wanted).max(), err_msg=key)


def test_writing(model, inputs, expected):
    """Greedily, and by beams with an end token."""
    stops, model.stops, features = model.stops, (), inputs["input_features"]
    try:
        greedy, beam = expected["greedy"][:, 1:], expected["beam_eos"][:, 1:]
        np.testing.assert_array_equal(model.generate(features, greedy.shape[1]).tokens, greedy)
        out = model.generate(features, beam.shape[1], jaxlm.Beam(3), stop=int(expected["beam_eos_token_id"]))
        np.testing.assert_array_equal(out.tokens, beam)
        np.testing.assert_allclose(out.scores, expected["beam_eos_scores"], rtol=0, atol=1e-4)
    finally:
        model.stops = stops
