import json

import pytest

from jaxlm.errors import UserError
from jaxlm.text import CharacterTokenizer, FastTokenizer, TextStream, WordTokenizer
from jaxlm.text.readable.word_level import WordLevelTokenizer

KINDS = {"characters": (CharacterTokenizer, 60), "words": (WordTokenizer, 400)}


@pytest.fixture(scope="module", params=list(KINDS))
def word_level(request: pytest.FixtureRequest, texts: list[str]) -> WordLevelTokenizer:
    kind, V = KINDS[request.param]
    return kind.train(texts, V)


def test_the_library_opens_what_was_saved_with_identical_ids_and_texts(
    word_level: WordLevelTokenizer, strange: list[str], random_texts: list[str]
) -> None:
    fast = FastTokenizer(json.dumps(word_level.to_json()).encode())
    texts = strange + random_texts
    for special, literal in ((False, False), (True, False), (False, True)):
        ids = word_level.encode_batch(texts, special, literal)
        assert ids == fast.encode_batch(texts, special, literal)
        assert [word_level.decode(i) for i in ids] == [fast.decode(i) for i in ids]
        assert [word_level.decode(i, skip_special=True) for i in ids] == [
            fast.decode(i, skip_special=True) for i in ids
        ]
    for text, pair in zip(texts[:600], texts[1:]):
        assert word_level.encoding(text) == fast.encoding(text)
        assert word_level.encoding(text, pair, special=True) == fast.encoding(text, pair, special=True)
    assert fast.V == word_level.V and fast.pieces == word_level.pieces


@pytest.mark.parametrize("kind", list(KINDS))
def test_whole_texts_of_sixteen_languages_have_identical_ids(kind: str, languages: dict[str, str]) -> None:
    texts = [text[:200_000] for text in languages.values()]
    tokenizer = KINDS[kind][0].train(texts, 900)
    assert tokenizer.encode_batch(texts) == FastTokenizer(tokenizer.to_json()).encode_batch(texts)


def test_training_takes_the_most_frequent_and_the_first_of_equals() -> None:
    words = WordTokenizer.train(["el gato, el pez: el pan", "pez, gato el"], 7)
    assert list(words.vocab) == ["<|endoftext|>", "<unk>", "el", ",", "gato", "pez", ":"]
    characters = CharacterTokenizer.train(["cabbac", "ab\n\u0301"], 6, specials=("<unk>",))
    assert list(characters.vocab) == ["<unk>", "a", "b", "c", "\n", "\u0301"]


def test_unknown_words_and_white_space_are_what_is_lost() -> None:
    words = WordTokenizer.train(["¿El gato come?"], 7)
    ids = words.encode("¿El  perro\ncome?", special=True)
    assert words.decode(ids) == "<|endoftext|> ¿ El <unk> come ?"
    assert words.encoding("¿El  perro\ncome?").offsets == [(0, 1), (1, 3), (5, 10), (11, 15), (15, 16)]
    characters = CharacterTokenizer.train(["el gato\n"], 10)
    assert characters.decode(characters.encode("el\ngato gris")) == "el\ngato g<unk><unk><unk>"
    assert (words.eos, words.unk, words.prefix, words.stops) == (0, 1, (0,), (0,))


def test_a_stream_writes_what_decoding_gives(word_level: WordLevelTokenizer, texts: list[str]) -> None:
    ids = word_level.encode(texts[3], special=True)
    stream = TextStream(word_level, skip_special=True)
    assert "".join(stream.push([i]) for i in ids) + stream.flush() == word_level.decode(ids, skip_special=True)


def test_reading_gives_the_same_tokenizer_back(word_level: WordLevelTokenizer) -> None:
    again = type(word_level).from_json(json.loads(json.dumps(word_level.to_json())))
    assert again.fingerprint == word_level.fingerprint and again.prefix == word_level.prefix
    bare = type(word_level).train(["ab ab c"], 3, specials=("<unk>",))
    assert bare.prefix == () and bare.eos is None
    assert type(bare).from_json(bare.to_json()).to_json() == bare.to_json()


def test_bad_vocabularies_are_refused_in_one_line(word_level: WordLevelTokenizer) -> None:
    kind = type(word_level)
    bad = [
        ({"<unk>": 0, "a": 0}, r"tokens '<unk>' and 'a' share the id 0"),
        ({"<unk>": 0, "a": 2}, r"no token has the id 1"),
        ({"<unk>": 0, "a": -1}, r"the token 'a' has the id -1"),
        ({"a": 0, "b": 1}, r"the special token '<unk>' is not in the vocabulary"),
    ]
    for vocab, message in bad:
        with pytest.raises(UserError, match=f"vocabulary: {message}"):
            kind(vocab, specials=("<unk>",))
    with pytest.raises(UserError, match="'ab' is not one character"):
        CharacterTokenizer({"<unk>": 0, "ab": 1}, specials=("<unk>",))


def test_bad_training_is_refused_with_what_would_work(word_level: WordLevelTokenizer) -> None:
    train, name = type(word_level).train, word_level.KIND
    bad = [
        ([], 5, ("<unk>",), f"there is no text to take {name} from"),
        (["a b"], 1, ("<unk>",), f"V=1 has no room for {name} beside the special tokens: use at least 2"),
        (["a,b,c"], 9, ("<unk>",), f"V=9 is more than the {name} of this text: use at most 5"),
        (["a b"], 3, ("<eot>",), "the special token '<unk>' is missing"),
        (["a b"], 3, ("<unk>", "<unk>"), "the special token '<unk>' is given twice"),
        (["a b"], 3, ("<unk>", "b"), "the special token 'b' could be a word of the text"),
        (["a\ud800"], 3, ("<unk>",), r"lone surrogate U\+D800"),
    ]
    for texts, V, specials, message in bad:
        with pytest.raises(UserError, match=message):
            train(texts, V, specials)


def test_other_files_are_refused_by_name(word_level: WordLevelTokenizer) -> None:
    spec = word_level.to_json()
    model, token = spec["model"], spec["added_tokens"][0]
    bad = [
        ({"model": model | {"type": "BPE"}}, "model is 'BPE', not 'WordLevel'"),
        ({"model": None}, "model is None"),
        ({"normalizer": {"type": "NFC"}}, "cannot express the normalizer"),
        ({"pre_tokenizer": None}, "cannot express the pre_tokenizer"),
        ({"added_tokens": [token | {"lstrip": True}]}, "cannot express the added token '<|endoftext|>'"),
        ({"added_tokens": [token | {"id": 7}]}, "cannot express the added token '<|endoftext|>'"),
        ({"post_processor": {"type": "ByteLevel"}}, "cannot express the post_processor"),
    ]
    for change, message in bad:
        with pytest.raises(UserError, match=rf"^that\.json: .*{message}"):
            type(word_level).from_json(spec | change, "that.json")
