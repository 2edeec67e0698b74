"""`jaxlm.Encoder`: padding, texts, classes, gradients; what is refused."""

import dataclasses

import jax
import numpy as np
import pytest

import jaxlm
from jaxlm.api.encoder import Encoder, places
from jaxlm.api.sentence import Sentence
from jaxlm.errors import UserError
from jaxlm.models import EncoderConfig, ReplacedHead, SequenceHead, SpanHead, TokenHead
from jaxlm.nn import (
    AttentionConfig,
    BlockConfig,
    LayerNormConfig,
    LayersConfig,
    LearnedConfig,
    LongformerConfig,
    MLPConfig,
)
from jaxlm.text import WordPieceTokenizer
from tests.weights import weights

D = 16
POST = {"norm": None, "norm_sum": LayerNormConfig()}
BLOCK = BlockConfig(
    AttentionConfig(2, 8, rope=None, causal=False, bias=True, bias_out=True), MLPConfig(24, "gelu", False, True), **POST
)
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "sat", "on", "the", "mat", "##s")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    WordPieceTokenizer({word: i for i, word in enumerate(WORDS)}).save(folder)
    return jaxlm.load_tokenizer(folder)


def made(tokenizer=None, sentence=None, block=BLOCK, **changes):
    c = EncoderConfig(16, D, (LayersConfig((block,), 2),), LearnedConfig(20), types=2)
    c = dataclasses.replace(c, **changes)
    return Encoder(c, weights(c.build(), np.zeros((1, 1), int), method="forward"), tokenizer, None, sentence)


TOKENS = np.random.default_rng(0).integers(5, 12, (2, 6))


def test_padding_on_either_side_changes_nothing():
    e = made(pooler=True, next_sentence=True)
    right = np.pad(TOKENS, ((0, 0), (0, 3))), np.array([[1] * 6 + [0] * 3] * 2)
    left = np.pad(TOKENS, ((0, 0), (3, 0))), np.array([[0] * 3 + [1] * 6] * 2)
    np.testing.assert_allclose(e.logits(*right)[:, :6], e.logits(TOKENS), atol=1e-5)
    np.testing.assert_allclose(e.logits(*left)[:, 3:], e.logits(TOKENS), atol=1e-5)
    np.testing.assert_allclose(e.pooled(*right), e.pooled(TOKENS), atol=1e-5)
    assert e.next_sentence(*right).shape == (2, 2)
    assert np.abs(e.hidden(TOKENS, types_BT=np.ones_like(TOKENS)) - e.hidden(TOKENS)).max() > 0.01


def test_differentiable_in_params_and_traced():
    e = made(head=ReplacedHead())
    loss = lambda params, tokens, mask: (e.logits(tokens, mask, params=params) * mask).sum()
    mask = np.ones_like(TOKENS)
    gradient = jax.jit(jax.grad(loss))(e.params, TOKENS, mask)
    moved = jax.tree.map(lambda p, g: p + 1e-3 * g, e.params, gradient)
    norm = sum(float((g**2).sum()) for g in jax.tree.leaves(gradient))
    rise = loss(moved, TOKENS, mask) - loss(e.params, TOKENS, mask)
    assert rise == pytest.approx(1e-3 * norm, rel=0.1)
    assert e.to_hf(gradient).keys() == e.to_hf().keys()


def test_embeddings_of_texts_of_any_length_and_order(tokenizer):
    e = made(tokenizer)
    texts = ["the cat", "a cat sat on the mat", "mats", "the cat sat"] * 10  # more than a batch
    found = e.embed(texts)
    assert found.shape == (40, D) and found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, rtol=1e-5)
    for text, vector in zip(texts[:4], found):
        ids = tokenizer.encode(text, special=True)
        mean = np.asarray(e.hidden([ids])).mean((0, 1))
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)
        np.testing.assert_allclose(e.embed(text, normalize=False)[0], mean, atol=1e-5)
        first = e.hidden([ids])[0, 0]
        np.testing.assert_allclose(e.embed([text], pooling="cls", normalize=False)[0], first, atol=1e-5)


def test_texts_are_cut_where_the_folder_says_so(tokenizer):
    e = made(tokenizer, Sentence("cls", True, 4))
    np.testing.assert_allclose(e.embed("the cat sat on the mat"), made(tokenizer).embed("the cat", "cls"), atol=1e-6)
    whole = made(tokenizer).embed("the cat sat", "cls")
    np.testing.assert_allclose(e.embed("the cat sat", max_length=9), whole, atol=1e-6)


def test_fill(tokenizer):
    e = made(tokenizer)
    found = e.fill("the [MASK] sat", k=16)
    ids = tokenizer.encode("the [MASK] sat", special=True)
    chances = jax.nn.softmax(e.logits([ids])[0, ids.index(4)])
    best = np.argsort(-chances)
    assert [word for word, _ in found] == [tokenizer.spell(int(i)) if i < 12 else f"<{i}>" for i in best]
    np.testing.assert_allclose([p for _, p in found], chances[best], rtol=1e-4)
    two = e.fill("[MASK] cat [MASK]", k=2)
    assert len(two) == 2 and all(len(one) == 2 for one in two)
    with pytest.raises(UserError, match=r"the text has no \[MASK\]"):
        e.fill("the cat")


