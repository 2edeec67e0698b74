import jax
import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.interpret import alignments, plot_alignment
from jaxlm.nn.stack import unstack
from jaxlm.ops.positions import sinusoidal
from tests.models import test_rnn_seq2seq as rnn
from tests.models import test_seq2seq as transformer
from tests.models.test_encoder import layer_norm
from tests.weights import weights


def test_those_of_cross_attention_are_its_softmax():
    """Of the first layer, head by head; whatever the padding."""
    t, b, S = transformer, 1, transformer.LENGTHS[1]
    found = alignments(t.MODEL, t.PARAMS, t.TARGET, t.SOURCE, t.SEGMENTS)
    assert [a.shape for a in found] == [(t.B, t.H, t.T, t.S)] * 2
    p = jax.device_get(unstack(t.PARAMS))
    block = p["decoder"]["segment_0"]["0"]["block_0"]
    memory = t.MODEL.build().apply({"params": t.PARAMS}, t.SOURCE[b : b + 1, :S], method="encode")[0]
    x = p["embed"]["table"][t.TARGET[b]] * 4 + np.asarray(sinusoidal(np.arange(t.T)[None], t.D))[0]
    x = layer_norm(block["attention_norm_sum"], x + t.attend(block["attention"], x, x, True))
    for h in range(t.H):
        e = np.exp((x @ block["cross"]["q"][:, h]) @ (memory @ block["cross"]["k"][:, h]).T / np.sqrt(t.K))
        np.testing.assert_allclose(found[0][b, h, :, :S], e / e.sum(-1, keepdims=True), atol=1e-5)
        assert not found[0][b, h, :, S:].any()


def test_those_of_a_recurrent_decoder():
    c, text = rnn.MODELS["luong"], np.array([[1, 5, 7]] * rnn.B)
    params = weights(c.build(), text, **rnn.MORE)
    (found,) = alignments(c, params, text, *rnn.MORE.values())
    assert found.shape == (rnn.B, 1, 3, rnn.S)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(found[:, 0, 0] > 0, rnn.SEGMENTS > 0)
    np.testing.assert_allclose(alignments(c, params, text[:, :2], *rnn.MORE.values())[0], found[:, :, :2], atol=1e-6)


def test_the_picture(tmp_path):
    plot_alignment(np.eye(2, 3), ["ein", " $hund", "."], ["a", " dog"], tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="do not fit 1 and 3 words"):
        plot_alignment(np.eye(2, 3), ["ein", "hund", "."], ["a"], tmp_path / "a.png")
