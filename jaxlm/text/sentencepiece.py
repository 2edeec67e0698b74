"""SentencePiece models: our own, which lose nothing, and other people's.

Kudo and Richardson 2018, "SentencePiece: A simple and language independent subword tokenizer", arXiv:1808.06226.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.errors import UserError
from jaxlm.paths import expand
from jaxlm.text.base import Tokenizer, split_at, utf8
from jaxlm.text.files import read_file, write_file
from jaxlm.text.layout import Json
from jaxlm.text.settings import Settings

SPACE = "\u2581"  # how a model spells a space; in a text it is a character like any other
CHUNK = 1 << 16  # characters encoded in one call: 50 bytes of memory each, and unigram scores are float32 sums
GROUP = 256  # chunks encoded at a time, on all cores


class SentencePieceTokenizer(Tokenizer):
    """A `.model` file (a path), or its bytes; `name` stands in error messages.

    The model's special tokens are never found in a text; those `added` by the files beside a model are, unless it is
    taken literally. Where a model has byte pieces and normalises nothing, as ours, decoding an encoded text gives
    exactly that text back. Models made elsewhere may normalise; their own rules are kept.

    Raises:
        UserError: no such file, or not a SentencePiece model.
    """

    spaced: frozenset[int] = frozenset()  # ids that lose one leading space at the beginning of a decoded text
    strip_all = False  # whether the ids after a stripped one that left nothing are stripped too

    def __init__(self, model: str | Path | bytes, name: str = "these bytes", settings: Settings = Settings()) -> None:
        # Kept off the import path of `jaxlm --help`. (Pyright takes this file for the library.)
        from sentencepiece import SentencePieceProcessor  # pyright: ignore[reportAttributeAccessIssue]

        name = name if isinstance(model, bytes) else str(model)
        self.model = model if isinstance(model, bytes) else read_file(expand(model))
        try:
            if not self.model:
                raise RuntimeError("it is empty")
            self._processor = sp = SentencePieceProcessor(model_proto=self.model)
            self.V = sp.get_piece_size()
            self.specials = {i: sp.id_to_piece(i) for i in range(self.V) if sp.is_control(i)}
            self.pieces = [self._piece(i) for i in range(self.V)]
        except (RuntimeError, ValueError):  # ValueError: damaged pieces that are not UTF-8
            raise UserError(f"{name}: not a SentencePiece model") from None
        self.bos, self.eos, self.pad, self.unk = (
            i if i >= 0 else None for i in (sp.bos_id(), sp.eos_id(), sp.pad_id(), sp.unk_id())
        )
        self.prefix = (self.eot,) if self.bos is not None or self.eos is not None else ()
        self.stops = tuple(dict.fromkeys(i for i in (self.eos, *self.prefix) if i is not None))
        self._add(settings.added)
        self.describe(settings)
        self._spelled = [sp.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE.encode()]
        self._find_stripping()
        probe = " \n\t  a\u00a0\ufb01\u2460A\u030a  b  "
        self._exact = not self.spaced and all(map(sp.is_byte, self._spelled)) and sp.decode(sp.encode(probe)) == probe

    def _add(self, added: Mapping[int, Json]) -> None:
        """Makes room for tokens that are not in the model; the fields are those of a tokenizer.json."""
        self._added = {token["content"]: i for i, token in added.items()}
        self.specials |= {i: token["content"] for i, token in added.items() if token["special"]}
        pieces = [*self.pieces, *[b""] * (1 + max(added, default=-1) - self.V)]
        for i, token in added.items():
            pieces[i] = b"" if token["special"] else token["content"].encode()
        self.pieces, self.V = pieces, len(pieces)

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

    def parts(self, ids: Any, skip_special: bool, state: Any = None) -> tuple[list[bytes], Any]:
        ids = self.checked(ids)
        parts = [self.pieces[i] for i in ids]
        begun = state or self._strip(ids, parts)
        if not skip_special:
            parts = [self.specials[i].encode() if i in self.specials else part for i, part in zip(ids, parts)]
        return parts, begun

    def _strip(self, ids: list[int], parts: list[bytes]) -> bool:
        """Takes the space that encoding adds from the first piece; whether there was one."""
        for at, i in enumerate(ids):
            if not parts[at]:
                continue
            if i not in self.spaced:
                return True
            parts[at] = parts[at][1:]
            if parts[at] or not self.strip_all:
                return True
        return False

    def describe(self, settings: Settings) -> None:
        super().describe(settings)
        if around := settings.around():
            self.prefix, self.suffix = (tuple(i for t in tokens if (i := self.id(t)) is not None) for tokens in around)
        elif str(settings.config.get("tokenizer_class")).startswith("T5") and self.eos is not None:
            self.prefix, self.suffix = (), (self.eos,)

    def token(self, i: int) -> str:
        inside = i < self._processor.get_piece_size()
        return self._processor.id_to_piece(i) if inside else self.specials.get(i) or self.pieces[i].decode()

    def _spellings(self, text: str, ids: list[int]) -> list[str]:
        mapping = self._processor.encode(text, return_type="offset_mapping")
        return mapping["pieces"] if mapping["ids"] == ids else super()._spellings(text, ids)

    def _offsets(self, text: str, ids: list[int]) -> list[tuple[int, int]] | None:
        mapping = self._processor.encode(text, return_type="offset_mapping")
        if mapping["ids"] != ids:  # a text with U+2581, which ours spell in byte pieces
            return super()._offsets(text, ids)
        offsets: list[tuple[int, int]] = mapping["offsets"]
        for at in reversed(range(len(ids) - 1)):  # the library gives a character to the last of its byte pieces
            start, stop = offsets[at]
            if start == stop and self._processor.is_byte(ids[at]):
                offsets[at] = offsets[at + 1]
        return offsets

    @property
    def fingerprint(self) -> str:
        added = json.dumps(self._added).encode() if self._added else b""
        return hashlib.blake2b(b"sentencepiece" + self.model + added, digest_size=16).hexdigest()

    def encode_plain(self, texts: Sequence[str], literal: bool) -> list[list[int]]:
        out: list[list[int]] = [[] for _ in texts]
        if self._added and not literal:
            for ids, text in zip(out, texts):
                for part, i in split_at(text, self._added):
                    ids += self.encode(part, literal=True) if i is None else [i]
            return out
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
        write_file(expand(folder) / "tokenizer.model", self.model)
        self.settings.save(expand(folder))
