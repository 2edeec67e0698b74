"""What WordPiece did, to read and to look at: the merges of its training, and the matching of a text."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxlm.errors import UserError
from jaxlm.picture import BLUE, GREY, ORANGE
from jaxlm.text.readable.wordpiece_train import Merge

TAKEN, TRIED, MISSED = BLUE, "#e8e8e8", ORANGE
MOST = 40  # rows in a picture or a print


@dataclass(frozen=True)
class Training:
    """The merges in their order, each the best by `score` when it was made; see `wordpiece_train`."""

    score: str
    merges: tuple[Merge, ...]

    def __str__(self) -> str:
        shown = self.merges[:MOST]
        width = max((len(f"{merge.left} + {merge.right}") for merge in shown), default=0)
        lines = [f"{len(self.merges)} merges by {self.score}"]
        for at, m in enumerate(shown, 1):
            lines.append(
                f"{at:4}  {f'{m.left} + {m.right}':<{width}}  ->  {m.token}   {m.count} times, score {m.score:.6g}"
            )
        return "\n".join(lines + ["  ..."] * (len(self.merges) > MOST))

    def draw(self, path: str | Path) -> None:
        """Writes a picture (PNG) of the first merges and their scores."""
        shown = self.merges[:MOST]
        if not shown:
            raise UserError("there are no merges to draw: train with a larger V")
        from jaxlm import picture  # matplotlib is slow to import

        figure, axes = picture.blank(8, 1 + 0.24 * len(shown))
        axes.barh(range(len(shown)), [merge.score for merge in shown], color=TAKEN, height=0.7)
        axes.set_yticks(range(len(shown)), [f"{m.left} + {m.right}  →  {m.token}" for m in shown], fontsize=9)
        axes.invert_yaxis()
        axes.margins(x=0.12, y=0.01)
        for row, merge in enumerate(shown):
            axes.annotate(f" {merge.count} times", (merge.score, row), va="center", fontsize=8, color=GREY)
        axes.set_title(f"WordPiece: the first merges, their score ({self.score}) and count", loc="left", color=GREY)
        axes.spines[["top", "right"]].set_visible(False)
        picture.save(figure, path)


@dataclass(frozen=True)
class Step:
    """One token of a word: the prefixes of what was left, tried from the longest, and the one taken, None if none."""

    start: int
    tried: tuple[str, ...]
    taken: str | None

    def takes(self, prefix: str) -> bool:
        return self.taken is not None and prefix == self.tried[-1]


@dataclass(frozen=True)
class Matching:
    """The words of a text, each with the steps that cut it; no steps for a word too long to try."""

    words: tuple[tuple[str, tuple[Step, ...]], ...]

    def __str__(self) -> str:
        """A staircase: one line for each prefix tried, with its token where it is one."""
        lines = []
        for word, steps in self.words:
            lines.append(f"{word} -> {' '.join(_tokens(steps)) or 'unknown'}")
            for step in steps:
                for prefix in step.tried:
                    found = f"is {step.taken}" if step.takes(prefix) else "no"
                    lines.append(f"  {' ' * step.start + prefix:<{len(word)}}  {found}")
        return "\n".join(lines)

    def draw(self, path: str | Path) -> None:
        """Writes a picture (PNG) of the staircase of each word."""
        rows = sum(1 + sum(len(step.tried) for step in steps) for _, steps in self.words)
        if not 0 < rows <= 400:
            raise UserError(f"a picture of {rows} rows cannot be drawn: give a text of one to a few words")
        wide = max(len(word) for word, _ in self.words)
        from jaxlm import picture  # matplotlib is slow to import

        figure, axes = picture.blank(max(4, 0.28 * wide + 2.5), 0.6 + 0.26 * rows)
        row = 0
        for word, steps in self.words:
            title = word if _tokens(steps) else f"{word}: unknown"
            axes.text(0, row + 0.5, title, va="center", weight="bold", color=GREY)
            row += 1
            for step in steps:
                for prefix in step.tried:
                    stuck = step.taken is None and prefix == step.tried[-1]
                    back, ink = (
                        (TAKEN, "white") if step.takes(prefix) else (MISSED, "white") if stuck else (TRIED, GREY)
                    )
                    axes.broken_barh([(step.start, len(prefix))], (row + 0.08, 0.84), color=back)
                    for at, letter in enumerate(prefix, step.start):
                        axes.text(at + 0.5, row + 0.5, letter, ha="center", va="center", fontsize=9, color=ink)
                    if step.takes(prefix):
                        axes.text(wide + 0.4, row + 0.5, step.taken or "", va="center", fontsize=10, color=TAKEN)
                    row += 1
        axes.set_xlim(0, wide + 6)
        axes.set_ylim(row, 0)
        axes.axis("off")
        picture.save(figure, path)


def _tokens(steps: Sequence[Step]) -> list[str]:
    """The tokens of a word; none if it is unknown."""
    taken = [step.taken for step in steps if step.taken is not None]
    return taken if len(taken) == len(steps) else []
