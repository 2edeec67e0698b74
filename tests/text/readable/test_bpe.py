"""Byte-level BPE against slow references, the `tokenizers` library, and published vocabularies."""

import gzip
import json
import pickle
import random
import time
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.text import BPETokenizer, FastTokenizer
from jaxlm.text.base import EOT
from jaxlm.text.formats.layout import CL100K, GPT2, Json, added_token, bpe, byte_characters, document

SPANISH = "bajo, bajito, bajísimo, alto, altísimo: el gato come pescado desafortunadamente. "
LANGUAGES = ("spa", "eng", "fra", "rus", "arb", "hin", "cmn_hans", "jpn", "kor", "tha", "tur", "vie", "heb", "tam")


@pytest.fixture(scope="module")
def tok(texts: list[str]) -> BPETokenizer:
    return BPETokenizer.train([*texts, SPANISH * 20], 1000)


@pytest.fixture(scope="module")
def real(shared: Path) -> list[str]:
    """Real texts in English, Spanish and a dozen other languages."""
    folder = shared / "data" / "text"
    english = (folder / "tinyshakespeare.txt").read_text()[:50_000]
    spanish = gzip.decompress((folder / "quijote.txt.gz").read_bytes()).decode()[:50_000]
    with zipfile.ZipFile(folder / "udhr2.zip") as rights:
        names = [name for name in rights.namelist() if Path(name).stem in LANGUAGES]
        assert len(names) == len(LANGUAGES)
        return [english, spanish, *(rights.read(name).decode() for name in names)]


def slow_merge(word: str, merges: list[tuple[str, str]]) -> list[str]:
    """The definition: among all pairs of neighbours the merge that was learned first, the leftmost."""
    parts = [byte_characters()[byte] for byte in word.encode()]
    while pairs := [pair for pair in zip(parts, parts[1:]) if pair in merges]:
        best = min(pairs, key=merges.index)
        at = next(i for i, pair in enumerate(zip(parts, parts[1:])) if pair == best)
        parts[at : at + 2] = ["".join(best)]
    return parts


def slow_train(words: list[str], alphabet: list[str], merges: int) -> list[tuple[tuple[str, str], int]]:
    """Counts all pairs of all words again before every merge."""
    ids = {token: i for i, token in enumerate(alphabet)}
    split = [[byte_characters()[byte] for byte in word.encode()] for word in words]
    learned = []
    for _ in range(merges):
        counts: dict[tuple[str, str], int] = {}
        for parts in split:
            for pair in zip(parts, parts[1:]):
                counts[pair] = counts.get(pair, 0) + 1
        best = min(counts, key=lambda pair: (-counts[pair], ids[pair[0]], ids[pair[1]]))
        learned.append((best, counts[best]))
        ids["".join(best)] = len(ids)
        for parts in split:
            at = 0
            while at < len(parts) - 1:
                if (parts[at], parts[at + 1]) == best:
                    parts[at : at + 2] = ["".join(best)]
                at += 1
    return learned


