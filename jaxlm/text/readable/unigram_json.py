"""The arguments of a `UnigramTokenizer` from other people's files: `tokenizer.json`, and SentencePiece's `.model`."""

import math
from pathlib import Path
from typing import Any

from jaxlm.errors import UserError
from jaxlm.text.formats.layout import Json
from jaxlm.text.formats.sentencepiece import SentencePieceTokenizer
from jaxlm.text.readable.reading import around_of
from jaxlm.text.readable.steps import Steps

USER_DEFINED = -0.1  # what a piece that must not be cut scores in SentencePiece


def read_json(spec: Json, name: str) -> dict[str, Any]:
    """From a parsed `tokenizer.json`; UserError naming what has no readable form."""
    try:
        model = spec["model"]
        if model.get("type") != "Unigram":
            raise UserError(f"{name}: its model is {model.get('type')!r}, not 'Unigram'")
        if model.get("alpha") or model.get("nbest_size"):
            raise UserError(f"{name}: it samples when encoding: open it with FastTokenizer, or use sample()")
        pieces = [(token, score) for token, score in model["vocab"]]
        specials = _specials(spec.get("added_tokens") or [], pieces, name)
        prefix, suffix = around_of(spec.get("post_processor"), name)
        steps = Steps(spec.get("normalizer"), spec.get("pre_tokenizer"), spec.get("decoder"), name)
        return {
            "pieces": pieces,
            "unk": model.get("unk_id"),
            "byte_fallback": bool(model.get("byte_fallback")),
            "specials": specials,
            "prefix": prefix,
            "suffix": suffix,
            "steps": steps,
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{name}: not a whole tokenizer.json: {error!r}") from None


def _specials(added: list[Json], pieces: list[tuple[str, float]], name: str) -> list[str]:
    for token in added:
        odd = [flag for flag in ("single_word", "lstrip", "rstrip", "normalized") if token.get(flag)]
        if not token["special"] or odd:
            why = odd[0] if odd else "not special"
            raise UserError(f"{name}: the added token {token['content']!r} is {why}: open it with FastTokenizer")
        if token["id"] >= len(pieces) or pieces[token["id"]][0] != token["content"]:
            raise UserError(f"{name}: the added token {token['content']!r} is not in the model: use FastTokenizer")
    return [token["content"] for token in added]


def read_sentencepiece(path: str | Path) -> dict[str, Any]:
    """From a `.model` file."""
    model = SentencePieceTokenizer(path)
    sp = model._processor
    try:
        sp.nbest_encode("a", nbest_size=2)
    except RuntimeError:
        raise UserError(f"{path}: not a unigram model: only those have scores to search by") from None
    pieces = []
    for i in range(model.V):
        plain = not (sp.is_control(i) or sp.is_byte(i) or sp.is_unknown(i) or sp.is_unused(i))
        pieces.append((sp.id_to_piece(i), (sp.get_score(i) or USER_DEFINED) if plain else -math.inf))
    spaces = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}
    decoder = {"type": "Sequence", "decoders": [spaces, {"type": "ByteFallback"}, {"type": "Fuse"}]}
    return {
        "pieces": pieces,
        "unk": model.unk,
        "byte_fallback": any(map(sp.is_byte, range(model.V))),
        "specials": list(model.specials.values()),
        "steps": Steps(None, None, decoder),
    }
