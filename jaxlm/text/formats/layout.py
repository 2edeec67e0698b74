"""The `tokenizer.json` that says what a tokenizer does, written from its vocabulary.

One dictionary in the layout of Hugging Face's `tokenizers`; the fast tokenizer opens it, the readable ones write it.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

Json = dict[str, Any]

# What a byte-level BPE calls a word, as regular expressions of the `regex` package: nothing of a text is lost.
GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K = (  # GPT-4, Llama 3 and most since: letter case in contractions, three digits at most, newlines apart
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

QWEN2 = CL100K.replace(r"\p{N}{1,3}", r"\p{N}")  # every digit alone


def document(
    model: Json,
    specials: Mapping[str, int],
    normalizer: Json | None = None,
    pre_tokenizer: Json | None = None,
    decoder: Json | None = None,
    prefix: Sequence[str] = (),
    suffix: Sequence[str] = (),
) -> Json:
    """A whole `tokenizer.json`; `prefix` and `suffix` are the special tokens put around a text."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(i, spelling) for spelling, i in sorted(specials.items(), key=lambda s: s[1])],
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": around(specials, prefix, suffix) if prefix or suffix else None,
        "decoder": decoder,
        "model": model,
    }


def to_bytes(spec: Json) -> bytes:
    """A tokenizer.json as it is written to disk."""
    return json.dumps(spec, ensure_ascii=False, indent=1).encode() + b"\n"


def vocabulary(spec: Json) -> dict[str, int]:
    """The tokens of a tokenizer.json's model by spelling, without added tokens."""
    vocab = spec["model"].get("vocab") or {}
    return vocab if isinstance(vocab, dict) else {piece: i for i, (piece, _) in enumerate(vocab)}


def added_token(i: int, content: str, special: bool = True) -> Json:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": not special}
    return {"id": i, "content": content, **flags, "special": special}


def around(ids: Mapping[str, int], prefix: Sequence[str], suffix: Sequence[str], again: bool = False) -> Json:
    """The post-processing that puts special tokens around a text, and between it and a second one, which has type 1.

    The prefix comes `again` before the second text, as it does where there is no suffix to part them.
    """
    one = lambda spelling, text: {"SpecialToken": {"id": spelling, "type_id": text}}
    whole = lambda name, text: {"Sequence": {"id": name, "type_id": text}}
    first = [*(one(p, 0) for p in prefix), whole("A", 0), *(one(s, 0) for s in suffix)]
    second = [*(one(p, 1) for p in prefix if again or not suffix), whole("B", 1), *(one(s, 1) for s in suffix)]
    tokens = {s: {"id": s, "ids": [ids[s]], "tokens": [s]} for s in (*prefix, *suffix)}
    return {"type": "TemplateProcessing", "single": first, "pair": first + second, "special_tokens": tokens}


def bpe(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], **options: Any) -> Json:
    """A BPE model; `options` are the library's own, such as `ignore_merges` and `byte_fallback`."""
    usual = {
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
    }
    return {"type": "BPE", **usual, **options, "vocab": dict(vocab), "merges": [list(pair) for pair in merges]}


def byte_level(pattern: str) -> tuple[Json, Json]:
    """(pre_tokenizer, decoder) of a BPE over bytes whose words match `pattern`."""
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {"type": "Sequence", "pretokenizers": [split, level]}, level


def byte_characters() -> list[str]:
    """How a byte-level vocabulary spells each byte as a visible character (Radford et al. 2019, GPT-2).

    Printable Latin-1 bytes spell themselves, the other 68 are U+0100 onwards in order: a space is "Ġ".
    """
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in visible else next(others)) for byte in range(256)]


def bert_normalizer(lowercase: bool, chinese: bool = True, strip_accents: bool | None = None) -> Json:
    return {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": chinese,
        "strip_accents": strip_accents,
        "lowercase": lowercase,
    }


def wordpiece(vocab: Mapping[str, int], unk: str = "[UNK]", longest: int = 100) -> Json:
    """A WordPiece model; words of more than `longest` characters are unknown."""
    limits = {"continuing_subword_prefix": "##", "max_input_chars_per_word": longest}
    return {"type": "WordPiece", "unk_token": unk, **limits, "vocab": dict(vocab)}


def unigram(pieces: Sequence[tuple[str, float]], unk: int | None, byte_fallback: bool) -> Json:
    """A Unigram model: (spelling, score) in the order of ids."""
    return {"type": "Unigram", "unk_id": unk, "vocab": [[*piece] for piece in pieces], "byte_fallback": byte_fallback}
