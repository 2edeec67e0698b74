import base64
import json
from pathlib import Path
from typing import Any

import pytest

from jaxlm.errors import UserError
from jaxlm.text import FastTokenizer, gpt2_files_to_json
from jaxlm.text.formats.layout import GPT2, byte_characters

MERGES = [("e", "l"), ("Ġ", "g"), ("a", "t"), ("Ġg", "at"), ("1", "2"), ("Ã", "±")]
ENDED = [("g", "a"), ("t", "o</w>"), ("ga", "to</w>"), ("e", "l</w>"), ("1", "2</w>")]


def files(merges: list[tuple[str, str]] = MERGES, end: str = "", specials: tuple[str, ...] = ()) -> tuple[bytes, bytes]:
    letters = byte_characters()
    tokens = [*letters, *(letter + end for letter in letters if end), *("".join(pair) for pair in merges), *specials]
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges), ""]
    return json.dumps({token: i for i, token in enumerate(tokens)}).encode(), "\n".join(lines).encode()


def opened(kind: str | None, config: dict[str, Any], *options: Any) -> FastTokenizer:
    return FastTokenizer(gpt2_files_to_json(*files(*options), tokenizer_class=kind, config=config))


def spelled(tokenizer: FastTokenizer, *texts: str) -> list[str]:
    return [tokenizer.token(i) for i in tokenizer.encoding(*texts, special=True).ids]


def test_the_published_gpt2_encodes_as_tiktoken(shared: Path, languages: dict[str, str]) -> None:
    folder = shared / "data/tokenizers"
    names = ("gpt2_encoder.json", "gpt2_vocab.bpe")
    tokenizer = FastTokenizer(gpt2_files_to_json(*((folder / name).read_bytes() for name in names), names))
    ranks = {}
    for line in (folder / "gpt2.tiktoken").read_bytes().splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    tiktoken = pytest.importorskip("tiktoken")
    reference = tiktoken.Encoding("gpt2", pat_str=GPT2, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256})
    for text in languages.values():
        ids = tokenizer.encode(text[:200_000])
        assert ids == reference.encode(text[:200_000]) and tokenizer.decode(ids) == text[:200_000]
    assert (tokenizer.V, tokenizer.specials) == (50257, {50256: "<|endoftext|>"})


def test_gpt2_adds_nothing_unless_told() -> None:
    plain = opened(None, {})
    assert spelled(plain, "el gato") == ["el", "Ġgat", "o"]
    assert plain.specials == {262: "<|endoftext|>"} and plain.V == 263
    opt = opened("GPT2TokenizerFast", {"bos_token": "</s>", "add_bos_token": True, "add_prefix_space": True})
    assert spelled(opt, "gat", "el") == ["</s>", "Ġgat", "</s>", "Ġ", "el"]


def test_qwen2_composes_characters_and_takes_its_specials_from_the_config() -> None:
    added = {
        str(262 + i): {"content": token, "special": i < 2} for i, token in enumerate(("<|endoftext|>", "<|im|>", "<t>"))
    }
    qwen = opened("Qwen2Tokenizer", {"added_tokens_decoder": added, "bos_token": None, "eos_token": "<|im|>"})
    assert spelled(qwen, "n\u0303 12<|im|><t>") == ["Ã±", "Ġ", "1", "2", "<|im|>", "<t>"]
    assert qwen.specials == {262: "<|endoftext|>", 263: "<|im|>"} and qwen.V == 265


@pytest.mark.parametrize("kind", ["RobertaTokenizer", "BartTokenizerFast", "LongformerTokenizer", "LEDTokenizer"])
def test_roberta_and_its_kin_put_two_tokens_between_texts(kind: str) -> None:
    tokenizer = opened(kind, {}, MERGES, "", ("<s>", "<pad>", "</s>", "<unk>", "<mask>"))
    assert spelled(tokenizer, "el <mask>", "gat") == ["<s>", "el", "<mask>", "</s>", "</s>", "g", "at", "</s>"]
    assert [*tokenizer.specials.values()] == ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def test_clip_ends_words_and_loses_white_space_and_case() -> None:
    tokenizer = opened("CLIPTokenizer", {}, ENDED, "</w>", ("<|startoftext|>", "<|endoftext|>"))
    expected = ["<|startoftext|>", "el</w>", "gato</w>", "1</w>", "2</w>", "<|endoftext|>"]
    assert spelled(tokenizer, " EL\n\ngato 12") == expected
    assert tokenizer.decode(tokenizer.encode("El gato: 1 Ñ")) == "el gato : 1 ñ"
    assert tokenizer.decode([]) == ""


