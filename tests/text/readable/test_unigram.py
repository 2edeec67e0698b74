import gzip
import io
import json
import math
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from jaxlm.errors import UserError
from jaxlm.text import FastTokenizer, UnigramTokenizer
from jaxlm.text.counts import count_words
from jaxlm.text.readable.lattice import Lattice, Trie
from jaxlm.text.readable.steps import Steps

LANGUAGES = ["eng", "spa", "jpn", "cmn_hans", "rus", "arb", "hin", "tha", "fra", "tur", "vie", "kor", "heb", "ben"]


@pytest.fixture(scope="module")
def tokenizer(texts: list[str]) -> UnigramTokenizer:
    return UnigramTokenizer.train(texts, V=900)


@pytest.fixture(scope="module")
def fast(tokenizer: UnigramTokenizer) -> FastTokenizer:
    return FastTokenizer(tokenizer.to_json())


@pytest.fixture(scope="module")
def real(shared: Path) -> dict[str, str]:
    """Four thousand characters each in English, Spanish and other languages."""
    with zipfile.ZipFile(shared / "data/text/udhr2.zip") as archive:
        found = {name: archive.read(f"udhr2/{name}.txt").decode()[:4000] for name in LANGUAGES}
    quijote = gzip.decompress((shared / "data/text/quijote.txt.gz").read_bytes()).decode()
    return found | {
        "quijote": quijote[50_000:70_000],
        "botchan": (shared / "data/text/botchan.txt").read_text()[:20_000],
    }


def test_every_text_comes_back(tokenizer: UnigramTokenizer, strange: list[str]) -> None:
    for text, ids in zip(strange, tokenizer.encode_batch(strange), strict=True):
        assert tokenizer.decode(ids) == text
    for text, ids in zip(strange, tokenizer.encode_batch(strange, literal=True), strict=True):
        assert tokenizer.decode(ids, skip_special=True) == text and tokenizer.decode_bytes(ids) == text.encode()
        assert tokenizer.unk not in ids and tokenizer.eot not in ids


@pytest.mark.parametrize("literal", [False, True])
@pytest.mark.parametrize("special", [False, True])
def test_the_fast_library_opens_it_with_the_same_ids(
    tokenizer: UnigramTokenizer, fast: FastTokenizer, strange: list[str], literal: bool, special: bool
) -> None:
    texts = [*strange, "<|endoftext|> <|endoftext|>a", "<0x41><0x", " <unk>漢<unk>", "日本 <0xE6>"]
    ours = tokenizer.encode_batch(texts, special, literal)
    assert ours == fast.encode_batch(texts, special, literal)
    for ids in ours:
        for skip in (False, True):
            assert tokenizer.decode(ids, skip) == fast.decode(ids, skip)
    assert [tokenizer.token(i) for i in range(tokenizer.V)] == [fast.token(i) for i in range(fast.V)]


def test_the_fast_library_agrees_on_real_texts(
    tokenizer: UnigramTokenizer, fast: FastTokenizer, real: dict[str, str], shared: Path
) -> None:
    spec = json.loads((shared / "parity/tokenizers/unigram/tokenizer.json").read_text())
    for ours, theirs in ((tokenizer, fast), (UnigramTokenizer.from_json(spec), FastTokenizer(spec))):
        for name, text in real.items():
            assert ours.encode(text) == theirs.encode(text), name
            assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text)), name
    assert all(tokenizer.decode(tokenizer.encode(text)) == text for text in real.values())


def test_every_case_of_a_t5_tokenizer(shared: Path) -> None:
    folder = shared / "parity/tokenizers/unigram"
    spec = json.loads((folder / "tokenizer.json").read_text())
    tokenizer = UnigramTokenizer.from_json(spec)
    assert tokenizer.to_json() == spec | {"post_processor": tokenizer.to_json()["post_processor"]}
    assert (tokenizer.eos, tokenizer.bos, tokenizer.unk, tokenizer.stops) == (1, None, 2, (1,))
    cases = json.loads((folder / "cases.json").read_text())
    assert len(cases) == 200
    for case in cases:
        assert tokenizer.encode(case["text"], special=True) == case["ids"]
        assert tokenizer.encode(case["text"]) == case["ids_plain"]
        assert tokenizer.decode(case["ids_plain"]) == case["decoded"]
        assert tokenizer.decode(case["ids"], skip_special=True) == case["decoded_skip_special"]


