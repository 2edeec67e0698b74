import json
import time
from pathlib import Path

import pytest

from jaxlm.errors import UserError
from jaxlm.text import BertNormalizer, FastTokenizer, TextStream, WordPieceTokenizer
from jaxlm.text.readable.wordpiece_story import Matching

SPANISH = ["bajo, bajito, bajísimo, alto, altísimo. El gato come pescado: afortunado, desafortunado, lentamente. " * 3]


@pytest.fixture(scope="module")
def wordpiece(texts: list[str]) -> WordPieceTokenizer:
    return WordPieceTokenizer.train(texts, 700)


@pytest.fixture(scope="module")
def spanish() -> WordPieceTokenizer:
    return WordPieceTokenizer.train(SPANISH, 85)


def slow(word: str, vocab: dict[str, int]) -> list[str]:
    """The longest prefix that is a token, then the rest."""
    out, rest = [], word
    while rest:
        mark = "##" if out else ""
        prefixes = [mark + rest[:stop] for stop in range(1, len(rest) + 1) if mark + rest[:stop] in vocab]
        if not prefixes:
            return ["[UNK]"]
        out.append(prefixes[-1])
        rest = rest[len(prefixes[-1]) - len(mark) :]
    return out


def test_words_are_matched_greedily_from_the_left(wordpiece: WordPieceTokenizer, texts: list[str]) -> None:
    words = {*wordpiece.words(" ".join(texts)), "ñandú", "self☕", "☕"}
    for word in words:
        assert [wordpiece.token(i) for i in wordpiece.encode_word(word)] == slow(word, wordpiece.vocab)
    assert len(words) > 1000


@pytest.mark.parametrize(
    "normalizer", [BertNormalizer(), BertNormalizer(lowercase=False), BertNormalizer(True, False, False)]
)
def test_the_library_opens_what_was_saved_with_identical_ids_and_texts(
    texts: list[str], strange: list[str], random_texts: list[str], normalizer: BertNormalizer, tmp_path: Path
) -> None:
    tokenizer = WordPieceTokenizer.train([*texts, "ñandú é日本"], 600, normalizer)
    tokenizer.save(tmp_path)
    fast = FastTokenizer((tmp_path / "tokenizer.json").read_bytes())
    given = strange + random_texts[:2500]
    assert tokenizer.encode_batch(given, literal=True) == fast.encode_batch(given, literal=True)
    for special in (False, True):
        ids = tokenizer.encode_batch(given, special)
        assert ids == fast.encode_batch(given, special)
        assert [tokenizer.decode(i) for i in ids] == [fast.decode(i) for i in ids]
        assert [tokenizer.decode(i, skip_special=True) for i in ids] == [fast.decode(i, skip_special=True) for i in ids]
    for text, pair in zip(texts[:40], texts[1:]):
        assert tokenizer.encoding(text) == fast.encoding(text)
        assert tokenizer.encoding(text, pair) == fast.encoding(text, pair)
        assert tokenizer.encoding(text, pair, special=True) == fast.encoding(text, pair, special=True)
    assert fast.pieces == tokenizer.pieces and fast.specials == tokenizer.specials
    # Where several marks follow a letter, the library may point at another of them.
    differ = [text for text in given if tokenizer.encoding(text) != fast.encoding(text)]
    assert len(differ) < len(given) / 300


def test_whole_texts_of_sixteen_languages_have_identical_ids_and_offsets(languages: dict[str, str]) -> None:
    texts = [text[:150_000] for text in languages.values()]
    tokenizer = WordPieceTokenizer.train(texts, 4000)
    fast = FastTokenizer(tokenizer.to_json())
    for text in texts:
        assert tokenizer.encoding(text, special=True) == fast.encoding(text, special=True)


def test_every_case_of_the_reference_folder(shared: Path) -> None:
    folder = shared / "parity/tokenizers/wordpiece_bert"
    tokenizer = WordPieceTokenizer.from_json(json.loads((folder / "tokenizer.json").read_bytes()))
    cases = json.loads((folder / "cases.json").read_bytes())
    for case in cases:
        plain = tokenizer.encoding(case["text"])
        assert (plain.ids, plain.tokens) == (case["ids_plain"], case["tokens_plain"])
        assert [list(span) for span in plain.offsets or ()] == case["offsets_plain"]
        assert tokenizer.encode(case["text"], special=True) == case["ids"]
        assert tokenizer.decode(case["ids_plain"]) == case["decoded"]
        assert tokenizer.decode(case["ids"], skip_special=True) == case["decoded_skip_special"]
    for case in json.loads((folder / "pairs.json").read_bytes()):
        both = tokenizer.encoding(case["a"], case["b"], special=True)
        assert (both.ids, both.types) == (case["ids"], case["type_ids"])
    assert len(cases) == 200