def library_train(texts: list[str], V: int, pattern: str) -> Json:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=V,
        special_tokens=[EOT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(texts, trainer)
    return json.loads(library.to_str())["model"]


def agree(readable: BPETokenizer, fast: FastTokenizer, texts: list[str]) -> None:
    for literal in (False, True):
        ours = readable.encode_batch(texts, special=True, literal=literal)
        for text, mine, theirs in zip(texts, ours, fast.encode_batch(texts, special=True, literal=literal)):
            assert mine == theirs, text
            assert readable.decode(mine) == fast.decode(mine)
            assert readable.decode(mine, skip_special=True) == fast.decode(mine, skip_special=True)


# Training


def test_training_is_counting_pairs_again_and_again() -> None:
    chance = random.Random(0)
    words = ["".join(chance.choices("abcñ", k=chance.randrange(1, 9))) for _ in range(300)]
    tok = BPETokenizer.train([" ".join(words)], 256 + 40, pattern=r"[^ ]+| ", specials=())
    expected = slow_train(words, sorted(byte_characters()), 40)
    assert tok.merges == [pair for pair, _ in expected]
    assert [merge.count for merge in tok.story] == [count for _, count in expected]


@pytest.mark.parametrize("pattern", [GPT2, CL100K])
def test_training_is_the_librarys(texts: list[str], pattern: str) -> None:
    ours, theirs = BPETokenizer.train(texts, 1500, pattern).to_json()["model"], library_train(texts, 1500, pattern)
    assert ours["merges"] == theirs["merges"]
    assert ours["vocab"] == theirs["vocab"]


def test_training_to_the_last_pair_is_the_librarys_too() -> None:
    chance = random.Random(1)
    words = [" ".join("".join(chance.choices("ab", k=chance.randrange(14))) for _ in range(40)) for _ in range(8)]
    for text in words:
        with pytest.raises(UserError, match="use at most") as refused:
            BPETokenizer.train([text], 10_000)
        most = int(str(refused.value).split("at most ")[1].split(",")[0])
        tok = BPETokenizer.train([text], most)
        assert (tok.V, len(tok.merges)) == (most, most - 257)
        assert tok.to_json()["model"]["merges"] == library_train([text], most, CL100K)["merges"]


def test_a_vocabulary_has_the_size_asked_for_and_special_tokens_first(tok: BPETokenizer) -> None:
    assert (tok.V, tok.specials, tok.eot, tok.eos, tok.stops, tok.prefix) == (1000, {0: EOT}, 0, 0, (0,), (0,))
    assert tok.encode("a", special=True) == [0, *tok.encode("a")]
    assert tok.pieces[0] == b"" and tok.token(0) == EOT and tok.token(tok.encode(" ")[0]) == "Ġ"
    smallest = BPETokenizer.train(["x"], 258, specials=("<a>", "<b>"))
    assert (smallest.V, smallest.prefix, smallest.eos) == (258, (), None)
    assert smallest.encode("é") == [smallest.vocab[c] for c in "Ã©"]


def test_training_counts_words_of_a_stream_and_shows_progress(texts: list[str]) -> None:
    heard: list[tuple[int, int | None, str]] = []
    one = BPETokenizer.train(iter(texts), 400, progress=lambda *said: heard.append(said))
    again = BPETokenizer.train(texts, 400)
    assert one.fingerprint == again.fingerprint
    assert heard[-1] == (143, 143, "merges")
    assert BPETokenizer.train(texts, 280, most_words=100).merges != one.merges[: 280 - 257]


# Encoding


def test_encoding_is_the_definition(tok: BPETokenizer, texts: list[str], strange: list[str]) -> None:
    for text in [SPANISH, texts[3][:2000], *strange[:60]]:
        expected = [tok.vocab[part] for word in tok.words(text) for part in slow_merge(word, tok.merges)]
        assert tok.encode(text, literal=True) == expected


def test_long_words_are_merged_as_short_ones(tok: BPETokenizer) -> None:
    chance = random.Random(2)
    words = ["a" * n for n in (1, 2, 3, 63, 64, 65, 500)]
    words += ["".join(chance.choices("abcdeimnorst ", k=chance.randrange(1, 300))) for _ in range(200)]
    dense = BPETokenizer.train(["ab" * 40, "ba" * 33, "a" * 90, "b" * 70], 280, pattern=r"[ab]+", specials=())
    words += ["".join(chance.choices("ab", k=chance.randrange(1, 300))) for _ in range(200)]
    for word in words:
        for one in (tok, dense):
            assert one._merge_short(word.encode()) == one._merge_long(word.encode()), word
    assert dense.encode_word("ab" * 60) == [dense.vocab[part] for part in slow_merge("ab" * 60, dense.merges)]


def test_every_text_comes_back(tok: BPETokenizer, strange: list[str]) -> None:
    for text, ids in zip(strange, tok.encode_batch(strange)):
        assert tok.decode(ids) == text == tok.decode_bytes(tok.encode(text, literal=True)).decode()
    with pytest.raises(UserError, match=r"lone surrogate U\+D800"):
        tok.encode("a\ud800")


def test_twenty_thousand_random_texts_come_back(tok: BPETokenizer) -> None:
    chance = random.Random(3)
    planes = [(0, 0x300), (0, 0xD800), (0xE000, 0x110000)]
    chars = [chr(chance.randrange(*planes[i % 3])) for i in range(60_000)]
    for at in range(0, len(chars), 3):
        text = "".join(chars[at : at + 3])
        assert tok.decode(tok.encode(text)) == text


def test_offsets_are_those_of_the_library(tok: BPETokenizer, strange: list[str]) -> None:
    fast = FastTokenizer(tok.to_json())
    for text in [SPANISH, *strange[:100]]:
        ours, theirs = tok.encoding(text), fast.encoding(text)
        assert (ours.ids, ours.tokens) == (theirs.ids, theirs.tokens)
        assert ours.offsets is not None and [text[a:b] for a, b in ours.offsets] == [
            text[a:b] for a, b in theirs.offsets or ()
        ]


# The same tokenizer in the library


def test_the_library_opens_what_was_trained(tok: BPETokenizer, texts: list[str], strange: list[str]) -> None:
    agree(tok, FastTokenizer(tok.to_json()), [*texts[:50], SPANISH, *strange])


def test_saved_and_read_again_it_is_the_same(tok: BPETokenizer, strange: list[str], tmp_path: Path) -> None:
    tok.save(tmp_path)
    again = BPETokenizer.from_json(json.loads((tmp_path / "tokenizer.json").read_text()))
    assert again.fingerprint == tok.fingerprint == pickle.loads(pickle.dumps(tok)).fingerprint
    assert (again.V, again.prefix, again.eos, again.specials) == (tok.V, tok.prefix, tok.eos, tok.specials)
    assert again.encode_batch(strange) == tok.encode_batch(strange)


def test_the_library_learns_and_does_the_same_on_real_texts(real: list[str]) -> None:
    tok = BPETokenizer.train(real, 3000, pattern=GPT2)
    assert tok.to_json()["model"]["merges"] == library_train(real, 3000, GPT2)["merges"]
    agree(tok, FastTokenizer(tok.to_json()), real)


def published(shared: Path, name: str) -> Json:
    folder = shared / "data" / "tokenizers"
    if name == "deepseek":
        return json.loads(gzip.decompress((folder / "deepseek_r1_tokenizer.json.gz").read_bytes()))
    vocab = json.loads((folder / "gpt2_encoder.json").read_text())
    merges = [tuple(line.split(" ")) for line in (folder / "gpt2_vocab.bpe").read_text().split("\n")[1:-1]]
    level = {"type": "ByteLevel", "add_prefix_space": name == "gpt2 after a space", "trim_offsets": True}
    return document(bpe(vocab, merges), {EOT: 50256}, pre_tokenizer=level, decoder=level)


@pytest.mark.parametrize("name", ["gpt2", "gpt2 after a space", "deepseek"])
def test_published_tokenizers_are_the_librarys(shared: Path, real: list[str], strange: list[str], name: str) -> None:
    spec = published(shared, name)
    tok = BPETokenizer.from_json(spec, name)
    chance = random.Random(4)
    added = [token["content"] for token in spec["added_tokens"]]
    marked = ["".join(chance.choices([*added, *strange], k=6)) for _ in range(50)]
    fast = FastTokenizer(spec)
    assert tok.V == fast.V
    agree(tok, fast, [*(text[:1500] for text in real), *strange, *marked])


@pytest.mark.parametrize("name", ["byte_bpe_gpt2", "byte_bpe_split"])
def test_parity_cases(shared: Path, name: str) -> None:
    folder = shared / "parity" / "tokenizers" / name
    tok = BPETokenizer.from_json(json.loads((folder / "tokenizer.json").read_text()))
    fast = FastTokenizer(tok.to_json())
    for case in json.loads((folder / "cases.json").read_text()):
        assert tok.encode(case["text"], special=True) == case["ids"] == fast.encode(case["text"], special=True)
        assert tok.encode(case["text"]) == case["ids_plain"]
        assert tok.encoding(case["text"]).tokens == case["tokens_plain"]
        assert tok.decode(case["ids_plain"]) == case["decoded"]
        assert tok.decode(case["ids"], skip_special=True) == case["decoded_skip_special"]


@pytest.mark.parametrize("change", ["nfc", "space", "added", "whole", "roberta"])
def test_what_other_models_do_differently(tok: BPETokenizer, strange: list[str], change: str) -> None:
    spec = tok.to_json()
    if change == "nfc":
        spec["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "NFC"}]}
        spec["added_tokens"].append(added_token(1000, "\u1e63", special=False))
    if change == "space":
        spec["pre_tokenizer"]["pretokenizers"][-1]["add_prefix_space"] = True
    if change == "added":
        flags = ["lstrip", "rstrip", "single_word", "normalized", "special"]
        for i, flag in enumerate(flags):
            spec["added_tokens"].append(added_token(1000 + i, f"<{flag}>", special=False) | {flag: True})
        spec["added_tokens"] += [added_token(1005, "  ", special=False), added_token(1006, "<special>a", special=False)]
    if change == "whole":
        merges = spec["model"]["merges"]
        spec["model"] |= {"ignore_merges": True, "merges": [" ".join(pair) for pair in merges[: len(merges) // 2]]}
    if change == "roberta":
        spec["post_processor"] = {"type": "RobertaProcessing", "sep": [EOT, 0], "cls": ["a", tok.vocab["a"]]}
        spec["post_processor"] |= {"trim_offsets": True, "add_prefix_space": False}
    chance = random.Random(5)
    marks = ["<lstrip>", "<rstrip>", "<single_word>", "<normalized>", "<special>", "\u1e63", "s\u0323", "the", "a", " "]
    texts = ["".join(chance.choices([*marks, *strange[:30]], k=5)) for _ in range(300)]
    readable = BPETokenizer.from_json(spec)
    assert "".join(readable.words("e\u0301")) == {"nfc": "\u00e9", "space": " e \u0301"}.get(change, "e\u0301")
    agree(readable, FastTokenizer(spec), texts)
    agree(readable, FastTokenizer(readable.to_json()), texts)


# Dropout


def test_dropout_of_nothing_is_encoding_and_of_everything_bytes(tok: BPETokenizer) -> None:
    rng = np.random.default_rng(0)
    text = SPANISH + EOT + "x" * 200
    assert tok.sample(text, 0, rng) == tok.encode(text)
    assert [tok.pieces[i] for i in tok.sample("ñu " + EOT, 1, rng)] == [b"\xc3", b"\xb1", b"u", b" ", b""]
    many = {tuple(tok.sample(text, 0.3, rng)) for _ in range(20)}
    assert len(many) > 15 and {tok.decode(ids) for ids in many} == {text}


def chances(parts: tuple[str, ...], merges: list[tuple[str, str]], p: float) -> dict[tuple[str, ...], float]:
    """How likely each way to spell a word is, by the definition: each possible merge sits out with probability p."""
    possible = sorted((merges.index(pair), at) for at, pair in enumerate(zip(parts, parts[1:])) if pair in merges)
    found = {parts: p ** len(possible)}
    for better, (_, at) in enumerate(possible):
        merged = (*parts[:at], parts[at] + parts[at + 1], *parts[at + 2 :])
        for spelled, chance in chances(merged, merges, p).items():
            found[spelled] = found.get(spelled, 0.0) + p**better * (1 - p) * chance
    return found


def test_dropout_is_that_of_the_paper() -> None:
    merges = [("b", "c"), ("a", "b"), ("a", "bc"), ("a", "a"), ("abc", "ab")]
    tokens = [*sorted(byte_characters()), *("".join(pair) for pair in merges)]
    tok = BPETokenizer({token: i for i, token in enumerate(tokens)}, merges)
    rng, p, n = np.random.default_rng(1), 0.4, 20_000
    drawn = Counter(tuple(map(tok.token, tok.sample("abcaab", p, rng))) for _ in range(n))
    expected = chances(tuple("abcaab"), merges, p)
    assert abs(sum(expected.values()) - 1) < 1e-9 and drawn.keys() <= expected.keys()
    for spelled, chance in expected.items():
        assert abs(drawn[spelled] / n - chance) < 4 * (chance / n) ** 0.5 + 1e-3


@pytest.mark.parametrize("dropout", [-0.1, 1.5, float("nan")])
def test_dropout_is_a_probability(tok: BPETokenizer, dropout: float) -> None:
    with pytest.raises(UserError, match="not a probability"):
        tok.sample("a", dropout, np.random.default_rng(0))


# The story


def test_the_story_of_a_word_ends_in_its_tokens(tok: BPETokenizer) -> None:
    text = f"el gato come pescado bajísimo{EOT} 日本"
    explained = tok.explain(text)
    assert [i for word in explained.words for i in word.ids] == tok.encode(text)
    for word in explained.words:
        row = [bytes([byte]) for byte in word.word.encode()]
        for step in word.steps:
            merge = tok.story[step.rank]
            assert (row[step.at], row[step.at + 1]) == (merge.left, merge.right)
            row[step.at : step.at + 2] = [merge.left + merge.right]
            assert tuple(row) == step.pieces
        assert not word.steps or tuple(row) == word.pieces
        nodes = [*word.nodes()]
        under = {place for *_, children in nodes for place in children}
        assert [piece for x, y, piece, *_ in sorted(nodes) if (x, y) not in under] == [*word.pieces]
    said = str(tok.explain(" bajísimo"))
    assert said.splitlines()[:2] == ["␣bajísimo", "          ␣ b a j \\xc3 \\xad s i m o"]
    assert said.splitlines()[-1].startswith("  tokens  ")


def test_stories_are_drawn(tok: BPETokenizer, tmp_path: Path) -> None:
    tok.explain(SPANISH + "日本 \0" + EOT).draw(tmp_path / "word.png")
    tok.story.draw(tmp_path / "merges.png")
    assert {path.name for path in tmp_path.iterdir()} == {"word.png", "merges.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())
    assert str(tok.story).splitlines()[-1] == f"... {len(tok.merges) - 30:,} more"
    with pytest.raises(UserError, match="not known"):
        BPETokenizer.from_json(tok.to_json()).story.draw(tmp_path / "none.png")
    for text, words in (("", "1 to 600 bytes"), ("hola " * 400, "explain less"), ("x" * 400, "at most 300")):
        with pytest.raises(UserError, match=words):
            tok.explain(text).draw(tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


# Speed


@pytest.mark.parametrize("text", ["a", " ", "\n", "1", "ab", "á\t ", "'s"])
def test_time_grows_with_the_length(text: str) -> None:
    """Four times the text in at most twelve times the time (quadratic would be 16, and minutes for a megabyte)."""
    tok = BPETokenizer.train([text * 300, text * 77], 256 + 2, pattern=CL100K if text in ("1", "'s") else r"[\s\S]+")
    cut = BPETokenizer(tok._model_vocab, tok.merges)  # as words of the usual pattern

    def seconds(one: BPETokenizer, n: int) -> float:
        begun = time.process_time()
        ids = one.encode(text * (n // len(text.encode())))
        assert len(ids) < n
        return time.process_time() - begun

    for one in (tok, cut):
        assert seconds(one, 80_000) < 12 * seconds(one, 20_000) + 0.2


# Bad input


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"V": 200}, "use at least 257"),
        ({"V": 100_000}, "use at most"),
        ({"texts": []}, "no text"),
        ({"texts": ["", ""]}, "no text"),
        ({"specials": ("<a>", "<a>")}, "must differ"),
        ({"specials": ("a",)}, "must differ"),
        ({"specials": ("",)}, "must differ"),
        ({"specials": ("at",)}, "is a word of the text"),
        ({"pattern": "(a"}, "no regular expression"),
        ({"texts": ["a\ud800"]}, "lone surrogate"),
    ],
)
def test_training_that_cannot_work(options: Json, words: str) -> None:
    with pytest.raises(UserError, match=words):
        BPETokenizer.train(**({"texts": ["el gato gato gato gato"], "V": 262} | options))


def edited(spec: Json, path: str, value: object) -> Json:
    spec = json.loads(json.dumps(spec))
    *folders, last = path.split("/")
    inside = spec
    for folder in folders:
        inside = inside[folder]
    if value is None:
        del inside[last]
    else:
        inside[last] = value
    return spec


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("model", None, "not a whole"),
        ("model/vocab", None, "not a whole"),
        ("model/vocab", ["a"], "not a whole"),
        ("model/vocab/a", "x", "not a whole"),
        ("model/vocab/a", None, "byte 0x61 has no token|no token has the id"),
        ("model/vocab/a", 300, "share the id 300"),
        ("model/vocab/a", -5, "begin at 0"),
        ("model/vocab/a", 5000, "no token has the id"),
        ("model/merges", [["a"]], "not a pair"),
        ("model/merges", ["a b c"], "not a pair"),
        ("model/merges", [["a", "zzz"]], "needs the token 'zzz'"),
        ("model/merges", [["q", "~"]], "needs the token 'q~'"),
        ("model/type", "Unigram", "model is Unigram"),
        ("model/dropout", 0.1, "no dropout"),
        ("model/end_of_word_suffix", "</w>", "no end_of_word_suffix"),
        ("normalizer", {"type": "Precompiled"}, "the normalizer 'Precompiled' has no readable form"),
        ("pre_tokenizer", {"type": "Whitespace"}, "must end with ByteLevel"),
        ("pre_tokenizer", None, "must end with ByteLevel"),
        ("decoder", {"type": "Metaspace"}, "decoder is not ByteLevel"),
        ("post_processor", {"type": "Other"}, "a post_processor 'Other' like this"),
        ("added_tokens", [added_token(7, EOT)], "more than one id|share the id"),
        ("added_tokens", [{"id": 0}], "not a whole"),
    ],
)
def test_a_broken_file_is_refused_by_name(tok: BPETokenizer, path: str, value: object, words: str) -> None:
    with pytest.raises(UserError, match=f"^bad.json: .*({words})"):
        BPETokenizer.from_json(edited(tok.to_json(), path, value), "bad.json")
