"""Rank files against the `tiktoken` library."""

import base64
import random
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from jaxlm.errors import UserError
from jaxlm.text import BPETokenizer, FastTokenizer
from jaxlm.text.base import EOT
from jaxlm.text.formats.layout import CL100K, GPT2, QWEN2
from jaxlm.text.formats.tiktoken import KIMI, O200K, PUBLISHED, ranks_to_json, read_ranks, tiktoken_to_json

BYTES = {bytes([byte]): 255 - byte for byte in range(256)}
RUNS = ["a" * 1000, " " * 1000, "ab" * 700, "aaab" * 300, "\n" * 999, "=-" * 500, "ñ" * 500, "日本" * 300, " a" * 500]


def rank_file(ranks: Mapping[bytes, int]) -> bytes:
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items())


def library(ranks: Mapping[bytes, int], pattern: str, specials: Mapping[str, int]) -> Any:
    tiktoken = pytest.importorskip("tiktoken")
    known = {token: rank for token, rank in ranks.items() if token}
    return tiktoken.Encoding("test", pat_str=pattern, mergeable_ranks=known, special_tokens=dict(specials))


def agree(ranks: Mapping[bytes, int], pattern: str, specials: Mapping[str, int], texts: list[str]) -> None:
    encoding, spec = library(ranks, pattern, specials), ranks_to_json(ranks, pattern, specials)
    fast, readable = FastTokenizer(spec), BPETokenizer.from_json(spec)
    for text in texts:
        marked, literal = encoding.encode(text, allowed_special="all"), encoding.encode_ordinary(text)
        assert fast.encode(text) == readable.encode(text) == marked, text
        assert fast.encode(text, literal=True) == readable.encode(text, literal=True) == literal, text
        assert fast.decode(marked) == readable.decode(marked) == text


@pytest.mark.parametrize("seed", range(6))
def test_any_ranks_give_the_ids_of_tiktoken(seed: int, strange: list[str]) -> None:
    """Random tokens in random order: most cannot be reached by merging at all, others only after worse ones."""
    chance = random.Random(seed)
    letters = "ab" if seed % 2 else "abc "
    tokens = {"".join(chance.choices(letters, k=chance.randrange(2, 7))).encode() for _ in range(60)}
    ordered = sorted(tokens)
    chance.shuffle(ordered)
    ranks = BYTES | {token: 256 + i for i, token in enumerate(ordered)}
    texts = ["".join(chance.choices(letters, k=chance.randrange(1, 40))) for _ in range(500)]
    agree(ranks, r"[\s\S]+", {}, [*texts, *RUNS])
    agree(ranks, CL100K, {EOT: 1000, "[x]": 1002}, [*texts, *strange, f"a{EOT}b[x]"])


def test_bytes_need_not_have_the_first_ranks() -> None:
    ranks = {b"ab": 0, b"abab": 1, **{token: rank + 2 for token, rank in BYTES.items() if token != b"b"}, b"b": 400}
    spec = ranks_to_json(ranks, GPT2, {EOT: 300})
    assert FastTokenizer(spec).encode("ababab" + EOT) == BPETokenizer.from_json(spec).encode("ababab" + EOT)
    agree(ranks, GPT2, {EOT: 300}, ["ababab", "b" + EOT, "abbb"])


@pytest.mark.parametrize("name", ["gpt2.tiktoken", "multilingual.tiktoken"])
def test_published_files_give_the_ids_of_tiktoken(shared: Path, strange: list[str], name: str) -> None:
    data = (shared / "data" / "tokenizers" / name).read_bytes()
    ranks = read_ranks(data, name)
    found = PUBLISHED[len(ranks)]
    with zipfile.ZipFile(shared / "data" / "text" / "udhr2.zip") as rights:
        names = [name for name in rights.namelist() if name.endswith(".txt")][::40]
        real = [rights.read(name).decode()[:4000] for name in [*names, "udhr2/spa.txt", "udhr2/eng.txt"]]
    spec = tiktoken_to_json(data, name)
    fast, readable = FastTokenizer(spec), BPETokenizer.from_json(spec)
    encoding = library(ranks, found.pattern, found.specials)
    assert fast.V == readable.V == encoding.n_vocab
    for text in [*real, *strange[:200], *RUNS]:
        expected = encoding.encode(text, allowed_special="all")
        assert fast.encode(text) == readable.encode(text) == expected, text


