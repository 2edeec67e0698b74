"""Chunks cover their text, an index comes back as it was, prompts fit and cite."""

import numpy as np
import pytest

from jaxlm.apps import rag
from jaxlm.errors import UserError
from jaxlm.text import ByteTokenizer

TEXT = "The cat sat on the mat. It slept well! Did the dog see it? No one knows, for the dog was away. End."


def embed(texts):
    """Counts of letters: near where letters are alike."""
    return np.array([[text.lower().count(c) + 0.01 for c in "abcdefghijklmnñopqrstuvwxyz"] for text in texts])


@pytest.mark.parametrize(
    "by, size, overlap", [("words", 5, 2), ("words", 3, 0), ("tokens", 20, 5), ("sentences", 9, 4)]
)
def test_chunks_cover_the_text(by, size, overlap):
    found = rag.chunks(TEXT, size, overlap, by, "a.txt", ByteTokenizer())
    seen = np.zeros(len(TEXT), bool)
    for one in found:
        assert one.text == TEXT[one.start : one.start + len(one.text)] and one.source == "a.txt"
        seen[one.start : one.start + len(one.text)] = True
        assert (len(one.text) if by == "tokens" else len(one.text.split())) <= size
    assert all(seen[i] or TEXT[i] == " " for i in range(len(TEXT)))
    if by == "words":
        texts = [one.text.split() for one in found]
        assert all(a[-overlap:] == b[:overlap] for a, b in zip(texts, texts[1:])) or not overlap
    if by == "sentences":
        assert all(one.text[-1] in ".!?" for one in found) and found[0].text == "The cat sat on the mat. It slept well!"


def test_a_long_sentence_stands_alone():
    found = rag.chunks("a b c d e f g. H i.", 3, 0, "sentences")
    assert [one.text for one in found] == ["a b c d e f g.", "H i."]
    assert rag.chunks("", 3, 0) == []


def test_an_index_there_and_back(tmp_path):
    passages = [rag.Passage(text, "s", i) for i, text in enumerate(["zebra zoo", "cat mat", "niño año"])]
    index = rag.Index.build(passages, embed, "letters")
    for by in ("vectors", "words", "fused"):
        assert index.search("a cat on the mat", 1, by)[0].id == 1
    backwards = lambda question, texts: [-len(text) for text in texts]
    assert index.search("cat", 3, rerank=backwards)[0].id == 1
    index.save(tmp_path / "i.npz")
    again = rag.Index.load(tmp_path / "i.npz", embed, "letters")
    assert again.passages == passages and again.search("ñ", 1)[0].id == 2
    with pytest.raises(UserError, match="made with the encoder 'letters', not with 'other'"):
        rag.Index.load(tmp_path / "i.npz", embed, "other")
    with pytest.raises(UserError, match="has vectors of 27, this encoder of 3"):
        rag.Index.load(tmp_path / "i.npz", lambda texts: np.ones((len(texts), 3)))
    with pytest.raises(UserError, match="no encoder to read questions"):
        rag.Index.load(tmp_path / "i.npz").search("x")
    with np.load(tmp_path / "i.npz") as file:
        arrays = dict(file)
    arrays["x"] = arrays["x"] + 1
    np.savez(tmp_path / "j.npz", **arrays)
    with pytest.raises(UserError, match="does not match its digest"):
        rag.Index.load(tmp_path / "j.npz")
    (tmp_path / "k.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match="cannot be read as an index"):
        rag.Index.load(tmp_path / "k.npz")


def test_prompts_fit_and_cite():
    hits = [rag.Hit(rag.Passage(text), 1.0, i) for i, text in enumerate(["one " * 30, "two " * 5, "three " * 5])]
    prompt, used = rag.assemble("why?", hits, 40)
    assert [hit.id for hit in used] == [1, 2] and "[2] three" in prompt and len(prompt.split()) <= 40
    assert prompt.endswith("Question: why?\nAnswer:")
    assert rag.citations("So [2], and [1, 7] and [2].", used) == ([used[1], used[0]], [7])
    with pytest.raises(UserError, match="there is room for 5"):
        rag.assemble("why?", hits, 5)


def test_bad_input():
    with pytest.raises(UserError, match="overlap must be at least 0 and at most 4"):
        rag.chunks("a", 5, 5)
    with pytest.raises(UserError, match='by "words", "tokens" or'):
        rag.chunks("a", by="pages")
    with pytest.raises(UserError, match="need a tokenizer"):
        rag.chunks("a", by="tokens")
    with pytest.raises(UserError, match="2 passages, but 1 vectors"):
        rag.Index([rag.Passage("a")] * 2, [[1.0]])