def test_special_tokens_are_berts(wordpiece: WordPieceTokenizer) -> None:
    assert [wordpiece.token(i) for i in range(5)] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert (wordpiece.pad, wordpiece.unk, wordpiece.bos, wordpiece.eos, wordpiece.stops) == (0, 1, 2, 3, (3,))
    assert wordpiece.encode("[MASK]", special=True) == [2, 4, 3]
    assert wordpiece.decode(wordpiece.encode("The text, self", special=True)) == "[CLS] the text, self [SEP]"
    assert wordpiece.byte_lengths_V[:5].sum() == 0


def test_a_stream_writes_what_decoding_gives(wordpiece: WordPieceTokenizer, texts: list[str]) -> None:
    ids = wordpiece.encode(texts[3], special=True)
    stream = TextStream(wordpiece, skip_special=True)
    assert "".join(stream.push([i]) for i in ids) + stream.flush() == wordpiece.decode(ids, skip_special=True)


def test_reading_gives_the_same_tokenizer_back(wordpiece: WordPieceTokenizer) -> None:
    again = WordPieceTokenizer.from_json(json.loads(json.dumps(wordpiece.to_json())))
    assert again.fingerprint == wordpiece.fingerprint and again.story is None


def test_long_words_take_time_in_proportion() -> None:
    vocab = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3, "##a": 4, "##aaaab": 5}
    tokenizer = WordPieceTokenizer(vocab, specials=("[UNK]", "[CLS]", "[SEP]"), max_input_chars_per_word=300_000)
    began = time.perf_counter()
    assert tokenizer.encode("a" * 300_000) == [3, *[4] * (300_000 - 1)]
    assert tokenizer.encode("a" * 300_001) == [0]
    assert time.perf_counter() - began < 20  # a second; half an hour if it grew with the square


def test_the_story_of_a_match_is_a_staircase(spanish: WordPieceTokenizer, tmp_path: Path) -> None:
    story = spanish.explain("Gatito, z")
    assert isinstance(story, Matching)
    gatito, comma, unknown = story.words
    taken = [step.taken for step in gatito[1]]
    assert taken == [spanish.token(i) for i in spanish.encode("gatito")]
    for word, steps in story.words:
        for step in steps:
            assert list(step.tried) == [
                word[step.start :][:n] for n in range(len(step.tried[0]), len(step.tried[-1]) - 1, -1)
            ]
            assert step.taken is None or step.taken.removeprefix("##") == step.tried[-1]
    assert comma[0] == "," and unknown == ("z", unknown[1]) and unknown[1][0].taken is None
    text = str(story)
    assert text.startswith(f"gatito -> {' '.join(filter(None, taken))}\n  gatito  no\n") and text.endswith(
        "z -> unknown\n  z  no"
    )
    story.draw(tmp_path / "match.png")
    assert (tmp_path / "match.png").read_bytes()[:4] == b"\x89PNG" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(UserError, match="a picture of 0 rows"):
        spanish.explain(" ").draw(tmp_path / "none.png")
    assert str(spanish.explain("z" * 101)) == f"{'z' * 101} -> unknown"


def test_the_story_of_the_training_lists_the_merges(spanish: WordPieceTokenizer, tmp_path: Path) -> None:
    story = spanish.story
    assert story is not None and story.score == "likelihood"
    for merge in story.merges:
        assert merge.left + merge.right.removeprefix("##") == merge.token and merge.token in spanish.vocab
    first = story.merges[0]
    assert f"{first.left} + {first.right}" in str(story).split("\n")[1]
    story.draw(tmp_path / "story.png")
    assert (tmp_path / "story.png").read_bytes()[:4] == b"\x89PNG"


def test_other_files_and_bad_vocabularies_are_refused(wordpiece: WordPieceTokenizer) -> None:
    spec = wordpiece.to_json()
    bad = [
        ({"model": spec["model"] | {"continuing_subword_prefix": "@@"}}, "tokens inside words begin with '@@'"),
        ({"model": spec["model"] | {"type": "BPE"}}, "its model is 'BPE', not 'WordPiece'"),
        ({"normalizer": None}, "its normalizer is None"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "cannot express the pre_tokenizer"),
        (
            {"model": spec["model"] | {"vocab": {"[UNK]": 0, "b": 0}}, "added_tokens": [], "post_processor": None},
            "share the id 0",
        ),
    ]
    for change, message in bad:
        with pytest.raises(UserError, match=rf"^that\.json: .*{message}"):
            WordPieceTokenizer.from_json(spec | change, "that.json")
    with pytest.raises(UserError, match=r"the special token '\[PAD\]' is not in the vocabulary"):
        WordPieceTokenizer({"[UNK]": 0})