def test_the_last_merges_of_a_published_file_are_its_merges(shared: Path) -> None:
    folder = shared / "data" / "tokenizers"
    spec = tiktoken_to_json((folder / "gpt2.tiktoken").read_bytes())
    merges = (folder / "gpt2_vocab.bpe").read_text().split("\n")[1:-1]
    assert [" ".join(pair) for pair in spec["model"]["merges"]] == merges


@pytest.mark.parametrize("count", PUBLISHED)
def test_published_encodings_are_recognised(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = PUBLISHED[count]
    assert all(spelling in found.specials for spelling in found.prefix)
    assert len({*found.specials.values()}) == len(found.specials)
    ranks = BYTES | {b"\xff%d" % i: i for i in range(256, 300)}
    small = {spelling: i - count + len(ranks) for spelling, i in found.specials.items()}
    ranks = {token: rank for token, rank in ranks.items() if rank not in small.values()}
    monkeypatch.setitem(PUBLISHED, len(ranks), found)
    spec = ranks_to_json(ranks, found.pattern, small, found.prefix, found.normalizer)
    fast, readable = FastTokenizer(spec), BPETokenizer.from_json(spec)
    text = "".join(small) + "e\u0301"
    assert fast.encode(text, special=True) == readable.encode(text, special=True)
    assert readable.encode("".join(small)) == [*small.values()]
    assert readable.prefix == tuple(small[spelling] for spelling in found.prefix)
    assert tiktoken_to_json(rank_file(ranks), specials={})["normalizer"] == found.normalizer


def test_published_patterns_are_those_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    public = pytest.importorskip("tiktoken_ext.openai_public")
    monkeypatch.setattr(public, "load_tiktoken_bpe", lambda *_, **__: {})
    for count, name in ((50256, "r50k_base"), (50280, "p50k_base"), (100256, "cl100k_base"), (199998, "o200k_base")):
        source = getattr(public, name)()
        assert dict(PUBLISHED[count].specials) == source["special_tokens"]
    assert source["pat_str"] == O200K


@pytest.mark.parametrize("pattern", [GPT2, CL100K, QWEN2, O200K, KIMI])
def test_patterns_mean_the_same_to_all_three(pattern: str, strange: list[str], texts: list[str]) -> None:
    more = ["I'LL we'Re '\u017f 1234567 ½", "CamelCase HTTPServer's", "日本語abc汉字 x", "a//\n/b\r\n\r\n  c"]
    agree(BYTES | {b"zz": 256}, pattern, {}, [*more, *strange[:150], *texts[:5]])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "byte 0x00 has no rank"),
        (b"\x00\xff\x80", "line 1 is not base64 and a rank"),
        (rank_file(BYTES) + b"YWI=", "line 257 is not base64"),
        (rank_file(BYTES) + b"YWI= -1\n", "line 257 is not base64"),
        (rank_file(BYTES) + b"YWI= 1.5\n", "line 257 is not base64"),
        (rank_file(BYTES) + b"Y?I= 300\n", "line 257 is not base64"),
        (rank_file(BYTES) + b"YWI= 300 3\n", "line 257 is not base64"),
        (rank_file(BYTES) + b"YQ== 300\n", "token b'a' has the rank 158 already"),
        (rank_file(BYTES) + b"YWI= 158\n", "tokens b'a' and b'ab' share the rank 158"),
        (rank_file(BYTES) + b"YWI= 500000000\n", "a rank 500000000, but there are only 257 tokens"),
        (rank_file(BYTES) + b"YWI= " + b"9" * 5000, "line 257 is not base64"),
        (rank_file(BYTES)[:-20], "byte 0xfe has no rank|line"),
        (rank_file(BYTES), "no known encoding has 256 ranks"),
    ],
)
def test_a_file_that_is_none_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(UserError, match=f"^my.tiktoken: .*({words})"):
        tiktoken_to_json(data, "my.tiktoken")


def test_what_the_file_does_not_say_can_be_given() -> None:
    tok = FastTokenizer(tiktoken_to_json(rank_file(BYTES), pattern=GPT2, specials={EOT: 256}))
    assert tok.encode("a" + EOT) == [255 - ord("a"), 256]
    with pytest.raises(UserError, match="cannot have the id 7"):
        tiktoken_to_json(rank_file(BYTES), pattern=GPT2, specials={EOT: 7})


def test_gaps_are_left_where_the_file_leaves_them() -> None:
    ranks = BYTES | {b"ab": 300}
    tok = FastTokenizer(ranks_to_json(ranks, GPT2, {EOT: 310}))
    assert (tok.V, tok.encode("ab" + EOT), tok.token(299)) == (311, [300, 310], "<|unused_299|>")
