"""SentencePiece models: our own, which lose nothing, and other people's.

Kudo and Richardson 2018, "SentencePiece: A simple and language independent subword tokenizer", arXiv:1808.06226.
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.errors import UserError
from jaxlm.text.base import Tokenizer, utf8, write_file

SPACE = "\u2581"  # how a model spells a space; in a text it is a character like any other
CHUNK = 1 << 16  # characters encoded in one call: 50 bytes of memory each, and unigram scores are float32 sums
GROUP = 256  # chunks encoded at a time, on all cores


class SentencePieceTokenizer(Tokenizer):
    """A `.model` file (a path), or its bytes.

    `eot` is the model's `<s>` (bos) where it has one, since that begins a text, and else its `</s>` (eos); ours have
    only `<|endoftext|>`. Where a model has byte pieces and normalises nothing, as ours, decoding an encoded text gives
    exactly that text back. Models made elsewhere may normalise; their own rules are kept.

    Raises:
        UserError: no such file, not a SentencePiece model, or a model without bos and eos.
    """

    def __init__(self, model: str | Path | bytes) -> None:
        # Kept off the import path of `jaxlm --help`. (Pyright takes this file for the library.)
        from sentencepiece import SentencePieceProcessor  # pyright: ignore[reportAttributeAccessIssue]

        name = "these bytes" if isinstance(model, bytes) else str(model)
        self.model = model if isinstance(model, bytes) else _read(Path(model))
        try:
            if not self.model:
                raise RuntimeError("it is empty")
            self._processor = sp = SentencePieceProcessor(model_proto=self.model)
            self.V = sp.get_piece_size()
            self.specials = {i: sp.id_to_piece(i) for i in range(self.V) if sp.is_control(i)}
            self.pieces = [self._piece(i) for i in range(self.V)]
        except (RuntimeError, ValueError):  # ValueError: damaged pieces that are not UTF-8
            raise UserError(f"{name}: not a SentencePiece model") from None
        self.eot = sp.bos_id() if sp.bos_id() >= 0 else sp.eos_id()
        if self.eot < 0:
            raise UserError(f"{name}: the model has neither bos nor eos to separate documents: use another model")
        self._spelled = [sp.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE.encode()]
        self._find_stripping()
        probe = " \n\t  a\u00a0\ufb01\u2460A\u030a  b  "
        self._exact = not self.spaced and all(map(sp.is_byte, self._spelled)) and sp.decode(sp.encode(probe)) == probe

    def _piece(self, i: int) -> bytes:
        sp = self._processor
        piece = sp.id_to_piece(i)
        if sp.is_byte(i):
            return bytes([int(piece[3:5], 16)])
        if sp.is_control(i):
            return b""
        return (sp.decode([i]) if sp.is_unknown(i) else piece.replace(SPACE, " ")).encode()

    def _find_stripping(self) -> None:
        sp = self._processor
        spaced = [i for i, piece in enumerate(self.pieces) if piece[:1] == b" " and sp.id_to_piece(i)[0] == SPACE]
        probe = next((i for i in spaced if self.pieces[i][1:2] != b" "), None)
        if probe is not None and sp.decode([probe])[:1] != " ":
            self.spaced = frozenset(spaced)
            alone = sp.piece_to_id(SPACE)
            self.strip_all = alone in self.spaced and sp.decode([alone, alone]) == ""

    @property
    def fingerprint(self) -> str:
        return hashlib.blake2b(b"sentencepiece" + self.model, digest_size=16).hexdigest()

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        out: list[list[int]] = [[] for _ in texts]
        for i, ids in self._encode(texts):
            out[i] += ids
        return out

    def encode_arrays(self, texts: Sequence[str], dtype: Any = np.uint32) -> list[np.ndarray]:
        out: list[list[np.ndarray]] = [[np.empty(0, dtype)] for _ in texts]
        for i, ids in self._encode(texts):
            out[i].append(np.array(ids, dtype))  # a list takes ten times the memory
        return [np.concatenate(parts) for parts in out]

    def _encode(self, texts: Sequence[str]) -> Iterator[tuple[int, list[int]]]:
        """(index of a text, ids of its next chunk), in order."""
        chunks = self._chunks(texts)
        while group := list(itertools.islice(chunks, GROUP)):
            strings = [chunk for _, chunk in group]
            encoded = self._processor.encode(strings) if len(group) > 1 else [self._processor.encode(strings[0])]
            for (i, chunk), ids in zip(group, encoded):
                yield i, self._spelled if self._exact and chunk == SPACE else ids

    def _chunks(self, texts: Sequence[str]) -> Iterator[tuple[int, str]]:
        for i, text in enumerate(texts):
            utf8(text)  # refuses lone surrogates
            for run, part in enumerate(text.split(SPACE) if self._exact else [text]):
                if run:  # the library would decode U+2581 as a space, so it is spelled in byte pieces
                    yield i, SPACE
                yield from ((i, chunk) for chunk in self._cut(part))

    def _cut(self, text: str) -> Iterator[str]:
        """Long texts in chunks, cut before a space or after a newline: our pieces never reach across either."""
        start = 0
        while len(text) - start > CHUNK and not self.spaced:  # a model that adds a space would add one to each chunk
            stop = start + CHUNK
            for at in range(stop, stop - CHUNK // 8, -1):
                before, after = text[at - 1], text[at]
                if (before == "\n" and not after.isspace()) or (after == " " and not before.isspace()):
                    stop = at
                    break
            yield text[start:stop]
            start = stop
        yield text[start:]

    def save(self, folder: str | Path) -> None:
        write_file(Path(folder) / "tokenizer.model", self.model)


def _read(path: Path) -> bytes:
    try:
        return path.expanduser().read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot read the tokenizer: {error.strerror}") from None
