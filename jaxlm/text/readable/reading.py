"""What a readable tokenizer checks of a vocabulary and of a `tokenizer.json` before it takes them for its own."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxlm.errors import UserError
from jaxlm.text.formats.layout import Json, added_token, around

SURROGATE = re.compile("[\ud800-\udfff]")


def check_vocab(vocab: Mapping[str, int], specials: Sequence[str], name: str) -> dict[str, int]:
    """The vocabulary in the order of its ids. UserError unless these are 0 to V - 1, special tokens among them."""
    owner: dict[int, str] = {}
    for token, i in vocab.items():
        if not isinstance(i, int) or i < 0:
            raise UserError(f"{name}: the token {token!r} has the id {i!r}: ids are 0, 1, 2 and so on")
        if i in owner:
            raise UserError(f"{name}: tokens {owner[i]!r} and {token!r} share the id {i}: give each its own")
        if SURROGATE.search(token):
            raise UserError(f"{name}: the token {token!r} holds half a character (a lone surrogate): remove it")
        owner[i] = token
    missing = next((i for i in range(len(owner)) if i not in owner), None)
    if missing is not None:
        raise UserError(f"{name}: no token has the id {missing}: number the vocabulary without gaps")
    absent = next((special for special in specials if special not in vocab), None)
    if absent is not None:
        raise UserError(f"{name}: the special token {absent!r} is not in the vocabulary: add it")
    return {owner[i]: i for i in range(len(owner))}


def check_specials(specials: Sequence[str], needed: Sequence[str], cut: Callable[[str], Sequence[str]]) -> None:
    """UserError when special tokens repeat, lack one that is needed, or could be taken for a word of a text."""
    for at, special in enumerate(specials):
        if special in specials[:at]:
            raise UserError(f"the special token {special!r} is given twice: give it once")
        if len(cut(special)) < 2:
            raise UserError(f"the special token {special!r} could be a word of the text: write it like <{special}>")
    absent = next((token for token in needed if token not in specials), None)
    if absent is not None:
        raise UserError(f"the special token {absent!r} is missing: add it to {', '.join(specials) or 'the specials'}")


def read(spec: Json, name: str, kind: str, expected: Mapping[str, Any]) -> tuple[Json, list[str], list[str], list[str]]:
    """(model, specials, prefix, suffix) of a parsed `tokenizer.json` whose model is of this kind.

    Raises:
        UserError: another kind, a part that is not as `expected` says, or special tokens with rules of their own.
    """
    model = spec.get("model") or {}
    if model.get("type") != kind or not isinstance(model.get("vocab"), dict):
        raise UserError(f"{name}: its model is {model.get('type')!r}, not {kind!r}: open it with FastTokenizer")
    for part, value in expected.items():
        if spec.get(part) != value:
            raise _not_expressed(name, f"{part} {spec.get(part)!r:.120}")
    added = {token["content"]: token for token in spec.get("added_tokens") or ()}
    for content, token in added.items():
        if token != added_token(token["id"], content) or model["vocab"].get(content) != token["id"]:
            raise _not_expressed(name, f"added token {content!r}")
    post = spec.get("post_processor")
    prefix, suffix = around_of(post, name)
    if post is not None and (
        any(token not in model["vocab"] for token in prefix + suffix) or post != around(model["vocab"], prefix, suffix)
    ):
        raise _not_expressed(name, f"post_processor {post!r:.120}")
    return model, list(added), prefix, suffix


def around_of(post: Json | None, name: str) -> tuple[list[str], list[str]]:
    """The special tokens that a `post_processor` puts before and after one text; UserError where that is not all."""
    kind = post and post["type"]
    if post is None or kind == "ByteLevel":  # of offsets only
        return [], []
    if kind == "Sequence":
        found = [around_of(part, name) for part in post["processors"]]
        return next((around for around in found if around != ([], [])), ([], []))
    if kind in ("RobertaProcessing", "BertProcessing"):
        return [post["cls"][0]], [post["sep"][0]]
    if kind == "TemplateProcessing":
        places = [next(iter(part)) for part in post["single"]]
        spelled = [part["SpecialToken"]["id"] if "SpecialToken" in part else "" for part in post["single"]]
        if places.count("Sequence") == 1:
            text = places.index("Sequence")
            return spelled[:text], spelled[text + 1 :]
    raise UserError(
        f"{name}: a post_processor {kind!r} like this has no readable form here: open it with FastTokenizer"
    )


def _not_expressed(name: str, what: str) -> UserError:
    return UserError(f"{name}: the readable tokenizer cannot express the {what}: open it with FastTokenizer")
