import json
from pathlib import Path

import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.text import FastTokenizer, SentencePieceTokenizer, Tokenizer, train_sentencepiece
from jaxlm.text.formats import layout, sentencepiece
from jaxlm.text.settings import Settings


def test_a_saved_model_is_the_same_tokenizer(tmp_path: Path, trained: dict[str, Tokenizer], strange: list[str]) -> None:
    for kind in ("bpe", "unigram"):
        trained[kind].save(tmp_path / kind)
        again = SentencePieceTokenizer(str(tmp_path / kind / "tokenizer.model"))
        assert again.fingerprint == trained[kind].fingerprint
        assert again.encode_batch(strange) == trained[kind].encode_batch(strange)
        assert [path.name for path in (tmp_path / kind).iterdir()] == ["tokenizer.model"]


@pytest.mark.parametrize("name", ["spm_bpe", "spm_unigram", "spm_unigram_no_fallback"])
def test_foreign_models_encode_and_decode_as_the_library(shared: Path, name: str) -> None:
    folder = shared / "parity/tokenizers" / name
    tokenizer = SentencePieceTokenizer(folder / "tokenizer.model")
    for case in json.loads((folder / "cases.json").read_text()):
        found = tokenizer.encoding(case["text"])
        assert tokenizer.encode(case["text"]) == found.ids == case["ids"]
        assert found.tokens == case["pieces"]
        assert tokenizer.decode(case["ids"], skip_special=True) == case["decoded"]


@pytest.mark.parametrize("name", ["llama2_tokenizer", "mistral_v1_tokenizer", "sp_ja", "sp_unigram_1k"])
def test_random_ids_of_foreign_models_decode_as_the_library(shared: Path, name: str) -> None:
    tokenizer = SentencePieceTokenizer(shared / f"data/tokenizers/{name}.model")
    chance, compared = np.random.default_rng(0), 0
    space = tokenizer._processor.piece_to_id("▁")
    for _ in range(300):
        ids = [space] * chance.integers(3) + chance.integers(tokenizer.V, size=chance.integers(5)).tolist()
        text = tokenizer.decode(ids, skip_special=True)
        if "\ufffd" not in text:  # for broken UTF-8 the library and Python differ in how many they put
            assert text == tokenizer._processor.decode(ids)
            compared += 1
    assert compared > 200


@pytest.mark.parametrize("special", [True, False])
def test_no_space_is_added_after_an_added_token_unless_the_model_is_legacy(shared: Path, special: bool) -> None:
    """The pieces are those of transformers 5.23's LlamaTokenizer."""
    model = (shared / "data/tokenizers/llama2_tokenizer.model").read_bytes()
    added = {32000: {"content": "<im>", "special": special}}
    tokenizer = SentencePieceTokenizer(model, settings=Settings({"legacy": False}, added))
    for text, wanted in {
        "<im>user": "<im>|user",
        "<im> user": "<im>|▁user",
        "user<im>user": "▁user|<im>|user",
        "<im>\nuser": "<im>|<0x0A>|user",
        " user": "▁|▁user",
    }.items():
        ids = tokenizer.encode(text)
        assert "|".join(map(tokenizer.token, ids)) == wanted and tokenizer.decode(ids) == text
        marked, spans = tokenizer.encode_marked(text)
        assert marked == ids and spans is not None and spans[-1][1] == len(text)
    for settings in (Settings({"legacy": True}, added), Settings({}, added)):
        spelled = map((legacy := SentencePieceTokenizer(model, settings=settings)).token, legacy.encode("<im>user"))
        assert [*spelled] == ["<im>", "▁user"]


def test_space_after_an_added_token_is_kept_by_a_model_that_removes_it(shared: Path) -> None:
    model = (shared / "data/tokenizers/sp_unigram_1k.model").read_bytes()
    tokenizer = SentencePieceTokenizer(
        model, settings=Settings({"legacy": False}, {1000: {"content": "<im>", "special": True}})
    )
    for text, wanted in {"<im>the": "<im>the", "<im> the": "<im>▁the", "<im>   the": "<im>▁the"}.items():
        ids = tokenizer.encode(text)
        assert "".join(map(tokenizer.token, ids)) == wanted
        marked, spans = tokenizer.encode_marked(text)
        assert marked == ids and spans is not None and (spans[0], spans[-1][1]) == ((0, 4), len(text))


def test_the_mark_of_a_space_has_the_ids_of_the_library(trained: dict[str, Tokenizer]) -> None:
    for kind in ("bpe", "unigram"):
        assert trained[kind].encode("a▁b▁▁") == trained[kind]._processor.encode("a▁b▁▁")  # pyright: ignore
        assert trained[kind].decode(trained[kind].encode("a▁b")) == "a b"


@pytest.mark.parametrize("i", [500_000_000, -1])
def test_added_tokens_far_from_the_vocabulary_are_refused(trained: dict[str, Tokenizer], i: int) -> None:
    for make in (
        lambda settings: SentencePieceTokenizer(trained["bpe"].model, settings=settings),  # pyright: ignore
        lambda settings: FastTokenizer(settings.complete(trained["fast_bpe"].spec)),  # pyright: ignore
    ):
        with pytest.raises(UserError, match=f"'<x>' has the id {i}"):
            make(Settings({}, {i: layout.added_token(i, "<x>"), 600: layout.added_token(600, "<y>")}))


def test_a_foreign_text_begins_with_its_bos(shared: Path) -> None:
    tokenizer = SentencePieceTokenizer(shared / "data/tokenizers/llama2_tokenizer.model")
    assert (tokenizer.V, tokenizer.eot) == (32000, 1)
    assert tokenizer.encode("Hello world", special=True) == [1, 15043, 3186]
    assert tokenizer.decode([1, 15043, 3186, 2]) == "<s>Hello world</s>"
    assert tokenizer.encode("</s>") != [2]


def test_long_texts_are_cut_without_changing_a_token(
    trained: dict[str, Tokenizer], texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "\n".join(texts)[:60_000]
    hard = text + "\n\n\n  " + "x" * 20_000 + " " * 20_000
    whole = {kind: trained[kind].encode(text) for kind in ("bpe", "unigram")}
    monkeypatch.setattr(sentencepiece, "CHUNK", 6000)
    assert len(list(trained["bpe"]._cut(text))) >= 10  # pyright: ignore[reportAttributeAccessIssue]
    assert trained["bpe"].encode(text) == whole["bpe"]
    assert len(trained["unigram"].encode(text)) == len(whole["unigram"])  # equal scores may fall either way
    for kind in ("bpe", "unigram"):
        assert trained[kind].decode(trained[kind].encode(hard)) == hard


def test_what_is_not_a_model_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.model").write_bytes(b"garbage" * 10)
    (tmp_path / "empty.model").write_bytes(b"")
    for name in ("bad", "empty"):
        with pytest.raises(UserError, match=rf"{name}\.model: not a SentencePiece model"):
            SentencePieceTokenizer(tmp_path / f"{name}.model")
    with pytest.raises(UserError, match="these bytes: not a SentencePiece model"):
        SentencePieceTokenizer(b"nothing")
    model = train_sentencepiece(["some words of text " * 20], V=300).model
    at = model.index(b"<|endoftext|>")
    with pytest.raises(UserError, match="these bytes: not a SentencePiece model"):
        SentencePieceTokenizer(model[: at + 3] + b"\xff" + model[at + 4 :])
    with pytest.raises(UserError, match=r"none\.model: cannot read the tokenizer: No such file"):
        SentencePieceTokenizer(tmp_path / "none.model")
    assert capfd.readouterr() == ("", "")