@pytest.mark.parametrize("name", ["spm_unigram", "spm_unigram_no_fallback", "sp_unigram_1k", "sp_ja"])
def test_sentencepiece_agrees_on_real_texts(shared: Path, real: dict[str, str], name: str) -> None:
    path = shared / f"data/tokenizers/{name}.model"
    if not path.exists():
        path = shared / f"parity/tokenizers/{name}/tokenizer.model"
        for case in json.loads((path.parent / "cases.json").read_text()):
            assert UnigramTokenizer.from_sentencepiece(path).encode(case["normalized"], literal=True) == case["ids"]
    tokenizer, library = UnigramTokenizer.from_sentencepiece(path), SentencePieceProcessor(model_file=str(path))
    for text in [*real.values(), *real["spa"].splitlines(), "</s> <0x41> <unk>漢<s>"]:
        assert tokenizer.encode(library.normalize(text), literal=True) == library.encode(text)
    for text in ("hello world", "el gato come pescado", "東京都に住む"):
        theirs = library.nbest_encode(text, nbest_size=4, out_type=int)
        ours = tokenizer.nbest(library.normalize(text), 8)
        scores = {tuple(one.ids): one.score for one in ours}
        assert [scores[tuple(ids)] for ids in theirs] == pytest.approx(
            [one.score for one in ours][: len(theirs)], abs=1e-4
        )


def test_training_gives_the_size_asked_and_the_same_every_time(texts: list[str], tokenizer: UnigramTokenizer) -> None:
    assert tokenizer.V == len(tokenizer.vocab) == 900
    assert (tokenizer.eot, tokenizer.eos, tokenizer.unk, tokenizer.prefix) == (0, 0, 1, (0,))
    assert UnigramTokenizer.train(iter(texts), V=900).fingerprint == tokenizer.fingerprint
    mass = sum(math.exp(score) for score in tokenizer.scores[258:])
    assert mass == pytest.approx(1.0, abs=1e-4)
    assert {*"".join(texts)} - {*tokenizer.vocab} <= {c for c, n in Counter("".join(texts)).items() if n < 20}
    two = UnigramTokenizer.train(texts, V=400, specials=("<|a|>", "<|b|>"))
    assert two.encode("x<|b|><|a|>")[1:] == [1, 0] and FastTokenizer(two.to_json()).encode("<|b|>") == [1]


def test_the_smallest_and_the_largest_size_work(texts: list[str]) -> None:
    few = [text[:2000] for text in texts[:3]]
    with pytest.raises(UserError, match=r"V=10 is too small for \d+ characters: use at least (\d+)") as small:
        UnigramTokenizer.train(few, V=10)
    with pytest.raises(UserError, match=r"V=100000 is more than this text supports: use at most (\d+)") as large:
        UnigramTokenizer.train(few, V=100_000)
    for error in (small, large):
        V = int(str(error.value).split("use at ")[1].split()[1].strip(","))
        assert UnigramTokenizer.train(few, V=V).V == V


