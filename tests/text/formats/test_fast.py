"""The fast tokenizer against the fixtures made with its library, and what it refuses."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.text import FastTokenizer, TextStream, load_tokenizer
from jaxlm.text.formats import layout

PARITY = ["byte_bpe_gpt2", "byte_bpe_split", "bpe_byte_fallback", "unigram", "wordpiece_bert"]
SPECIALS = {"<|endoftext|>": 0}


def byte_bpe(**changes) -> dict:
    """Bytes, and the merges of "hola"."""
    merges = [("h", "o"), ("l", "a"), ("ho", "la")]
    tokens = ["<|endoftext|>", *layout.byte_characters(), *map("".join, merges)]
    split, level = layout.byte_level(layout.GPT2)
    model = layout.bpe({token: i for i, token in enumerate(tokens)}, merges)
    return layout.document(model, SPECIALS, None, split, level, prefix=["<|endoftext|>"]) | changes


@pytest.mark.parametrize("name", PARITY)
def test_every_case_of_the_fixtures(shared: Path, name: str) -> None:
    folder = shared / "parity/tokenizers" / name
    tokenizer = load_tokenizer(folder)
    for case in json.loads((folder / "cases.json").read_text()):
        assert tokenizer.encode(case["text"]) == case["ids_plain"]
        assert tokenizer.encode(case["text"], special=True) == case["ids"]
        assert tokenizer.decode(case["ids_plain"]) == case["decoded"]
        assert tokenizer.decode(case["ids"], skip_special=True) == case["decoded_skip_special"]
        plain = tokenizer.encoding(case["text"])
        assert (plain.ids, plain.tokens) == (case["ids_plain"], case["tokens_plain"])
        assert plain.offsets == [tuple(span) for span in case["offsets_plain"]]
    for case in json.loads((folder / "pairs.json").read_text()):
        both = tokenizer.encoding(case["a"], case["b"], special=True)
        assert (both.ids, both.types) == (case["ids"], case["type_ids"])


@pytest.mark.parametrize("name", PARITY)
def test_streams_join_to_the_decoded_text(shared: Path, name: str) -> None:
    tokenizer = load_tokenizer(shared / "parity/tokenizers" / name / "tokenizer.json")
    chance, compared = random.Random(0), 0
    for _ in range(500):
        ids = [chance.randrange(tokenizer.V) for _ in range(chance.randrange(12))]
        for skip in (False, True):
            stream = TextStream(tokenizer, skip)
            text, pushed = tokenizer.decode(ids, skip), "".join(stream.push([i]) for i in ids) + stream.flush()
            if "\ufffd" not in text + pushed:  # for broken UTF-8 the library and Python differ in how many they put
                assert pushed == text
                compared += 1
    assert compared > 300


def test_text_becomes_special_tokens_unless_it_is_literal() -> None:
    tokenizer = FastTokenizer(byte_bpe())
    text = "hola<|endoftext|>hola"
    assert tokenizer.encode(text) == [259, 0, 259]
    assert tokenizer.encode(text, special=True) == [0, 259, 0, 259]
    literal = tokenizer.encode(text, literal=True)
    assert 0 not in literal and tokenizer.decode(literal) == text
    assert tokenizer.encode_batch([text], literal=True) == [literal]
    assert tokenizer.encode_arrays([text], np.uint16)[0].tolist() == literal
    assert tokenizer.decode_bytes([0, 259]) == b"hola"
    assert tokenizer.byte_lengths_V[[0, 259]].tolist() == [0, 4]


def test_a_stored_length_limit_and_padding_lose_no_text() -> None:
    limit = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    padding = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None}
    padding |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "x"}
    tokenizer = FastTokenizer(byte_bpe(truncation=limit, padding=padding))
    assert tokenizer.encode("hola" * 3) == [259] * 3 == tokenizer.encode("hola" * 3, literal=True)


def test_decoders_without_a_rule_of_their_own_still_stream() -> None:
    tokenizer = FastTokenizer(
        byte_bpe(decoder={"type": "CTC", "pad_token": "h", "word_delimiter_token": "|", "cleanup": True})
    )
    stream = TextStream(tokenizer)
    ids = tokenizer.encode("hola hola")
    assert "".join(stream.push([i]) for i in ids) + stream.flush() == tokenizer.decode(ids)


NOTHING = {"type": "Strip", "content": " ", "start": 0, "stop": 0}


@pytest.mark.parametrize(
    ("decoder", "tokens", "text"),
    [
        ({"type": "BPEDecoder", "suffix": "</w>"}, ["ho", "la</w>", "a</w>"], "hola a"),
        (None, ["ho", "la"], "ho la"),
        ({"type": "Fuse"}, ["ho", "la"], "hola"),
        ({"type": "Sequence", "decoders": []}, ["ho", "la"], "hola"),
        (
            {"type": "Sequence", "decoders": [{"type": "BPEDecoder", "suffix": "a"}, NOTHING]},
            ["la", "ho", "la"],
            "l hol",
        ),
        ({"type": "WordPiece", "prefix": "##", "cleanup": True}, ["##la", "##la", "."], "##lala."),
        ({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}, ["▁▁a", "▁▁a"], "a  a"),
        ({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": True}, ["▁a", "▁a"], " a a"),
    ],
)
def test_what_decoders_do_between_tokens(decoder: dict | None, tokens: list[str], text: str) -> None:
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    model = {"type": "WordLevel", "vocab": vocab, "unk_token": tokens[0]}
    tokenizer = FastTokenizer(layout.document(model, {}, decoder=decoder))
    ids = [vocab[token] for token in tokens]
    stream = TextStream(tokenizer)
    assert tokenizer.decode(ids) == text == "".join(stream.push([i]) for i in ids) + stream.flush()


LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
WORDS_END = {"type": "Replace", "pattern": {"String": "</w>"}, "content": "Ġ"}


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize(
    "decoder",
    [LEVEL, {"type": "Sequence", "decoders": [WORDS_END, {"type": "Sequence", "decoders": [LEVEL]}]}],
    ids=["level", "clip"],
)
@pytest.mark.parametrize("added", ["<año>", "čas", "Ġx", "éé", "日本", "ÿ\u0100", "a b", "\U0001f600"])
def test_an_added_token_is_decoded_to_its_own_text(added: str, decoder: dict, special: bool) -> None:
    spec = byte_bpe(decoder=decoder)
    spec["added_tokens"].append(layout.added_token(260, added, special))
    tokenizer = FastTokenizer(spec)
    text = f"á{added}holañ{added}"
    ids = tokenizer.encode(text)
    assert ids.count(260) == 2 and tokenizer.decode(ids) == text
    left_out = text.replace(added, "") if special else text
    assert tokenizer.decode(ids, skip_special=True) == left_out
    for skip, wanted in [(False, text), (True, left_out)]:
        stream = TextStream(tokenizer, skip)
        assert "".join(stream.push([i]) for i in ids) + stream.flush() == wanted
    assert tokenizer.byte_lengths_V[260] == (0 if special else len(added.encode()))
    assert tokenizer.decode_bytes(ids) == left_out.encode()


def test_a_character_cut_short_comes_with_the_flush() -> None:
    steps = [LEVEL, {"type": "Strip", "content": " ", "start": 0, "stop": 0}]
    tokenizer = FastTokenizer(byte_bpe(decoder={"type": "Sequence", "decoders": steps}))
    first, second = tokenizer.encode("é")
    stream = TextStream(tokenizer)
    for ids, pushed, rest in [([first, second], ["", "é"], ""), ([259, first], ["hola", ""], "\ufffd")]:
        assert [stream.push([i]) for i in ids] == pushed and stream.flush() == rest
        assert tokenizer.decode_bytes(ids).decode() == "".join(pushed) + rest


def test_special_tokens_that_the_library_normalises_are_left_out() -> None:
    """As in the tokenizer.json of OpenLLaMA."""
    normalizers = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    space = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    decoders = [space, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    tokens = ["<s>", "▁hola", "▁", *"hola"]
    model = layout.bpe({token: i for i, token in enumerate(tokens)}, [])
    spec = layout.document(model, {"<s>": 0}, {"type": "Sequence", "normalizers": normalizers})
    spec |= {"decoder": {"type": "Sequence", "decoders": decoders}}
    spec["added_tokens"][0]["normalized"] = True
    tokenizer = FastTokenizer(spec)
    for ids, kept, left in [([0, 1], "<s> hola", "hola"), ([1, 0, 1], "hola<s> hola", "hola hola"), ([0], "<s>", "")]:
        for skip, wanted in [(False, kept), (True, left)]:
            stream = TextStream(tokenizer, skip)
            assert tokenizer.decode(ids, skip) == wanted == "".join(stream.push([i]) for i in ids) + stream.flush()


def around_of(token: str, i: int, **more: object) -> dict:
    return layout.around({token: i}, [token], []) | more


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"post_processor": around_of("<x>", 3, special_tokens={})},
            "the post_processor names '<x>', which it does not",
        ),
        ({"post_processor": around_of("<x>", 900)}, "the post_processor puts the id 900 around a text"),
        ({"continuing_subword_prefix": "##"}, r"the merge \['h', 'o'\] lacks the prefix '##'"),
        ({"added_tokens": [layout.added_token(5 << 20, "<x>")]}, "'<x>' has the id 5242880, but there are only"),
        ({"added_tokens": [layout.added_token(-1, "<x>")]}, "'<x>' has the id -1: ids are 0, 1, 2"),
        ({"added_tokens": [layout.added_token(0, "\ud800")]}, "half a character"),
        ({"added_tokens": [{"id": 0, "content": "<|endoftext|>"}]}, "not a whole tokenizer.json"),
        ({"added_tokens": {}, "decoder": {"type": "x"}}, "not a whole tokenizer.json"),
        ({"added_tokens": [5]}, "entry 0 of its added_tokens has no content"),
        ({"model": 5}, "not a whole tokenizer.json: it has no model"),
    ],
)
def test_what_the_library_would_panic_at_is_one_line(changes: dict, says: str, capfd: pytest.CaptureFixture) -> None:
    spec = byte_bpe()
    spec["model"] |= {name: value for name, value in changes.items() if name in spec["model"]}
    with pytest.raises(UserError, match=rf"^x\.json: .*{says}") as error:
        FastTokenizer({**spec, **changes}, "x.json")
    assert "\n" not in str(error.value) and capfd.readouterr() == ("", "")


def test_a_text_on_which_a_pattern_fails_is_one_line() -> None:
    spec = byte_bpe()
    spec["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": "(a+)+$"}
    tokenizer = FastTokenizer(spec, "x.json")
    text = "a" * 28 + "b"
    for encode in (tokenizer.encode, lambda text: tokenizer.encode_batch([text])):
        with pytest.raises(UserError, match=r"^x\.json: .*cannot be encoded: .*retry-limit"):
            encode(text)
    assert tokenizer.decode(tokenizer.encode("abc")) == "abc"
    with pytest.raises(UserError, match="a text is a string, not a int"):
        tokenizer.encode(5)  # pyright: ignore[reportArgumentType]


def test_a_lone_surrogate_is_named() -> None:
    tokenizer = FastTokenizer(byte_bpe())
    for encode in (tokenizer.encode, tokenizer.encoding, lambda text: tokenizer.encode_batch(["a", text])):
        with pytest.raises(UserError, match=r"lone surrogate U\+D800 at character 2"):
            encode("ab\ud800c")


def test_vocabularies_with_missing_or_shared_ids_are_refused() -> None:
    def changed(token: str, i: int) -> dict:
        spec = byte_bpe()
        spec["model"]["vocab"][token] = i
        return spec

    with pytest.raises(UserError, match=r"here\.json: tokens 'ho' and 'hola' share the id 257"):
        FastTokenizer(changed("hola", 257), "here.json")
    with pytest.raises(UserError, match="no token has the id 259: number the vocabulary without gaps"):
        FastTokenizer(changed("hola", 300), "here.json")
    spec = byte_bpe()
    spec["added_tokens"].append(layout.added_token(5, "<x>"))
    with pytest.raises(UserError, match=r"here\.json: tokens 'Ą' and '<x>' share the id 5"):
        FastTokenizer(spec, "here.json")
    spec["added_tokens"][-1] = layout.added_token(6, "hola")
    with pytest.raises(UserError, match="the token 'hola' has two ids, 259 and 6"):
        FastTokenizer(spec)
    spec["added_tokens"][-1] = layout.added_token(500, "<x>")  # reserved ids lie between: common, and of no harm
    assert FastTokenizer(spec).decode([499, 500]) == "<x>"


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"model": {}}', b"\xff\xfe", json.dumps(byte_bpe())[:-200].encode()]
)
def test_what_is_not_a_tokenizer_json_is_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(UserError, match=r"^x: not a whole tokenizer\.json: ") as error:
        FastTokenizer(data, "x")
    assert "\n" not in str(error.value)


def test_a_merge_that_makes_no_token_is_refused() -> None:
    spec = byte_bpe()
    spec["model"]["merges"].append(["h", "a"])
    with pytest.raises(UserError, match=r"not a whole tokenizer\.json: .*ha"):
        FastTokenizer(spec)


def test_saving_keeps_every_byte(tmp_path: Path) -> None:
    tokenizer = FastTokenizer(byte_bpe())
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config == {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    assert (again.eos, again.stops) == (tokenizer.eos, tokenizer.stops) == (0, (0,))
    assert FastTokenizer(byte_bpe(decoder=None)).fingerprint != tokenizer.fingerprint
