"""The tokenizer that a GGUF file carries among its values: SentencePiece's pieces with scores, or byte-level BPE."""

import json
import struct
from collections.abc import Iterable, Mapping
from typing import Any

from jaxlm.errors import UserError, unknown
from jaxlm.text.base import Tokenizer
from jaxlm.text.formats.fast import FastTokenizer
from jaxlm.text.formats.layout import CL100K, GPT2, QWEN2, added_token, bpe, byte_level, document
from jaxlm.text.formats.sentencepiece import SentencePieceTokenizer
from jaxlm.text.settings import Settings

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = range(1, 7)  # kinds of tokens, numbered as SentencePiece has them
PATTERNS = {  # of words, by `tokenizer.ggml.pre`
    **dict.fromkeys(("gpt-2", "default", "olmo"), GPT2),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "dbrx", "smaug-bpe"), CL100K),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), QWEN2),
}
KEYS = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}


def gguf_tokenizer(metadata: Mapping[str, Any], name: str) -> Tokenizer | None:
    """The tokenizer among a file's values, None where there is none; `name` stands in error messages.

    Raises UserError for a kind that is not known, and for lists that do not fit each other.
    """
    say = lambda key, default=None: metadata.get(f"tokenizer.ggml.{key}", default)
    kind, tokens = say("model"), say("tokens")
    if kind is None:
        return None
    types = say("token_type") or [NORMAL] * len(tokens or ())
    if not tokens or len(types) != len(tokens):
        raise UserError(
            f"{name}: tokenizer.ggml.tokens and token_type are of {len(tokens or ())} and {len(types)} tokens"
        )
    settings = _settings(metadata, tokens, types, name)
    if kind == "llama":
        scores = say("scores") or []
        if len(scores) != len(tokens):
            raise UserError(f"{name}: tokenizer.ggml.scores are {len(scores)}, for {len(tokens)} tokens")
        ids = [say(f"{key}_token_id", -1) for key in ("unknown", "bos", "eos", "padding")]
        model = sentencepiece(tokens, scores, types, ids, say("add_space_prefix", True))
        return SentencePieceTokenizer(model, name, settings)
    if kind != "gpt2":
        raise UserError(f"{name}: {unknown('tokenizer.ggml.model', str(kind)[:40], ('llama', 'gpt2'))}")
    if (pre := say("pre", "default")) not in PATTERNS:
        raise UserError(f"{name}: {unknown('tokenizer.ggml.pre', str(pre)[:40], PATTERNS)}")
    merges = [tuple(merge.split(" ", 1)) for merge in say("merges", [])]
    vocab = {token: i for i, token in enumerate(tokens) if types[i] in (NORMAL, BYTE)}
    pattern = PATTERNS[pre]
    normalizer = {"type": "NFC"} if pattern == QWEN2 else None
    spec = document(bpe(vocab, merges, ignore_merges=pattern == CL100K), {}, normalizer, *byte_level(pattern))
    return FastTokenizer(settings.complete(spec), name, settings)


def _settings(metadata: Mapping[str, Any], tokens: list[str], types: list[int], name: str) -> Settings:
    say = lambda key, default=None: metadata.get(f"tokenizer.ggml.{key}", default)
    ids = {role: say(f"{key}_token_id") for role, key in KEYS.items()}
    if wrong := [role for role, i in ids.items() if i is not None and not 0 <= i < len(tokens)]:
        raise UserError(f"{name}: the {wrong[0]} token has id {ids[wrong[0]]}, of {len(tokens)} tokens")
    config = {f"{role}_token": tokens[i] for role, i in ids.items() if i is not None}
    config |= {
        f"add_{role}_token": say(f"add_{role}_token", role == "bos" and say("model") == "llama")
        for role in ("bos", "eos")
    }
    added = {
        i: added_token(i, tokens[i], types[i] == CONTROL) for i, kind in enumerate(types) if kind in (CONTROL, USER)
    }
    stops = dict.fromkeys(i for i in (ids["eos"], say("eot_token_id")) if i is not None)
    return Settings(config, added, metadata.get("tokenizer.chat_template"), tuple(stops))


def gguf_values(tokenizer: Tokenizer, name: str) -> dict[str, Any]:
    """The inverse of `gguf_tokenizer`. Raises UserError for a tokenizer that the format has no form for."""
    tokens = [tokenizer.token(i) for i in range(tokenizer.V)]
    own = {"tokens": tokens}
    if isinstance(tokenizer, SentencePieceTokenizer):
        own |= {"model": "llama", "pre": "default", **tokenizer.table()}
    elif isinstance(tokenizer, FastTokenizer) and tokenizer.spec["model"].get("type", "BPE") == "BPE":
        own |= {"model": "gpt2", **_merges(tokenizer, name)}
    else:
        raise UserError(f"{name}: no GGUF has a {type(tokenizer).__name__} of this kind")
    roles = {key: getattr(tokenizer, role, None) for role, key in KEYS.items()}
    own |= {f"{key}_token_id": i for key, i in roles.items() if i is not None}
    around = tokenizer.encode("", special=True)
    own |= {f"add_{role}_token": roles[role] is not None and roles[role] in around for role in ("bos", "eos")}
    template = tokenizer.settings.chat_template
    found = {f"tokenizer.ggml.{key}": value for key, value in own.items()}
    return found | ({"tokenizer.chat_template": template} if isinstance(template, str) else {})


def _merges(tokenizer: FastTokenizer, name: str) -> dict[str, Any]:
    spec = tokenizer.spec
    cut = json.dumps(spec.get("pre_tokenizer"))
    pre = next((pre for pre, pattern in PATTERNS.items() if json.dumps(pattern) in cut), None)
    if pre is None and '"ByteLevel"' in cut and '"Split"' not in cut:
        pre = "gpt-2"
    if pre is None:
        raise UserError(f"{name}: no GGUF names the way in which this tokenizer cuts words")
    added = {token["id"]: CONTROL if token["special"] else USER for token in spec.get("added_tokens") or ()}
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in spec["model"]["merges"]]
    return {"pre": pre, "merges": merges, "token_type": [added.get(i, NORMAL) for i in range(tokenizer.V)]}


# A SentencePiece model is a protocol buffer: the numbers stand in its sentencepiece_model.proto -----------------------


def sentencepiece(
    tokens: Iterable[str], scores: Iterable[float], types: Iterable[int], ids: list[int], prefix: bool
) -> bytes:
    """The `.model` of a BPE with these pieces; `ids` are those of unk, bos, eos and pad, -1 for none."""
    types = list(types)
    pieces = (
        _part(1, _part(1, token.encode()) + b"\x15" + struct.pack("<f", score) + _number(3, kind))
        for token, score, kind in zip(tokens, scores, types)
    )
    trainer = _number(3, 2) + _number(35, int(BYTE in types))
    trainer += b"".join(_number(40 + i, value) for i, value in enumerate(ids))
    normalizer = _part(1, b"identity") + _number(3, int(prefix)) + _number(4, 0) + _number(5, 1)
    return b"".join(pieces) + _part(2, trainer) + _part(3, normalizer)


def _varint(n: int) -> bytes:
    n &= 2**64 - 1
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes([*out, n])


def _part(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _number(field: int, n: int) -> bytes:
    return _varint(field << 3) + _varint(n)
