"""SentencePiece models: our own, which lose nothing, and other people's.

Kudo and Richardson 2018, "SentencePiece: A simple and language independent subword tokenizer", arXiv:1808.06226.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.errors import UserError
from jaxlm.files import read_file, write_file
from jaxlm.paths import expand
from jaxlm.text.base import Tokenizer, split_at, utf8
from jaxlm.text.formats.fast_files import check_far
from jaxlm.text.settings import Settings

SPACE = "\u2581"  # how a model spells a space
# The end of a model file: its normalizer_spec again, with add_dummy_prefix false. Protocol buffers that follow each
# other are read as one.
NO_PREFIX = b"\x1a\x02\x18\x00"
CHUNK = 1 << 16  # characters encoded in one call: 50 bytes of memory each, and unigram scores are float32 sums
GROUP = 256  # chunks encoded at a time, on all cores


class SentencePieceTokenizer(Tokenizer):
    """A `.model` file (a path), or its bytes; `name` stands in error messages.

    The model's special tokens are never found in a text; those `added` by the files beside a model are, unless it is
    taken literally. A model that puts a space before a text puts it after an added token too, unless the files say
    `legacy: false`, as for transformers. Where a model has byte pieces and normalises nothing, as ours, decoding an
    encoded text gives exactly that text back, but for U+2581: the library spells a space so, and decodes it as one.
    Models made elsewhere may normalise; their own rules are kept.

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
        self._add(settings, name)
        self.describe(settings)
        self._find_stripping()
        self._inner, self._filler = sp, ""
        if settings.config.get("legacy") is False:
            self._inner = SentencePieceProcessor(model_proto=self.model + NO_PREFIX)
            if self._inner.encode(" a") == self._inner.encode("a"):  # it would lose the space after an added token
                self._filler = sp.id_to_piece(sp.unk_id())

    def _add(self, settings: Settings, name: str) -> None:
        """Makes room for tokens that are not in the model; the fields are those of a tokenizer.json."""
        added, sp = dict(settings.added), self._processor
        roles = [token["content"] for token in settings.roles.values()]
        for token in settings.special_tokens():
            i = sp.piece_to_id(token["content"])
            if token["content"] not in roles and not sp.is_unknown(i):
                added.setdefault(i, token)
        self._added = {token["content"]: i for i, token in added.items()}
        check_far({i: token["content"] for i, token in added.items()}, self.V + len(added), name)
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

    def table(self) -> dict[str, Any]:
        """The scores and kinds of its pieces as a GGUF file has them, and whether a space is put before a text."""
        sp, n = self._processor, self._processor.get_piece_size()
        kinds = ((sp.is_unknown, 2), (sp.is_control, 3), (sp.is_byte, 6), (sp.is_unused, 5))
        kind = lambda i: next((number for has, number in kinds if has(i)), 1)
        later = {i: 3 if text in self.specials.values() else 4 for text, i in self._added.items()}
        types = [later.get(i, kind(i) if i < n else 5) for i in range(self.V)]
        scores = [float(sp.get_score(i)) if i < n else 0.0 for i in range(self.V)]
        return {"scores": scores, "token_type": types, "add_space_prefix": bool(self.spaced)}

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
        after = () if self._inner is self._processor else self._added.values()  # no space is added after these
        for at, i in enumerate(ids):
            if i in after:
                return True
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
        if str(settings.config.get("tokenizer_class")).startswith("T5") and self.eos is not None:
            self.prefix, self.suffix = (), (self.eos,)
        elif "bos" in settings.roles and self.bos is not None:
            self.prefix = (self.bos,)
        around = settings.around(*([self.token(i) for i in side] for side in (self.prefix, self.suffix)))
        self.prefix, self.suffix = (tuple(i for t in side if (i := self.id(t)) is not None) for side in around)

    def token(self, i: int) -> str:
        inside = (i := self.checked_id(i)) < self._processor.get_piece_size()
        return self._processor.id_to_piece(i) if inside else self.specials.get(i) or self.pieces[i].decode()

    def _mapped(self, text: str, first: bool = True) -> tuple[list[int], list[str], list[tuple[int, int]]]:
        """Ids, spellings and offsets of a part of a text, which begins it or stands after an added token."""
        if first or self._inner is self._processor:
            mapping = self._processor.encode(text, return_type="offset_mapping")
            return mapping["ids"], mapping["pieces"], mapping["offsets"]
        filler = self._filler if text.startswith(" ") else ""
        at = len(self._inner.encode(filler)) if filler else 0
        mapping = self._inner.encode(filler + text, return_type="offset_mapping")
        offsets = [(a - len(filler), b - len(filler)) for a, b in mapping["offsets"][at:]]
        return mapping["ids"][at:], mapping["pieces"][at:], offsets

    def _spellings(self, text: str, ids: list[int]) -> list[str]:
        found, spellings, _ = self._mapped(text)
        return spellings if found == ids else super()._spellings(text, ids)

    def _offsets(self, text: str, ids: list[int], first: bool = True) -> list[tuple[int, int]] | None:
        found, _, offsets = self._mapped(text, first)
        if found != ids:  # a long text, which is encoded in parts
            return super()._offsets(text, ids, first)
        for at in reversed(range(len(ids) - 1)):  # the library gives a character to the last of its byte pieces
            start, stop = offsets[at]
            if start == stop and self._processor.is_byte(ids[at]):
                offsets[at] = offsets[at + 1]
        return offsets

    def _between(self, text: str, first: bool) -> list[int]:
        usual = first or self._inner is self._processor
        return self.encode(text, literal=True) if usual else self._mapped(text, first)[0]

    def _findable(self) -> dict[str, int]:
        return super()._findable() | self._added

    @property
    def fingerprint(self) -> str:
        added = json.dumps(self._added).encode() if self._added else b""
        return hashlib.blake2b(b"sentencepiece" + self.model + added, digest_size=16).hexdigest()

    def encode_plain(self, texts: Sequence[str], literal: bool) -> list[list[int]]:
        out: list[list[int]] = [[] for _ in texts]
        if self._added and not literal:
            for ids, text in zip(out, texts):
                utf8(text)  # refuses lone surrogates
                for at, (part, i) in enumerate(split_at(text, self._added)):
                    ids += self._between(part, at == 0) if i is None else [i]
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
            yield from zip((i for i, _ in group), encoded)

    def _chunks(self, texts: Sequence[str]) -> Iterator[tuple[int, str]]:
        for i, text in enumerate(texts):
            utf8(text)  # refuses lone surrogates
            yield from ((i, chunk) for chunk in self._cut(text))

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
