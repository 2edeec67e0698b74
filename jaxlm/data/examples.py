"""What data of written examples share: files of one weight, a tokenizer that is there, a share that is held out."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from jaxlm.data.config import Source, TokenizerConfig
from jaxlm.data.tokenize import hash_fraction, opened
from jaxlm.errors import UserError
from jaxlm.text import Tokenizer, builtin_template

T = TypeVar("T")


def check_sources(what: str, sources: Sequence[Source], tokenizer: TokenizerConfig) -> None:
    """Raises UserError for no source, one of a weight of its own, and a tokenizer that is still to be trained."""
    if not sources or any(source.weight != 1 for source in sources):
        raise UserError(f"{what} need at least one source, each of the default weight")
    if tokenizer.kind not in ("bytes", "file"):
        raise UserError(f"{what} are read by a tokenizer that is there, not a {tokenizer.kind!r} one")


def with_template(wanted: TokenizerConfig, template: str) -> tuple[Tokenizer, Any]:
    """The tokenizer, and the chat template of this name, else the tokenizer's own or None."""
    tokenizer = opened(wanted)
    return tokenizer, builtin_template(template) if template else tokenizer.settings.chat_template


def held_apart(found: Sequence[T], share: float, text_of: Callable[[T], str]) -> tuple[list[T], list[T]]:
    """Those to train on and those held out, chosen by a hash of their texts."""
    held = [hash_fraction(text_of(one)) < share for one in found]
    return [one for one, out in zip(found, held) if not out], [one for one, out in zip(found, held) if out]


def read_apart(
    read: Callable[[str], list[T]], sources: Sequence[Source], heldout: str, share: float, text_of: Callable[[T], str]
) -> tuple[list[T], list[T]]:
    """Those of all sources to train on, and those to evaluate on: of the file `heldout`, else the share held out, of a
    few at least one."""
    found = [one for source in sources for one in read(source.path)]
    if heldout:
        return found, read(heldout)
    train, held = held_apart(found, share, text_of)
    return (train, held) if held else (train[:-1], train[-1:])
