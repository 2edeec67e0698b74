"""The tokenizer that needs no training: one id a byte."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm import arguments
from jaxlm.files import write_file
from jaxlm.paths import expand
from jaxlm.text.base import EOT, Tokenizer, utf8
from jaxlm.text.readable.cells import Cell, Explanation

CONFIG = {"tokenizer_class": "ByteTokenizer", "V": 257, "eot": 256}


class ByteTokenizer(Tokenizer):
    """UTF-8 bytes as ids 0 to 255 and `<|endoftext|>` as 256. Exact on every Unicode text.

    Text never becomes the special token: `encode("<|endoftext|>")` spells it out.
    """

    V = 257
    eos = 256
    stops = prefix = (256,)

    def __init__(self) -> None:
        self.pieces = [bytes([i]) for i in range(256)] + [b""]
        self.specials = {self.eot: EOT}

    @property
    def fingerprint(self) -> str:
        return hashlib.blake2b(json.dumps(CONFIG).encode(), digest_size=16).hexdigest()

    def token(self, i: int) -> str:
        return EOT if self.checked_id(i) == self.eos else f"<0x{i:02X}>"

    def encode_plain(self, texts: Sequence[str], literal: bool) -> list[list[int]]:
        return [list(utf8(text)) for text in texts]

    def explain(self, text: str) -> Explanation:
        """The characters of a text with the bytes of their UTF-8 form. Print it, or `draw` it."""
        utf8(text)
        ids = [(character, tuple(utf8(character))) for character in text]
        return Explanation(tuple(Cell(character, tuple(map(self.token, i)), i) for character, i in ids))

    def encode_arrays(self, texts: Sequence[str], dtype: Any = np.uint32) -> list[np.ndarray]:
        return [np.frombuffer(utf8(text), np.uint8).astype(dtype) for text in arguments.texts(texts)]

    def save(self, folder: str | Path) -> None:
        write_file(expand(folder) / "tokenizer_config.json", json.dumps(CONFIG, indent=2).encode() + b"\n")
