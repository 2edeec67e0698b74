"""The parts of a tokenizer.json that make a byte-level BPE."""

from typing import Any

from jaxlm.errors import UserError
from jaxlm.text.formats.cutting import steps_of
from jaxlm.text.formats.layout import Json
from jaxlm.text.readable.reading import around_of

USE_FAST = "open the file with FastTokenizer"


def read_bpe(spec: Json, name: str) -> dict[str, Any]:
    """The arguments of `BPETokenizer` that say what a parsed tokenizer.json says.

    Raises:
        UserError: a part that `BPETokenizer` does not do, which is named.
    """
    model = spec["model"]
    if model.get("type", "BPE") != "BPE":
        raise UserError(f"{name}: the model is {model['type']}, not BPE: {USE_FAST}")
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(option):
            raise UserError(f"{name}: the readable BPE has no {option}: {USE_FAST}")
    if (spec.get("decoder") or {}).get("type") != "ByteLevel":
        raise UserError(f"{name}: this is no byte-level tokenizer, its decoder is not ByteLevel: {USE_FAST}")
    if next((step["type"] for step in reversed([*steps_of(spec.get("pre_tokenizer"))])), None) != "ByteLevel":
        raise UserError(f"{name}: this is no byte-level tokenizer: the pre_tokenizer must end with ByteLevel")
    prefix, suffix = around_of(spec.get("post_processor"), name)
    return {
        "vocab": model["vocab"],
        "merges": [_merge(merge, name) for merge in model["merges"]],
        "pattern": spec["pre_tokenizer"],
        "added": spec.get("added_tokens") or (),
        "normalizer": spec.get("normalizer"),
        "prefix": prefix,
        "suffix": suffix,
        "ignore_merges": bool(model.get("ignore_merges")),
    }


def _merge(merge: Any, name: str) -> tuple[str, str]:
    """A merge is written as a pair, or, in older files, as two tokens with a space between them."""
    pair = merge.split(" ") if isinstance(merge, str) else merge
    if len(pair) != 2:
        raise UserError(f"{name}: the merge {merge!r} is not a pair of tokens")
    return pair[0], pair[1]
