"""What a vocabulary is like, and how it does on a text."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.text.base import Tokenizer

# A word is a run of letters, marks and digits; in scripts written without spaces, each letter with its marks.
UNSPACED = "".join(rf"\p{{{script}}}" for script in ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar"))
WORD = rf"[{UNSPACED}]\p{{M}}*|(?:(?![{UNSPACED}])[\p{{L}}\p{{M}}\p{{N}}])+"
SHOWN = 8  # examples
CONTEXTS = ("", "a", "a ", "0", ".", "\n", " ")  # what may stand before a token


@dataclass(frozen=True)
class Measured:
    """Counts of one tokenizer on one text.

    Attributes:
        tokens, words, bytes, characters: how many there are.
        unknown: tokens that stand for what the vocabulary does not know.
        parts: tokens that are a part of a character.
        used_V: how often each id occurs, (V,).
    """

    tokens: int
    words: int
    bytes: int
    characters: int
    unknown: int
    parts: int
    used_V: np.ndarray

    @property
    def fertility(self) -> float:
        """Tokens per word (Rust et al. 2021, arXiv:2012.15613)."""
        return self.tokens / max(self.words, 1)

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / max(self.tokens, 1)

    def row(self) -> dict[str, float | int]:
        """The figures to print."""
        return {
            "tokens": self.tokens,
            "words": self.words,
            "bytes": self.bytes,
            "tokens per word": self.fertility,
            "bytes per token": self.bytes_per_token,
            "unknown": self.unknown / max(self.tokens, 1),
            "parts of characters": self.parts / max(self.tokens, 1),
            "unused": int((self.used_V == 0).sum()),
        }


def measure(tokenizer: Tokenizer, texts: Iterable[str]) -> Measured:
    """How a tokenizer does on a text of any size, given in passages. Raises UserError for a lone surrogate."""
    import regex  # kept off the import path of `jaxlm --help`

    word = regex.compile(WORD)
    used_V = np.zeros(tokenizer.V, np.int64)
    words = size = characters = 0
    for text in texts:
        used_V += np.bincount(tokenizer.encode_arrays([text])[0], minlength=tokenizer.V)
        words += sum(1 for _ in word.finditer(text))
        size += len(text.encode())
        characters += len(text)
    parts_V = np.array([_is_part(piece) for piece in tokenizer.pieces])
    unknown = 0 if tokenizer.unk is None else int(used_V[tokenizer.unk])
    return Measured(int(used_V.sum()), words, size, characters, unknown, int(used_V[parts_V].sum()), used_V)


def longest(tokenizer: Tokenizer, k: int = SHOWN) -> list[int]:
    """The ids of the k longest tokens that have a letter, in bytes, the longest first. (Runs of spaces say little.)"""
    order = np.argsort(-tokenizer.byte_lengths_V, kind="stable").tolist()
    return list(itertools.islice((i for i in order if any(map(str.isalpha, tokenizer.spell(i)))), k))


def unreached(tokenizer: Tokenizer) -> list[int]:
    """The ids that the tokenizer does not produce for their own text, after any of a few contexts.

    No training text can have taught a model such tokens (Land and Bartolo 2024, arXiv:2405.05417, section 3.1). Special
    tokens and parts of characters are left out.
    """
    skipped = {*tokenizer.specials, tokenizer.unk}
    pieces = enumerate(tokenizer.pieces)
    ids = [i for i, piece in pieces if piece and i not in skipped and not _is_part(piece)]
    for context in CONTEXTS:
        texts = [context + tokenizer.pieces[i].decode() for i in ids]
        encoded = tokenizer.encode_batch(texts, literal=True)
        ids = [i for i, found in zip(ids, encoded) if i not in found]
    return ids


def _is_part(piece: bytes) -> bool:
    try:
        piece.decode()
        return False
    except UnicodeDecodeError:
        return True


def facts(tokenizer: Tokenizer, measured: Mapping[str, Measured]) -> dict[str, Any]:
    """What there is to say of a tokenizer and its figures on texts, as plain values."""
    used = sum((one.used_V for one in measured.values()), np.zeros(tokenizer.V, np.int64))
    ordinary = [i for i in range(tokenizer.V) if i not in tokenizer.specials and tokenizer.pieces[i]]
    rare = sorted((i for i in ordinary if used[i] > 0), key=lambda i: (used[i], -i))[:SHOWN]
    never = unreached(tokenizer)
    return {
        "kind": type(tokenizer).__name__,
        "V": tokenizer.V,
        "special": {tokenizer.specials[i]: i for i in sorted(tokenizer.specials)},
        "longest": [tokenizer.spell(i) for i in longest(tokenizer)],
        "unreached": {"count": len(never), "first": [tokenizer.spell(i) for i in never[:SHOWN]]},
        "unused": {"count": sum(1 for i in ordinary if not used[i]), "of": len(ordinary)} if measured else None,
        "rarest": {tokenizer.spell(i): int(used[i]) for i in rare},
        "texts": {name: one.row() for name, one in measured.items()},
    }


def table(name: str, facts: Mapping[str, Any]) -> str:
    """The facts of `facts` to read in a terminal."""
    special = list(facts["special"].items())
    told = ", ".join(f"{spelling} {i}" for spelling, i in special[:SHOWN]) + (", ..." if len(special) > SHOWN else "")
    lines = [
        f"{name}: {facts['V']:,} tokens ({facts['kind']})",
        f"  special    {len(special)}: {told}" if special else "  special    none",
        f"  longest    {_listed(facts['longest'])}",
        f"  unreached  {facts['unreached']['count']} that come out of no text: {_listed(facts['unreached']['first'])}",
    ]
    if not facts["texts"]:
        return "\n".join(lines)
    lines += [
        f"  unused     {facts['unused']['count']:,} of {facts['unused']['of']:,} in these texts",
        f"  rarest     {_listed(facts['rarest'])}",
        "",
    ]
    rows = [["text", *next(iter(facts["texts"].values()))]]
    rows += [[text, *map(_figure, row.items())] for text, row in facts["texts"].items()]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines += ["  " + "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    return "\n".join(lines)


def _figure(item: tuple[str, float]) -> str:
    name, value = item
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}" if " per " in name else f"{value:.2%}"


def _listed(spellings: Iterable[str]) -> str:
    return ", ".join(repr(s if len(s) <= 24 else f"{s[:20]}... ({len(s)})") for s in spellings) or "none"


def plot(measured: dict[str, dict[str, Measured]], path: str | Path) -> None:
    """Bars of tokens per word and bytes per token; `measured` is by tokenizer, then by text. UserError as a file's."""
    from jaxlm import picture  # matplotlib is slow to import

    texts = list(dict.fromkeys(text for by_text in measured.values() for text in by_text))
    figure, both = picture.blank(4 + 0.35 * len(texts) * (1 + len(measured)), 6.5, rows=2)
    panels = [("tokens per word", lambda one: one.fertility), ("bytes per token", lambda one: one.bytes_per_token)]
    for axes, (title, value) in zip(both, panels):
        for at, (name, by_text) in enumerate(measured.items()):
            x = np.arange(len(texts)) + (at - (len(measured) - 1) / 2) * (width := 0.8 / len(measured))
            heights = [value(by_text[text]) if text in by_text else 0 for text in texts]
            bars = axes.bar(x, heights, width, color=picture.COLOURS[at % len(picture.COLOURS)], label=name)
            axes.bar_label(bars, fmt="{:.2f}", fontsize=7, color=picture.GREY, padding=1)
        axes.set_ylabel(title)
        axes.margins(y=0.12)
        axes.spines[["top", "right"]].set_visible(False)
    axes.set_xticks(
        range(len(texts)), texts, rotation=30 if len(texts) > 4 else 0, ha="right" if len(texts) > 4 else "center"
    )
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    picture.save(figure, path)
