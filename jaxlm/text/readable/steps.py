"""What a `tokenizer.json` does around its model, in plain Python: normalise, cut into words, join."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from jaxlm.text.formats.cutting import cutter
from jaxlm.text.formats.layout import Json
from jaxlm.text.formats.normalizing import normalizer

# A word is letters with their marks, or digits, or other signs, each with the space before it, or a run of white space
# less the space of the next word. Nothing is lost, and what looks like "<0x41>" or "<|endoftext|>" is never one word.
WORDS = r" ?[\p{L}\p{M}]+| ?\p{N}+| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"
LOSSLESS = {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Isolated", "invert": False}
BYTES_JOINED = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}


@dataclass(frozen=True)
class Steps:
    """The normalizer, pre_tokenizer and decoder of a `tokenizer.json`, as they stand in it; the default loses nothing.

    A step that is not known here is an error when it is first used; `name` is the file's.
    """

    normalizer: Json | None = None
    pre_tokenizer: Json | None = field(default_factory=lambda: LOSSLESS)
    decoder: Json | None = field(default_factory=lambda: BYTES_JOINED)
    name: str = "this tokenizer"

    @cached_property
    def normalize(self) -> Callable[[str], str]:
        return normalizer(self.normalizer, self.name)

    @cached_property
    def cut(self) -> Callable[[str], list[str]]:
        return cutter(self.pre_tokenizer, self.name)

    def words(self, text: str) -> list[str]:
        """The words of a text without special tokens."""
        return self.cut(self.normalize(text))
