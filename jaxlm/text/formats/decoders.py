"""What each token of a `tokenizer.json` stands for as bytes, so that text can be decoded as its tokens arrive."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxlm.text.formats.layout import byte_characters

BYTES = {character: bytes([byte]) for byte, character in enumerate(byte_characters())}
# WordPiece's cleaning up, token by token.
CLEAN = (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m")
CLEAN += (" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re")


@dataclass(frozen=True)
class Pieces:
    """The bytes of tokens in context.

    Attributes:
        first: the bytes of each id as the first token of a text.
        later: the bytes of each id everywhere else.
        strip: how many spaces a text loses at its beginning.
        between: whether the last space of a token is only written when another token follows.
    """

    first: Sequence[bytes]
    later: Sequence[bytes]
    strip: int = 0
    between: bool = False

    def join(self, ids: list[int], state: Any) -> tuple[list[bytes], Any]:
        """The bytes of each id, and the state to give with the ids that follow; None begins a text."""
        begin, strip, space = state or (True, self.strip, b"")
        parts = []
        for i in ids:
            part = space + (self.first if begin else self.later)[i]
            begin, space = False, b""
            while strip and part:
                part, strip = (part[1:], strip - 1) if part[:1] == b" " else (part, 0)
            if self.between and part[-1:] == b" ":
                part, space = part[:-1], b" "
            parts.append(part)
        return parts, (begin, strip, space)


def spelled_for(decoder: dict[str, Any] | None, tokens: Sequence[str], added: Iterable[int]) -> list[str]:
    """The tokens as the decoder has to be given them: added ones, by their ids, in the visible characters of their
    bytes where it reads such. Else it would take one of Latin letters for bytes."""
    out = [*tokens]
    if _reads_bytes(decoder):
        spell = byte_characters()
        for i in added:
            out[i] = "".join(spell[byte] for byte in tokens[i].encode())
    return out


def _reads_bytes(decoder: dict[str, Any] | None) -> bool:
    return bool(decoder) and (decoder["type"] == "ByteLevel" or any(map(_reads_bytes, decoder.get("decoders", ()))))


def pieces(decoder: dict[str, Any] | None, tokens: Sequence[str]) -> Pieces | None:
    """The pieces of a vocabulary under the `decoder` of its tokenizer.json; None for one that is not known here."""
    steps = [] if decoder is None else decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    kinds = [step["type"] for step in steps if step["type"] != "Fuse"]
    if not kinds:  # tokens are joined by spaces, or fused
        plain = [token.encode() for token in tokens]
        return Pieces(plain, plain if decoder else [b" " + piece for piece in plain])
    if kinds == ["ByteLevel"]:
        return _same([_byte_level(token) for token in tokens])
    if kinds == ["Metaspace"]:
        mark, scheme = steps[0]["replacement"], steps[0].get("prepend_scheme", "always")
        spaced = [token.replace(mark, " ").encode() for token in tokens]
        return Pieces(spaced if scheme == "never" else [t.replace(mark, "").encode() for t in tokens], spaced)
    if kinds == ["WordPiece"]:
        return _wordpiece(steps[0], tokens)
    if kinds == ["BPEDecoder"]:
        return Pieces(both := [t.replace(steps[0]["suffix"], " ").encode() for t in tokens], both, between=True)
    return _sentence(steps, tokens)


def _same(both: list[bytes]) -> Pieces:
    return Pieces(both, both)


def _byte_level(token: str) -> bytes:
    if all(character in BYTES for character in token):
        return b"".join(BYTES[character] for character in token)
    return token.encode()  # no bytes, as the library takes it


def _wordpiece(step: dict[str, Any], tokens: Sequence[str]) -> Pieces:
    prefix = step["prefix"]

    def cleaned(text: str) -> bytes:
        for old, new in CLEAN if step["cleanup"] else ():
            text = text.replace(old, new)
        return text.encode()

    first = [cleaned(token) for token in tokens]
    later = [cleaned(token.removeprefix(prefix) if token.startswith(prefix) else f" {token}") for token in tokens]
    return Pieces(first, later)


def _sentence(steps: list[dict[str, Any]], tokens: Sequence[str]) -> Pieces | None:
    """Replacements of strings, byte tokens, and spaces taken from the beginning, as SentencePiece models need."""
    out, fallback, strip = [*tokens], False, 0
    for step in steps:
        if step["type"] == "Replace" and "String" in step["pattern"]:
            out = [token.replace(step["pattern"]["String"], step["content"]) for token in out]
        elif step["type"] == "ByteFallback":
            fallback = True
        elif step["type"] == "Strip" and step["content"] == " " and not step["stop"]:
            strip = step["start"]
        elif step["type"] != "Fuse":
            return None
    both = [
        bytes([byte]) if fallback and (byte := byte_token(token)) is not None else text.encode()
        for token, text in zip(tokens, out)
    ]
    return Pieces(both, both, strip)


def byte_token(token: str) -> int | None:
    """The byte that "<0x41>" spells; None for other tokens."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return int(token[3:5], 16)
        except ValueError:
            pass
    return None
