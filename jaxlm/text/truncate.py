"""Texts that must not be longer than so many tokens."""

from jaxlm.text.base import Tokenizer


def truncated(tokenizer: Tokenizer, text: str, most: int | None) -> list[int]:
    """The ids of a text and of the special tokens around it, at most `most` (None: all): the end of the text is left
    out, special tokens behind it stay."""
    ids = tokenizer.encode(text, special=True)
    if most is None or len(ids) <= most:
        return ids
    plain = tokenizer.encode(text)
    start = next((i for i in range(len(ids) - len(plain) + 1) if ids[i : i + len(plain)] == plain), 0)
    after = ids[start + len(plain) :]
    return ids[: max(most - len(after), 0)] + after
