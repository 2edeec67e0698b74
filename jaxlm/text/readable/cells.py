"""The story of tokenizers that only look up: what was counted, and which id each part of a text becomes."""

from dataclasses import dataclass
from pathlib import Path

from jaxlm.text.readable.unigram_story import seen

SHOWN = 30  # words of a training that are printed and drawn
ROW = 60  # characters to a line of a picture


@dataclass(frozen=True)
class Counted:
    """A vocabulary that was counted.

    Attributes:
        words: what became tokens with their counts, the most frequent first.
        total: how many words the texts had, those that are unknown included.
    """

    words: tuple[tuple[str, int], ...]
    total: int

    @property
    def covered(self) -> float:
        """The share of the texts' words that have a token."""
        return sum(count for _, count in self.words) / self.total

    def __str__(self) -> str:
        lines, sum_ = ["    count  covered  token"], 0
        for word, count in self.words[:SHOWN]:
            sum_ += count
            lines.append(f"{count:9,}  {sum_ / self.total:7.2%}  {seen(word)}")
        if len(self.words) > SHOWN:
            lines.append(f"... {len(self.words) - SHOWN:,} more: {self.covered:.2%} covered")
        return "\n".join(lines)

    def draw(self, path: str | Path) -> None:
        """Draws the counts of the most frequent, as a PNG."""
        from jaxlm import picture  # matplotlib is slow to import

        first = self.words[:SHOWN][::-1]
        figure, axes = picture.blank(7, 0.6 + 0.24 * len(first))
        axes.barh(range(len(first)), [count for _, count in first], color=picture.BLUE, height=0.7)
        axes.set_yticks(range(len(first)), [seen(word) for word, _ in first], parse_math=False)
        axes.set_xlabel(f"times seen; all {len(self.words):,} cover {self.covered:.1%}", color=picture.GREY)
        axes.spines[["top", "right"]].set_visible(False)
        picture.save(figure, path)


@dataclass(frozen=True)
class Cell:
    """A part of a text, the tokens that it becomes and their ids; `known` says whether the vocabulary has it."""

    text: str
    tokens: tuple[str, ...]
    ids: tuple[int, ...]
    known: bool = True


@dataclass(frozen=True)
class Explanation:
    """A text, part by part."""

    cells: tuple[Cell, ...]

    def __str__(self) -> str:
        width = max((len(seen(cell.text)) for cell in self.cells), default=0)
        rows = [(seen(c.text).ljust(width), c.ids, c.tokens, "" if c.known else "  unknown") for c in self.cells]
        return "\n".join(f"{text}  {' '.join(map(str, ids))}  {' '.join(map(seen, t))}{u}" for text, ids, t, u in rows)

    def draw(self, path: str | Path) -> None:
        """Draws the parts as boxes over their ids, unknown ones in another colour, as a PNG."""
        from jaxlm import picture  # matplotlib is slow to import

        places, x, row = [], 0.0, 0
        for cell in self.cells:
            width = 0.6 + 0.9 * max(len(seen(cell.text)), *(len(str(i)) for i in cell.ids), 1)
            if x and x + width > ROW:
                x, row = 0.0, row + 1
            places.append((x, row, width))
            x += width + 0.3
        deep = 1.6 + 0.9 * max((len(cell.ids) for cell in self.cells), default=1)
        figure, axes = picture.blank(10, 0.5 + 0.22 * deep * (row + 1))
        style = {"ha": "center", "va": "center", "parse_math": False}
        for (x, row, width), cell in zip(places, self.cells):
            color = picture.BLUE if cell.known else picture.ORANGE
            axes.broken_barh([(x, width)], (row * deep, 1.0), facecolor="white", edgecolor=color)
            axes.text(x + width / 2, row * deep + 0.5, seen(cell.text), fontsize=10, color=color, **style)
            for at, i in enumerate(cell.ids):
                y = row * deep + 1.5 + 0.9 * at
                axes.text(x + width / 2, y, str(i), fontsize=7, color=picture.GREY, **style)
        axes.set_xlim(-0.5, ROW + 4)
        axes.set_ylim(deep * (row + 1), -0.3)
        axes.axis("off")
        picture.save(figure, path)