def test_whisper_begins_a_transcript() -> None:
    specials = ("<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>")
    tokenizer = opened("WhisperTokenizer", {}, MERGES, "", specials)
    assert spelled(tokenizer, "el") == [*specials[1:], "el", "<|endoftext|>"]
    assert spelled(tokenizer, "el", "el") == [*specials[1:], "el", "el", "<|endoftext|>"]
    timed = opened("WhisperTokenizer", {"predict_timestamps": True}, MERGES, "", specials)
    assert spelled(timed, "el") == ["<|startoftranscript|>", "el", "<|endoftext|>"]


def test_the_config_gives_special_tokens_their_flags() -> None:
    config = {
        "mask_token": {"content": "<m>", "lstrip": False, "normalized": True},
        "additional_special_tokens": ["<x>", {"content": "<y>", "rstrip": True}],
        "extra_special_tokens": {"image_token": "<x>"},
    }
    spec = gpt2_files_to_json(*files(), tokenizer_class="RobertaTokenizer", config=config)
    added = {token["content"]: token for token in spec["added_tokens"]}
    assert added["<m>"]["normalized"] and not added["<m>"]["lstrip"] and added["<m>"]["special"]
    assert added["<y>"]["rstrip"] and [token["id"] for token in spec["added_tokens"]] == [*range(262, 269)]


def test_files_that_are_damaged_or_of_another_kind_are_refused_by_name() -> None:
    vocab, merges = files()
    object_ = lambda **ids: json.dumps(ids).encode()
    bad = [
        (vocab[:100], merges, r"^v\.json: not JSON, or cut short"),
        (b"\x80", merges, r"^v\.json: byte 0 is not UTF-8"),
        (b"[1, 2]", merges, r"^v\.json: not an object of tokens and their ids"),
        (b'{"a": {"b": 1}}', merges, r"^v\.json: not an object of tokens"),
        (b'{"a": true}', merges, r"^v\.json: not an object of tokens"),
        (b"{}", merges, r"^v\.json: not an object of tokens"),
        (b'{"a": 0, "a": 1}', b"", r"^v\.json: the token 'a' is given twice"),
        (object_(a=0, b=0), b"", r"^v\.json: tokens 'a' and 'b' share the id 0"),
        (object_(a=0, b=2), b"", r"^v\.json: no token has the id 1"),
        (object_(a=0, b=-1), b"", r"^v\.json: the token 'b' has the id -1"),
        (b'{"\\ud800": 0}', b"", r"^v\.json: the token .* holds half a character"),
        (vocab, vocab, r"^m\.txt: line 1 is .*, not two tokens"),
        (vocab, merges[: merges.index(b" g")], r"^m\.txt: line 3 is 'Ġ', not two tokens"),
        (vocab, merges + b"\xff", r"^m\.txt: byte \d+ is not UTF-8"),
        (vocab, b"e l\n\ne l", r"^m\.txt: line 2 is '', not two tokens"),
        (vocab, b"e l\ne l", r"^m\.txt: the merge 'e l' is in lines 1 and 2"),
        (vocab, b"e x", r"^m\.txt: the merge 'e x' \(line 1\) makes 'ex', not in v\.json"),
        (vocab, b"no l", r"^m\.txt: the merge 'no l' \(line 1\) needs 'no', not in v\.json"),
    ]
    for one, two, message in bad:
        with pytest.raises(UserError, match=message):
            gpt2_files_to_json(one, two, ("v.json", "m.txt"))


def test_merges_that_lack_their_end_are_refused() -> None:
    pairs = [(a, b) for a in "abcdefghij" for b in "klmnopqrst"]
    vocab, merges = files(pairs)
    gpt2_files_to_json(vocab, merges)
    with pytest.raises(
        UserError, match=r"its 40 merges do not make 'ek' and 59 others of vocab\.json: is it cut short"
    ):
        gpt2_files_to_json(vocab, b"\n".join(merges.split(b"\n")[:41]))


def test_what_the_config_cannot_mean_is_refused() -> None:
    bad = [
        ("BloomTokenizerFast", {}, "how a BloomTokenizerFast uses it is not known here"),
        ("RobertaTokenizer", {"sep_token": None}, "RobertaTokenizer puts its sep_token around a text"),
        ("Qwen2Tokenizer", {"add_bos_token": True}, "Qwen2Tokenizer puts its bos_token around a text"),
        (None, {"added_tokens_decoder": {"5": {"content": "el"}}}, "'el' has the id 256, but 5 in the config"),
        (None, {"added_tokens_decoder": {"500": {"content": "<x>"}}}, "no token has the id 262"),
        (None, {"added_tokens_decoder": {"5": {"content": "<x>"}}}, "share the id 5"),
    ]
    for kind, config, message in bad:
        with pytest.raises(UserError, match=rf"^vocab\.json: .*{message}"):
            gpt2_files_to_json(*files(), tokenizer_class=kind, config=config)