def test_it_is_as_good_as_sentencepiece(texts: list[str]) -> None:
    lines = [" ".join(line.split()) for text in texts for line in text.splitlines() if line.strip()]
    cut, V = len(lines) * 4 // 5, 800
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines[:cut]),
        model_writer=model,
        model_type="unigram",
        vocab_size=V,
        character_coverage=1.0,
        normalization_rule_name="identity",
        minloglevel=2,
        num_threads=1,
    )
    library = SentencePieceProcessor(model_proto=model.getvalue())
    theirs = Trie([(library.id_to_piece(i).replace("▁", " "), i, library.get_score(i)) for i in range(3, V)], 0)
    ours = UnigramTokenizer.train([f" {line}" for line in lines[:cut]], V, (), byte_fallback=False, coverage=1.0)

    def log_likelihood(trie: Trie, lines: list[str]) -> float:
        counts = count_words([f" {line}" for line in lines], lambda text: [f" {word}" for word in text.split()])
        return sum(
            n * Lattice(ours.words(word) if trie is ours.trie else [word], trie).log_marginal()
            for word, n in counts.items()
        )

    for part in (lines[:cut], lines[cut:]):
        assert log_likelihood(ours.trie, part) > 1.01 * log_likelihood(theirs, part)


def test_without_bytes_unknown_characters_are_one_unknown_token(texts: list[str]) -> None:
    tokenizer = UnigramTokenizer.train(texts, V=300, byte_fallback=False)
    assert tokenizer.unk == 1
    assert tokenizer.encode("漢字x日") == [1, *tokenizer.encode("x"), 1]
    assert tokenizer.encode("漢字x日") == FastTokenizer(tokenizer.to_json()).encode("漢字x日")
    assert "<0x00>" not in tokenizer.vocab and tokenizer.V == 300


@pytest.mark.parametrize("byte_fallback", [False, True])
def test_a_text_that_spells_tokens_is_read_as_the_library_does(byte_fallback: bool) -> None:
    pieces = [("<unk>", 0.0), *((f"<0x{byte:02X}>", 0.0) for byte in range(256)), ("a", -1.0), ("ab", -1.5)]
    tokenizer = UnigramTokenizer(pieces, 0, byte_fallback, steps=Steps(None, None))
    library = FastTokenizer(tokenizer.to_json())
    for text in ("<unk>", "a<unk>", "<unk><unk>", "<unk>é", "é<0x41>", "ab漢é", "b<unk>a"):
        assert tokenizer.encode(text) == library.encode(text), text


def test_samples_and_the_best_segmentations(tokenizer: UnigramTokenizer) -> None:
    text = "the argument's default"
    best = tokenizer.nbest(text, 50)
    scores = [one.score for one in best]
    assert best[0].ids == tokenizer.encode(text) and scores == sorted(scores, reverse=True)
    assert all(tokenizer.decode(one.ids) == text == "".join(one.tokens) for one in best)
    assert sum(one.share for one in best) == pytest.approx(1.0, abs=0.2)
    rng = np.random.default_rng(0)
    drawn = [tuple(tokenizer.sample(text, rng, alpha=0.2)) for _ in range(200)]
    assert len(set(drawn)) > 15 and {tokenizer.decode(list(ids)) for ids in drawn} == {text}
    few = Counter(tuple(tokenizer.sample(text, rng, alpha=0.5, nbest=3)) for _ in range(2000))
    weights = np.exp([0.5 * one.score for one in best[:3]])
    for one, weight in zip(best[:3], weights / weights.sum()):
        assert few[tuple(one.ids)] / 2000 == pytest.approx(weight, abs=0.05)
    assert tokenizer.sample(text, rng, alpha=1000.0) == tokenizer.encode(text)


SPANISH = "bajo, bajito, bajísimo, alto, altito, altísimo, gato, gatito, pesco, pescado, comido, comida " * 4


