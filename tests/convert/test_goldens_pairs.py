"""Encoder-decoders against what transformers computed on the goldens, and their folders read and written again."""

import numpy as np
import pytest

import jaxlm
from jaxlm.convert.families import SEQ2SEQ
from tests.convert import golden, golden_pairs
from tests.convert.golden_pairs import BANNED, BEAMS, END, NEW
from tests.convert.reference import close, learn_pairs
from tests.convert.test_goldens import assert_equal_folders


@pytest.fixture(params=golden_pairs.NAMES, scope="module")
def name(request):
    return request.param


@pytest.fixture(scope="module")
def expected(name):
    return golden_pairs.expected(name)


@pytest.fixture(scope="module")
def model(name, tmp_path_factory):
    found = jaxlm.load(golden_pairs.write(tmp_path_factory.mktemp(name), name))
    found.stops = ()
    return found


def source_of(expected):
    """The source and its mask; features have none."""
    source = expected["source"]
    return source, None if source.ndim == 3 else expected["mask"]


def test_every_family_has_one():
    found = {golden_pairs.config(name)["model_type"] for name in golden_pairs.NAMES}
    assert found == {kind for family in SEQ2SEQ for kind in family.MODEL_TYPES}


def test_encoder_loss_and_gradients(model, expected):
    source, mask = source_of(expected)
    close(model.encode(source, mask), expected["encoded"], expected["mask"])
    loss, logits, gradients = learn_pairs(model, source, mask, expected["target"], expected["labels"])
    close(logits, expected["logits"])
    np.testing.assert_allclose(loss, expected["loss"], rtol=1e-5)
    assert {key: x.shape for key, x in gradients.items()} == expected["tensors"]
    for key, norm, projection in zip(expected["tensors"], expected["gradients"], expected["projections"]):
        d, size = np.float64(gradients[key]), max(1e-3 * norm, 1e-6)
        assert abs(np.linalg.norm(d) - norm) < size, key
        assert abs(np.sum(d * golden.noise(key, d.shape, int(expected["seed"]) + 1)) - projection) < size, key


def test_decoding(model, expected):
    """From sources padded on the right, and greedily on the left too."""
    source, mask = source_of(expected)
    out = model.generate(source, NEW, mask=mask)
    np.testing.assert_array_equal(out.tokens, expected["greedy"])
    if mask is None:
        return
    turn = lambda x: np.stack([np.roll(row, len(m) - m.sum()) for row, m in zip(x, mask)])
    if not any(getattr(ffn, "row_capacity", None) for s in model.config.encoder for b in s.blocks for ffn in b.ffns):
        left = model.generate(turn(source), NEW, mask=turn(mask))
        np.testing.assert_array_equal(left.tokens, out.tokens)
        np.testing.assert_allclose(left.logprobs, out.logprobs, atol=1e-4)


@pytest.mark.parametrize("kind", BEAMS)
def test_beam_search(model, expected, kind):
    """Every alternative, with its score."""
    options = BEAMS[kind]
    beam = jaxlm.Beam(options["num_beams"], options.get("length_penalty", 1.0), options.get("early_stopping", False))
    forced = {"first": options["forced_bos_token_id"], "last": END, "banned": BANNED} if kind == "forced" else {}
    source, mask = source_of(expected)
    out = model.generate(source, NEW, beam, stop=END, mask=mask, **forced)
    np.testing.assert_array_equal(out.alternatives[0], expected[f"beam_{kind}"])
    np.testing.assert_allclose(out.alternatives[1], expected[f"scores_{kind}"], atol=1e-4)
    np.testing.assert_array_equal(out.scores, out.alternatives[1][:, 0])


def test_saved_as_it_was(model, tmp_path):
    model.save(tmp_path)
    assert_equal_folders(tmp_path, model.source.folder)