def test_classify_and_tag(tokenizer):
    e = made(tokenizer, head=SequenceHead(("no", "yes"), "tanh"))
    found = e.classify(["the cat", "a cat sat on the mat"])
    for text, label, chances in zip(["the cat", "a cat sat on the mat"], found.labels, found.probabilities):
        wanted = jax.nn.softmax(e.logits([tokenizer.encode(text, special=True)])[0])
        np.testing.assert_allclose(chances, wanted, atol=1e-5)
        assert label == ("no", "yes")[int(wanted.argmax())]
    e = made(tokenizer, head=TokenHead(("x", "y", "z")))
    (tags,) = e.tag("the cats")
    assert [token for token, _ in tags] == ["the", "cat", "##s"]
    best = np.asarray(e.logits([tokenizer.encode("the cats", special=True)])).argmax(-1)[0, 1:-1]
    assert [label for _, label in tags] == ["xyz"[i] for i in best]


def test_answer(tokenizer):
    """The span of the largest sum of logits, found by trying all."""
    e = made(tokenizer, head=SpanHead())
    text = "a cat sat on the mats"
    found = tokenizer.encoding("the cat", text, special=True)
    logits = np.asarray(e.logits([found.ids], types_BT=[found.types]))[0]
    spans = [(i, j) for i in range(4, 11) for j in range(i, min(i + 3, 11))]
    first, last = max(spans, key=lambda span: logits[span[0], 0] + logits[span[1], 1])
    answer = e.answer("the cat", text, longest=3)
    assert answer.text == text[found.offsets[first][0] : found.offsets[last][1]] == text[slice(*answer.span)]
    assert 0 < answer.probability < 1
    with pytest.raises(UserError, match="no text to find an answer in"):
        e.answer("the cat", "")
    with pytest.raises(UserError, match="no head for answers in a text: its head is a TokenHead"):
        made(tokenizer, head=TokenHead(("x",))).answer("the cat", text)


def test_the_class_of_a_long_text_is_read_where_all_is_seen():
    block = dataclasses.replace(BLOCK, mixer=LongformerConfig(2, 8, 1))
    e = made(block=block, head=SequenceHead(("no", "yes"), "tanh"))
    first = np.eye(1, 6, dtype=int).repeat(2, 0)
    np.testing.assert_array_equal(e.logits(TOKENS), e.logits(TOKENS, global_BT=first))
    assert np.abs(e.logits(TOKENS) - e.logits(TOKENS, global_BT=0 * first)).max() > 1e-3
    right = np.pad(TOKENS, ((0, 0), (0, 2))), np.array([[1] * 6 + [0] * 2] * 2)
    np.testing.assert_allclose(e.logits(*right), e.logits(TOKENS), atol=1e-5)


def test_places_of_a_mask():
    np.testing.assert_array_equal(places(np.array([[1, 0, 1, 1], [0, 0, 1, 0]])), [[0, 2, 3, -1], [2, -1, -1, -1]])


PADDED = np.array([[1] * 6, [0] + [1] * 5])


def test_what_cannot_be(tokenizer):
    e, bare = made(tokenizer), made(tokenizer, head=None, types=0)
    ones = np.ones_like(TOKENS)
    for line, call in {
        "row 1 of the mask has no real token": lambda: e.hidden(TOKENS, [[1] * 6, [0] * 6]),
        r"the mask's shape \(2, 3\) is not that of the tokens": lambda: e.hidden(TOKENS, ones[:, :3]),
        "token ids must lie in 0..15, got 5..16": lambda: e.hidden([[5, 16]]),
        "21 tokens, but the model has learned positions for 20": lambda: e.hidden([[5] * 21]),
        "types must lie in 0..1, got 2": lambda: e.hidden(TOKENS, types_BT=2 * ones),
        r"types_BT has the shape \(2, 3\), the tokens \(2, 6\)": lambda: e.hidden(TOKENS, types_BT=ones[:, :3]),
        "this encoder knows one kind of token": lambda: bare.hidden(TOKENS, types_BT=ones),
        "this encoder has no global attention": lambda: e.hidden(TOKENS, global_BT=ones),
        "pad on the right: row 1 begins with padding": lambda: made(pooler=True).pooled(
            TOKENS, ones - np.eye(2, 6)[::-1]
        ),
        "this encoder has no pooler": lambda: e.pooled(TOKENS),
        "this encoder has no head for the next sentence": lambda: e.next_sentence(TOKENS),
        "this encoder has no head, so no logits": lambda: bare.logits(TOKENS),
        "this encoder has no head for classes of texts: its head is a MaskedHead": lambda: e.classify("the cat"),
        "this encoder has no head for classes of tokens": lambda: e.tag("the cat"),
        "a text of 22 tokens, but the model has 20 positions": lambda: e.embed(["the " * 20]),
        "unknown pooling 'mode'": lambda: e.embed("the", pooling="mode"),
        "no texts were given": lambda: e.embed([]),
        "this model has no tokenizer": lambda: made().embed("the"),
        "params must be a tree of arrays": lambda: e.hidden(TOKENS, params={"embed": 1}),
    }.items():
        with pytest.raises(UserError, match=line):
            call()