def test_the_story_and_the_lattice_print_and_draw(tmp_path: Path) -> None:
    tokenizer = UnigramTokenizer.train([SPANISH], V=295)
    assert tokenizer.story is not None
    assert "bits/char" in str(tokenizer.story) and f"\n{tokenizer.story.rounds[0].pieces:8,}  " in str(tokenizer.story)
    assert tokenizer.story.rounds[-1].pieces == 295 - 258
    assert 0 < tokenizer.story.bits(-1) < 2
    explained = tokenizer.explain("bajísimo\n$漢$")
    ids = tokenizer.encode("bajísimo\n$漢$")
    assert explained.segmentations[0].ids == ids
    assert (
        sum(piece.best for piece in explained.pieces) == len(ids) - 2
    )  # the unknown characters in a row are five bytes, and three arcs
    assert explained.pieces[-2].token == "漢" and explained.pieces[-2].share == pytest.approx(1.0)
    assert "ísimo" in str(explained) and "↵" in str(explained)
    for what, name in (
        (tokenizer.story, "story.png"),
        (explained, "lattice.png"),
        (tokenizer.explain(""), "empty.png"),
    ):
        what.draw(tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert len([*tmp_path.iterdir()]) == 3


@pytest.mark.parametrize(
    ("pieces", "unk", "specials", "message"),
    [
        ([("a", -1.0), ("b", -2.0), ("a", -3.0)], None, (), "the piece 'a' has the ids 0 and 2: keep one"),
        ([("a", math.nan)], None, (), "the piece 'a' has the score nan"),
        ([("a", "x")], None, (), "the piece 'a' has the score 'x'"),
        ([("a", -1.0)], 1, (), "the unknown token's id 1 is outside the 1 pieces"),
        ([("a", -1.0)], 0, ("<s>",), "the special token '<s>' is not among the pieces"),
    ],
)
def test_bad_vocabularies_are_refused(pieces: list, unk: int | None, specials: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        UnigramTokenizer(pieces, unk, specials=specials)


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "there is no text to train a unigram tokenizer on"),
        (["", ""], {}, "there is no text to train a unigram tokenizer on"),
        (["a\ud800"], {}, "lone surrogate"),
        (["abc"], {"specials": ("EOT",)}, "the special token 'EOT' looks like a word: put it in marks"),
        (["abc"], {"specials": ("<unk>",)}, "the special token '<unk>' would be there twice"),
        (["abc"], {"specials": ("<s>", "<s>")}, "the special token '<s>' would be there twice"),
        (["abc"], {"coverage": 0.0}, "coverage=0.0"),
    ],
)
def test_what_cannot_be_trained_is_said(texts: list[str], options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        UnigramTokenizer.train(texts, V=300, **options)


def test_files_of_other_kinds_are_refused(shared: Path, tokenizer: UnigramTokenizer) -> None:
    with pytest.raises(UserError, match="not a unigram model"):
        UnigramTokenizer.from_sentencepiece(shared / "parity/tokenizers/spm_bpe/tokenizer.model")
    spec = tokenizer.to_json()
    marked = {"id": 0, "content": "<|endoftext|>", "special": True, "lstrip": True}
    for changed, message in (
        ({"model": {"type": "BPE"}}, "its model is 'BPE', not 'Unigram'"),
        ({"model": None}, "not a whole tokenizer.json"),
        ({"added_tokens": [marked]}, r"added token '<\|endoftext\|>' is lstrip"),
        ({"post_processor": {"type": "Other"}}, "post_processor 'Other' like this has no readable form"),
        ({"decoder": {"type": "CTC"}}, "the decoder has no readable form"),
    ):
        with pytest.raises(UserError, match=message):
            UnigramTokenizer.from_json(spec | changed)


def test_a_saved_tokenizer_is_the_same(tmp_path: Path, tokenizer: UnigramTokenizer, strange: list[str]) -> None:
    tokenizer.save(tmp_path)
    again = UnigramTokenizer.from_json(json.loads((tmp_path / "tokenizer.json").read_text()))
    assert again.fingerprint == tokenizer.fingerprint and again.prefix == tokenizer.prefix
    assert (again.eos, again.stops, again.bos) == (0, (0,), None)
    assert again.encode_batch(strange) == tokenizer.encode_batch(strange)


def test_offsets_are_places_in_the_text(tokenizer: UnigramTokenizer) -> None:
    text = "def f():\n    return '漢'"
    found = tokenizer.encoding(text, special=True)
    assert found.offsets is not None and found.offsets[0] == (0, 0)
    for token, (start, stop) in zip(found.tokens[1:], found.offsets[1:]):
        assert text[start:stop] == (token if not token.startswith("<0x") else "漢")
