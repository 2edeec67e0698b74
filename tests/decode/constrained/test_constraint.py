import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlm
from jaxlm.api import LanguageModel
from jaxlm.decode import Allowed, Choices, Grammar, JsonSchema, PerRow, Regex, Temperature
from jaxlm.decode.constrained import allow, packed
from jaxlm.decode.constrained.matching import Vocabulary
from jaxlm.errors import UserError
from jaxlm.models import LM
from jaxlm.text import load_tokenizer
from jaxlm.text.bytes import ByteTokenizer
from jaxlm.text.readable.bpe import BPETokenizer
from tests import tiny
from tests.decode.constrained.schemas import LARGE, SCALARS
from tests.decode.constrained.test_schema import check, written
from tests.weights import weights

NEW = 64


@functools.cache
def lm() -> LanguageModel:
    config = tiny.model()
    return LanguageModel(config, weights(LM(config), jnp.zeros((1, 1), jnp.int32)), ByteTokenizer())


def test_a_model_writes_what_the_constraint_allows():
    """Three prompts at once; every text ends, and a penalty beside the constraint changes nothing of that."""
    sampler = jaxlm.RepetitionPenalty(1.3) | jaxlm.Temperature(1.5)
    generate = functools.partial(lm().generate, ["a", "Say: ", "é"], NEW, sampler)
    for i, of in enumerate([LARGE[3], LARGE[9], LARGE[11], SCALARS[15], {}]):
        out = generate(jax.random.key(i), constraint=JsonSchema(of))
        assert out.texts is not None and len(set(out.texts)) > 1
        for text, row in zip(out.texts, out.tokens.tolist()):
            check(text, of)
            assert lm().tokenizer.decode_bytes(row[: row.index(256)]).decode() == text
            assert set(row[row.index(256) + 1 :]) <= {-1}
    out = generate(jax.random.key(0), constraint=Choices(["yes", "no", "日本"]))
    assert set(out.texts) <= {"yes", "no", "日本"}
    pattern = r"[a-c]{2,9}!"
    assert all(re.fullmatch(pattern, text) for text in generate(constraint=Regex(pattern)).texts)


def test_log_probabilities_are_the_model_s_own():
    out = lm().generate(["ab"], NEW, jaxlm.Greedy(), constraint=Choices(["yes", "yesterday"]))
    tokens = np.array([[256, *b"ab", *out.tokens[0, : out.tokens[0].tolist().index(256) + 1]]])
    expected = np.asarray(lm().logprobs(tokens))[0, 2:]
    np.testing.assert_allclose(out.logprobs[0, : len(expected)], expected, atol=1e-4)


def test_halves_of_characters_are_right():
    """Tokens of one byte, of whole characters and of one and a half."""
    tokenizer = BPETokenizer.train(["日本語 日本 né née ñandú 日本日本 ü"] * 9, 275)
    halves = [piece for piece in tokenizer.pieces if piece.decode(errors="ignore").encode() != piece]
    assert any(len(piece) > 1 for piece in tokenizer.pieces if piece not in halves)
    rng = np.random.default_rng(0)
    for constraint in (Choices(["日本語", "日", "né"]), Regex("[日本語é]{2,4}n?"), JsonSchema({"enum": ["日本", "ñ"]})):
        vocabulary = Vocabulary(tokenizer)
        texts = written(constraint.expression(), 30, rng, vocabulary, n=30)
        assert len(set(texts)) > 1
        x = constraint.expression()
        for text in texts:
            for byte in text.encode():
                x = x.step(byte)
            assert x.nullable
            x = constraint.expression()


@pytest.mark.parametrize("name", ["llama2_tokenizer.model", "tiny_tokenizer.json"])
def test_tokenizers_of_files(shared, name):
    """SentencePiece with byte pieces, and a byte-level BPE."""
    file = shared / "data" / "tokenizers" / name
    if not file.exists():
        pytest.skip(f"no {file}")
    vocabulary, rng = Vocabulary(load_tokenizer(file), stops=(0,)), np.random.default_rng(0)
    for of in (LARGE[3], LARGE[9], SCALARS[15], {"enum": ["naïve", "日本"] if "llama" in name else ["a", "b"]}):
        for text in written(JsonSchema(of).expression(), 60, rng, vocabulary, n=4):
            check(text, of)


def test_grammars():
    pytest.importorskip("llguidance", reason="needs the extra `constrained`")
    grammar = Grammar('start: greeting " " /[a-z]{3}/\ngreeting: "hi" | "hello"')
    out = lm().generate(["a", "b"], NEW, jaxlm.Temperature(1.5), jax.random.key(0), constraint=grammar)
    assert all(re.fullmatch("(hi|hello) [a-z]{3}", text) for text in out.texts)
    with pytest.raises(UserError, match="the grammar is not understood"):
        Grammar("start: (").compile(lm().tokenizer)


def test_bits_reach_every_kind_of_chain():
    rng = np.random.default_rng(0)
    allowed = rng.random((2, 40)) < 0.3
    words = np.stack([packed(row, 45) for row in allowed])
    tokens = jnp.ones((2, 3), int)
    for sampler in (Allowed(), Temperature(2.0) | Allowed(), PerRow(Allowed() | Temperature(1.0))):
        state = allow(sampler, sampler.start(tokens, tokens, 45), words)
        found = np.isfinite(sampler.filter(jnp.zeros((2, 45)), state))
        np.testing.assert_array_equal(found, np.pad(allowed, ((0, 0), (0, 5))))
        assert np.isfinite(sampler.filter(jnp.zeros((2, 45)), sampler.start(tokens, tokens, 45))).all()


def test_mistakes():
    of = {"type": "string", "minLength": 9}
    generate = functools.partial(lm().generate, ["a"], constraint=JsonSchema(of))
    with pytest.raises(UserError, match="what the constraint asks for may need 12 tokens, more than 5"):
        generate(5)
    with pytest.raises(UserError, match="a constraint says where a text ends: leave stop out"):
        generate(stop="x")
    with pytest.raises(UserError, match="beam search does not follow a constraint"):
        generate(sampler=jaxlm.Beam(2))
    with pytest.raises(UserError, match="a constraint must be one of jaxlm's, such as Regex"):
        lm().generate(["a"], constraint="[ab]")
    lacking = ByteTokenizer()
    lacking.pieces[ord("A")] = b"AB"
    with pytest.raises(UserError, match="every ASCII character as a token, this one lacks 'A'"):
        Vocabulary(lacking)
    matcher = Regex("ab").compile(ByteTokenizer()).matcher()
    with pytest.raises(UserError, match="token 98 does not fit the constraint here"):
        matcher.advance(98)
