"""Where a text ends, and where it begins, as the files beside a model say."""

import json

import pytest

import jaxlm
from jaxlm.text import FastTokenizer
from jaxlm.text.formats import layout
from tests.convert import checkpoints
from tests.convert.checkpoints import LLAMA
from tests.scripted import scripted

SPECIALS = {"<s>": 256, "</s>": 257, "<end>": 258}


def tokenizer() -> FastTokenizer:
    model = layout.bpe({token: i for i, token in enumerate(layout.byte_characters())}, [])
    return FastTokenizer(layout.document(model, SPECIALS, None, *layout.byte_level(layout.GPT2), prefix=["<s>"]))


def test_a_stop_text_that_is_a_special_token_is_its_id():
    lm = scripted([*b"ab", 258, *b"c<end>d", 257], tokenizer())
    by_id = lm.generate("", 12, stop=258)
    for stop in ("<end>", ["x", "<end>"]):
        out = lm.generate("", 12, stop=stop)
        assert out.texts == by_id.texts == ["ab"] == ["".join(lm.stream("", 12, stop=stop))]
        assert out.tokens.tolist() == by_id.tokens.tolist()
    lm = scripted([*b"abc<end>d", 257], tokenizer())  # written in letters it is text like any other
    assert lm.generate("", 12, stop="<end>").texts == ["abc"] == ["".join(lm.stream("", 12, stop="<end>"))]


@pytest.mark.parametrize(
    ("ids", "stop", "text"),
    [
        ([*b"ab", 258, *b"\ncd"], "<end>\n", "ab"),
        ([*b"ab<end>\ncd"], "<end>\n", "ab"),  # in letters
        ([*b"ab", 258, *b"c", 258, *b"\nd"], "<end>\n", "abc"),  # the first one is followed by something else
        ([*b"a\n", 258, 256, *b"b"], ["\n<end><s>", "x"], "a"),
        ([*b"abc", 258, *b"defghijklmno"], ["o", "c<end>d"], "ab"),
        ([*"é".encode(), 258, *"é字".encode()], "<end>é", "é"),
        ([*b"ab", 258, *b"cd"], ["<end>x", "bc"], "abcd"),  # what stands on both sides of it is not one word
        ([*b"ab", 258, *b"cd"], ["bc"], "a"),  # as ever where no stop names it
    ],
)
def test_a_stop_text_may_have_special_tokens_within(ids, stop, text):
    lm = scripted([*ids, 257], tokenizer())
    out = lm.generate("", 24, stop=stop)
    assert out.texts == [text] == ["".join(lm.stream("", 24, stop=stop))]
    kept = out.tokens[0][out.tokens[0] >= 0].tolist()
    assert kept == [*ids, 257][: len(kept)]
    assert lm.tokenizer.decode(kept, skip_special=True) == text


def test_a_prompt_that_has_the_bos_gets_no_second_one():
    lm = scripted(b"abcdefgh", tokenizer())
    assert lm.generate(["hi", "<s>hi", "hi<s>"], 2).texts == ["cd", "cd", "de"]
    assert "".join(lm.stream("<s>hi", 2)) == "cd"


def test_where_a_text_ends_without_a_tokenizer(tmp_path):
    folder = checkpoints.write(tmp_path / "a", checkpoints.llama(), LLAMA)
    said = lambda file, eos: (folder / file).write_text(json.dumps({**(LLAMA if file == "config.json" else {}), **eos}))
    said("config.json", {"eos_token_id": [3, 5]})
    lm = jaxlm.load(folder)
    assert lm.tokenizer is None and lm.stops == (3, 5)
    first = int(lm.generate([[1, 2]], 3).tokens[0, 0])
    said("generation_config.json", {"eos_token_id": first})
    lm = jaxlm.load(folder)
    assert lm.generate([[1, 2]], 3).tokens.tolist() == [[first, -1, -1]]


def test_a_folder_with_the_settings_of_a_tokenizer_only_is_warned_of(tmp_path):
    folder = checkpoints.write(tmp_path / "a", checkpoints.llama(), LLAMA)
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.warns(UserWarning, match=r"has tokenizer_config\.json, but no tokenizer"):
        assert jaxlm.load(folder).tokenizer is None
