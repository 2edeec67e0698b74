"""What is looked at in a `tokenizer.json` before the library opens it: it would panic, or number tokens anew."""

from collections.abc import Mapping
from typing import Any

from jaxlm.errors import UserError
from jaxlm.text.formats import layout
from jaxlm.text.formats.layout import Json
from jaxlm.text.readable.reading import SURROGATE

FAR = 1 << 17  # ids that may be reserved between the vocabulary and an added token: a table has a place for each


def check(spec: Any, name: str) -> None:
    """UserError for what is no tokenizer.json, or would panic: a post_processor with a token that it does not define,
    merges that are shorter than the prefix of continuing parts."""
    if not isinstance(spec, dict) or not isinstance(spec.get("model"), dict):
        raise UserError(f"{name}: not a whole tokenizer.json: it has no model")
    for at, token in enumerate(spec.get("added_tokens") or ()):
        if not isinstance(token, dict) or not isinstance(token.get("content"), str):
            raise UserError(f"{name}: not a whole tokenizer.json: entry {at} of its added_tokens has no content")
    for step in _steps(spec.get("post_processor"), "processors"):
        if step.get("type") != "TemplateProcessing":
            continue
        defined = step.get("special_tokens") or {}
        for part in (*step["single"], *step["pair"]):
            special = isinstance(part, dict) and part.get("SpecialToken")
            if special and special["id"] not in defined:
                raise UserError(f"{name}: the post_processor names {special['id']!r:.60}, which it does not define")
    if prefix := spec["model"].get("continuing_subword_prefix"):
        for merge in spec["model"].get("merges") or ():
            right = (merge.split(" ") if isinstance(merge, str) else merge)[-1].encode()
            rest = right[len(prefix.encode()) :].decode("utf-8", "replace")
            if len(right) < len(prefix.encode()) or rest.startswith("\ufffd"):
                raise UserError(f"{name}: the second part of the merge {merge!r:.60} lacks the prefix {prefix!r:.60}")


def spread(spec: Json, name: str) -> dict[str, int]:
    """The added tokens when their ids leave a gap (reserved ones); UserError where ids are missing, shared or far."""
    vocab, owner = layout.vocabulary(spec), {}
    added = {token["content"]: token["id"] for token in spec.get("added_tokens") or ()}
    for token, i in [*vocab.items(), *added.items()]:
        if type(i) is not int or i < 0:
            raise UserError(f"{name}: the token {token!r:.60} has the id {i!r:.60}: ids are 0, 1, 2 and so on")
        if SURROGATE.search(token):
            raise UserError(f"{name}: the token {token!r:.60} holds half a character (a lone surrogate): remove it")
        if vocab.get(token, i) != i:
            raise UserError(f"{name}: the token {token!r:.60} has two ids, {vocab[token]!r:.60} and {i}: keep one")
        if owner.setdefault(i, token) != token:
            raise UserError(f"{name}: tokens {owner[i]!r:.60} and {token!r:.60} share the id {i}: give each its own")
    last = max((i for token, i in vocab.items() if token not in added), default=-1)
    missing = next((i for i in range(last) if i not in owner), None)
    if missing is not None:
        raise UserError(f"{name}: no token has the id {missing}: number the vocabulary without gaps")
    check_far({i: token for token, i in added.items()}, len(owner), name)
    late = {token: i for token, i in added.items() if token not in vocab}
    return {} if sorted(late.values()) == [*range(len(vocab), len(vocab) + len(late))] else late


def check_far(added: Mapping[int, str], tokens: int, name: str) -> None:
    """UserError for an added token whose id is below zero, or far above the number of all `tokens`."""
    for i, token in added.items():
        if not 0 <= i <= tokens + FAR:
            why = f"but there are only {tokens} tokens" if i > 0 else "ids are 0, 1, 2 and so on"
            raise UserError(f"{name}: the added token {token!r:.60} has the id {i}, {why}")


def untrimmed(post: Any) -> Any:
    """The `post_processor` with offsets that keep the space at the ends of words."""
    if isinstance(post, dict) and post.get("type") == "Sequence":
        return {**post, "processors": [untrimmed(step) for step in post["processors"]]}
    return {**post, "trim_offsets": False} if isinstance(post, dict) and "trim_offsets" in post else post


def _steps(part: Any, inside: str) -> list[Json]:
    if not isinstance(part, dict):
        return []
    return [step for one in part[inside] for step in _steps(one, inside)] if part.get("type") == "Sequence" else [part]
