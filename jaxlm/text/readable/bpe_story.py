"""What byte-level BPE did, to look at: the merges it learned, and those it used on a text, printed and drawn."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxlm.errors import UserError
from jaxlm.picture import BLUE, GREY, ORANGE

SHOWN = 30  # merges that are printed or drawn of those learned
WIDEST, MOST_DRAWN = 36, 600  # bytes in a row of trees, and in a picture
SEEN_AS = {" ": "\u2423", "\n": "\u23ce", "\t": "\u21e5", "\r": "\u240d"}


def visible(piece: bytes) -> str:
    """A piece for the eye: spaces and line ends as signs, bytes that are no whole character as \\xc3."""
    text = piece.decode("utf-8", "backslashreplace")
    return "".join(SEEN_AS.get(c, c) if c in SEEN_AS or c.isprintable() else repr(c)[1:-1] for c in text)


@dataclass(frozen=True)
class Merge:
    """Where `left` stood before `right`, they became one token; `count` times in the corpus, None where not known."""

    left: bytes
    right: bytes
    count: int | None = None

    def __str__(self) -> str:
        return f"{visible(self.left)} + {visible(self.right)} \u2192 {visible(self.left + self.right)}"


class Story(tuple[Merge, ...]):
    """The merges of a vocabulary in the order they were learned, which is their rank."""

    def __str__(self) -> str:
        first = [(str(merge), "" if merge.count is None else f"{merge.count:,}") for merge in self[:SHOWN]]
        wide = max((len(merge) for merge, _ in first), default=0)
        lines = [f"{rank:6}  {merge:{wide}}  {count:>10}".rstrip() for rank, (merge, count) in enumerate(first)]
        return "\n".join(lines + ([f"... {len(self) - SHOWN:,} more"] if len(self) > SHOWN else []))

    def draw(self, path: str | Path) -> None:
        """Writes a PNG of the first merges with their counts. UserError where the counts are not known."""
        first = self[:SHOWN]
        counts = [merge.count for merge in first if merge.count is not None]
        if not counts or len(counts) < len(first):
            raise UserError("how often these merges were seen is not known: only a tokenizer just trained can draw it")
        from jaxlm import picture  # matplotlib is slow to import

        figure, axes = picture.blank(7, 0.6 + 0.24 * len(first))
        axes.barh(range(len(first)), counts, color=BLUE, height=0.7)
        axes.set_yticks(range(len(first)), [f"{rank}   {merge}" for rank, merge in enumerate(first)], fontsize=9)
        axes.set_ylim(len(first) - 0.4, -0.6)
        axes.set_xlabel("times seen when it was merged", color=GREY)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.tick_params(colors=GREY, length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
        picture.save(figure, path)


@dataclass(frozen=True)
class Step:
    """The merge of this rank, after which the word was these pieces; the `at`-th is new."""

    rank: int
    at: int
    pieces: tuple[bytes, ...]


@dataclass(frozen=True)
class WordStory:
    """One word from bytes to tokens; without steps for an added token, or a word that the vocabulary has as a whole."""

    word: str
    pieces: tuple[bytes, ...]
    ids: tuple[int, ...]
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        lines = [visible(self.word.encode())]
        if self.steps:
            lines.append(f"{'':10}{_row(self.leaves)}")
        lines += [f"{step.rank:8}  {_row(step.pieces)}" for step in self.steps]
        tokens = "  ".join(f"{visible(piece)} ({i})" for piece, i in zip(self.pieces, self.ids))
        return "\n".join([*lines, f"{'tokens':>8}  {tokens}"])

    @property
    def leaves(self) -> tuple[bytes, ...]:
        """Where its merge trees begin: its bytes, or its pieces where nothing was merged."""
        data = self.word.encode()
        return tuple(data[at : at + 1] for at in range(len(data))) if self.steps else self.pieces

    def nodes(self) -> Iterator[tuple[float, int, bytes, int | None, tuple[tuple[float, int], ...]]]:
        """The merge trees: (x, height, piece, rank or None, places of the two it was made of), children first."""
        row = [(float(x), 0) for x in range(len(self.leaves))]
        yield from ((x, height, piece, None, ()) for (x, height), piece in zip(row, self.leaves))
        for step in self.steps:
            left, right = row[step.at : step.at + 2]
            place = ((left[0] + right[0]) / 2, 1 + max(left[1], right[1]))
            row[step.at : step.at + 2] = [place]
            yield *place, step.pieces[step.at], step.rank, (left, right)


def _row(pieces: Sequence[bytes]) -> str:
    return " ".join(map(visible, pieces))


def word_story(word: str, pieces: Sequence[bytes], ids: Sequence[int], merges: Sequence[tuple[int, int]]) -> WordStory:
    """The story of a word that `merges`, as (rank, place), made `pieces`."""
    row = [bytes([byte]) for byte in word.encode()]
    steps = []
    for rank, at in merges:
        row[at : at + 2] = [row[at] + row[at + 1]]
        steps.append(Step(rank, at, tuple(row)))
    return WordStory(word, tuple(pieces), tuple(ids), tuple(steps))


@dataclass(frozen=True)
class Explanation:
    """How each word of a text was merged. `print` shows the pieces after each merge, with its rank before them."""

    words: tuple[WordStory, ...]

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.words))

    def draw(self, path: str | Path) -> None:
        """Writes a PNG of the merge trees: bytes below, tokens with their ids in colour, at each merge its rank.

        Raises:
            UserError: the text is empty, or too long for a picture, or the file cannot be written.
        """
        # A column for each leaf, and more for a long added token.
        widths = [max(len(word.leaves), math.ceil(len(word.word) / len(word.leaves) / 4)) for word in self.words]
        if not 0 < sum(widths) <= MOST_DRAWN:
            raise UserError(f"a picture holds 1 to {MOST_DRAWN} bytes, this text has {sum(widths)}: explain less text")
        rows: list[list[tuple[float, WordStory]]] = [[]]
        x = wide = 0
        for word, width in zip(self.words, widths):
            if rows[-1] and x + width > WIDEST:
                rows.append([])
                x = 0
            rows[-1].append((x + (width - len(word.leaves)) / 2, word))
            x += width + 1
            wide = max(wide, x - 1)
        heights = [2.2 + max(node[1] for _, word in row for node in word.nodes()) for row in rows]
        from jaxlm import picture  # matplotlib is slow to import

        figure, axes = picture.blank(0.6 + 0.38 * wide, 0.55 * sum(heights))
        top = 0.0
        for row, height in zip(rows, heights):
            top -= height
            for x, word in row:
                _tree(axes, x, top + 1.2, word)
        axes.set_xlim(-1, wide)
        axes.set_ylim(-sum(heights), 0)
        axes.axis("off")
        picture.save(figure, path)


def _tree(axes: Any, x0: float, y0: float, word: WordStory) -> None:
    nodes = [*word.nodes()]
    under = {place for node in nodes for place in node[4]}
    ids = iter(word.ids)
    roots = sorted((node[:2] for node in nodes if node[:2] not in under), key=lambda place: place[0])
    named = dict(zip(roots, ids))
    for x, height, piece, rank, children in nodes:
        for a, b in children:
            axes.plot([x0 + a, x0 + x], [y0 + b, y0 + height], color="#b0b0b0", linewidth=1, zorder=1)
        token = named.get((x, height))
        box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": ORANGE if token is not None else BLUE}
        axes.text(x0 + x, y0 + height, visible(piece), ha="center", va="center", fontsize=9, bbox=box, zorder=2)
        if rank is not None:
            box = {"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none"}
            axes.text(x0 + x, y0 + height - 0.45, rank, ha="center", va="center", fontsize=6, color=GREY, bbox=box)
        if token is not None:
            axes.text(x0 + x, y0 + height + 0.5, token, ha="center", va="center", fontsize=7, color=ORANGE)
