"""Every head of an encoder, written out; the pooler; what a text costs that is read once."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.models import MaskedHead, ReplacedHead, SequenceHead, SpanHead, TokenHead, flops, forward
from tests.models.test_encoder import BERT, TOKENS, D, T, V, gelu, layer_norm
from tests.weights import weights

LABELS = ("a", "b", "c")
CONFIG = dataclasses.replace(BERT, pooler=True, next_sentence=True)


def run(head, **changes):
    """Parameters, hidden states, logits and what else is given."""
    c = dataclasses.replace(CONFIG, head=head, **changes)
    p = weights(c.build(), TOKENS)
    out = forward(c.build(), p, TOKENS)
    return p, np.asarray(out.encoded.last_BTD), c.build().apply({"params": p}, TOKENS), out.encoded


def test_masked_tokens():
    p, x, logits, _ = run(MaskedHead("relu", tied=False))
    x = layer_norm(p["transform_norm"], np.maximum(x @ p["transform"] + p["transform_bias"], 0))
    np.testing.assert_allclose(logits, x @ p["head"].T + p["head_bias"], atol=1e-5)


def test_replaced_tokens():
    p, x, logits, _ = run(ReplacedHead())
    x = gelu(x @ p["transform"] + p["transform_bias"])
    np.testing.assert_allclose(logits, x @ p["head"].T + p["head_bias"], atol=1e-5)
    assert logits.shape == (2, T, 1)


@pytest.mark.parametrize("head", [TokenHead(LABELS), SpanHead()], ids=["labels", "span"])
def test_classes_of_tokens(head):
    p, x, logits, _ = run(head)
    np.testing.assert_allclose(logits, x @ p["head"].T + p["head_bias"], atol=1e-5)
    assert logits.shape[-1] == (2 if head == SpanHead() else 3)


def test_the_class_of_a_text():
    p, x, logits, encoded = run(SequenceHead(LABELS))
    pooled = np.tanh(x[:, 0] @ p["pooler"] + p["pooler_bias"])
    np.testing.assert_allclose(encoded.pooled_BD, pooled, atol=1e-6)
    np.testing.assert_allclose(encoded.next_B2, pooled @ p["next_sentence"] + p["next_sentence_bias"], atol=1e-6)
    np.testing.assert_allclose(logits[:, 0], pooled @ p["head"].T + p["head_bias"], atol=1e-5)
    p, x, logits, encoded = run(SequenceHead(LABELS, "tanh"), pooler=False, next_sentence=False)
    h = np.tanh(x[:, 0] @ p["transform"] + p["transform_bias"])
    np.testing.assert_allclose(logits[:, 0], h @ p["head"].T + p["head_bias"], atol=1e-5)
    assert encoded.pooled_BD is encoded.next_B2 is None


def test_narrow_embeddings():
    c = dataclasses.replace(BERT, embed_width=6, embed_scale=2.0)
    p = weights(c.build(), TOKENS)
    block = p["segment_0"]["periods"]["block_0"]
    for part, name in (("mixer", "o"), ("mixer", "o_bias"), ("ffn", "down"), ("ffn", "down_bias")):
        block[part][name] = 0 * block[part][name]  # the layers give nothing, so only their norms are left
    x = 2 * p["embed"]["table"][TOKENS] + p["positions"]["table"][:T] + p["types"]["table"][0]
    x = layer_norm(p["embed_norm"], x) @ p["embed_in"] + p["embed_in_bias"]
    for i in range(2):
        for norm in ("norm1_sum", "norm2_sum"):
            x = layer_norm({name: w[i] for name, w in block[norm].items()}, x)
    np.testing.assert_allclose(forward(c.build(), p, TOKENS).encoded.last_BTD, x, atol=1e-5)
    assert p["transform"].shape == (D, 6) and c.tied_parameters == 6 * V


def test_dropout_of_a_head_is_on_with_a_key():
    c = dataclasses.replace(CONFIG, head=TokenHead(LABELS, dropout=0.5))
    p = weights(c.build(), TOKENS)
    with_key = lambda seed: forward(c.build(), p, TOKENS, dropout_key=jax.random.key(seed)).hidden_BTD
    assert np.mean(with_key(0) == 0) == pytest.approx(0.5, abs=0.15)
    assert not np.array_equal(with_key(0), with_key(1))


def test_products_of_a_text_are_counted_once():
    of_tokens = dataclasses.replace(CONFIG, head=None, pooler=False, next_sentence=False)
    of_texts = dataclasses.replace(CONFIG, head=SequenceHead(LABELS), next_sentence=False)
    assert of_texts.flops({"T": T}) - of_tokens.flops({"T": T}) == 6 * (D * D + 3 * D)
    assert flops.parameters(of_texts) - flops.parameters(of_tokens) == D * D + D + 3 * D + 3


def test_what_cannot_be():
    with pytest.raises(UserError, match="a head of classes needs the names of its labels"):
        TokenHead(())
    with pytest.raises(UserError, match="unknown activation 'than': did you mean 'tanh'"):
        SequenceHead(LABELS, "than")
