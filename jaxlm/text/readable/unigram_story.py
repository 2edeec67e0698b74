"""What a unigram tokenizer did, as data, as plain text and as pictures: its training, and the lattice of a text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxlm.picture import BLUE, GREY, GRID, ORANGE

BEST, OTHER = ORANGE, BLUE
CENTRED: dict[str, Any] = {"ha": "center", "va": "center", "parse_math": False}
LABEL = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
SEEN = str.maketrans({" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"})


@dataclass(frozen=True)
class Round:
    """One round of training.

    Attributes:
        pieces: how many there were at its beginning.
        log_likelihood: of all words under them, summed over segmentations, in nats.
        rare: how many were dropped because they were expected less than half a time.
        pruned: how many were dropped because the likelihood loses least without them.
        costly: the ten of these that cost most, with their estimated losses in nats.
    """

    pieces: int
    log_likelihood: float
    rare: int
    pruned: int
    costly: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Training:
    """The rounds of a training, the last of which is the final vocabulary, and how many characters they read."""

    rounds: tuple[Round, ...]
    characters: int

    def bits(self, at: int) -> float:
        """Bits per character of the training words in a round."""
        return -self.rounds[at].log_likelihood / (self.characters * 0.6931471805599453)

    def __str__(self) -> str:
        lines = ["  pieces  bits/char    rare  pruned  the costliest of the pruned"]
        for at, one in enumerate(self.rounds):
            costly = "  ".join(seen(piece) for piece, _ in one.costly[:6])
            lines.append(f"{one.pieces:8,}  {self.bits(at):9.4f}  {one.rare:6,}  {one.pruned:6,}  {costly}".rstrip())
        return "\n".join(lines)

    def draw(self, path: str | Path) -> None:
        """Draws bits per character over the number of pieces, as a PNG."""
        from jaxlm import picture  # matplotlib is slow to import

        figure, axes = picture.blank(7, 4)
        sizes = [one.pieces for one in self.rounds]
        axes.plot(sizes, [self.bits(at) for at in range(len(sizes))], color=OTHER, marker="o", markersize=4)
        axes.plot(sizes[-1:], [self.bits(-1)], "o", color=BEST, markersize=7)
        axes.set_title(
            f"{sizes[-1]:,} pieces: {self.bits(-1):.3f} bits per character", loc="left", fontsize=10, color=BEST
        )
        axes.set_xscale("log")
        axes.invert_xaxis()
        shown = [
            n * 10**power for power in range(9) for n in (1, 2, 5) if 0.8 * sizes[-1] < n * 10**power < 1.2 * max(sizes)
        ]
        axes.set_xticks(shown, [f"{size:,}" for size in shown])
        axes.set_xticks([], minor=True)
        axes.set_xlabel("pieces, fewer in every round", color=GREY)
        axes.set_ylabel("bits per character of the training words", color=GREY)
        axes.grid(True, color=GRID, linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=GREY, labelsize=9)
        picture.save(figure, path)


@dataclass(frozen=True)
class Segmentation:
    """One way to cut a text.

    Attributes:
        ids: token ids.
        tokens: what each piece spells in the text.
        score: log P(ids), the sum of the scores of the pieces.
        share: P(ids | text), its part of all segmentations of the text.
    """

    ids: list[int]
    tokens: list[str]
    score: float
    share: float


@dataclass(frozen=True)
class Piece:
    """A piece in the lattice of a text: where, its score, and with which probability a segmentation has it there."""

    start: int
    stop: int
    token: str
    score: float
    share: float
    best: bool


@dataclass(frozen=True)
class Explanation:
    """The lattice of a text: all its pieces, and the best segmentations, best first; log P(text) over all of them."""

    text: str
    pieces: tuple[Piece, ...]
    segmentations: tuple[Segmentation, ...]
    log_marginal: float

    def __str__(self) -> str:
        width = len(self.text)
        lines = [
            f"{seen(self.text)}   log P(text) = {self.log_marginal:.3f}",
            "",
            f"{'pieces':<{width}}     score  share",
        ]
        for piece in self.pieces:
            row = (" " * piece.start + seen(piece.token)).ljust(max(width, 6))
            lines.append(f"{row}  {piece.score:8.3f}  {piece.share:5.1%}{' *' if piece.best else ''}")
        lines += ["", "share   score     segmentations, best first"]
        for one in self.segmentations:
            lines.append(f"{one.share:6.2%}  {one.score:8.3f}  {' | '.join(map(seen, one.tokens))}")
        return "\n".join(lines)

    def draw(self, path: str | Path) -> None:
        """Draws the pieces as arcs over the characters, the best segmentation highlighted, as a PNG."""
        from matplotlib.patches import Arc

        from jaxlm import picture  # matplotlib is slow to import

        width = max(len(self.text), 1)
        tallest = max((piece.stop - piece.start for piece in self.pieces), default=1)
        figure, axes = picture.blank(min(40, 1 + 0.75 * width), min(12, 1.5 + 0.5 * tallest))
        for piece in sorted(self.pieces, key=lambda piece: piece.best):
            size, middle = piece.stop - piece.start, (piece.start + piece.stop) / 2
            color, weight = (BEST, 2.4) if piece.best else (OTHER, 1.0)
            fade = 1.0 if piece.best else 0.25 + 0.75 * piece.share
            axes.add_patch(Arc((middle, 0), size, 2 * size, theta2=180, color=color, linewidth=weight, alpha=fade))
            label = f"{seen(piece.token)}\n{piece.score:.2f}" if size > 1 else f"{piece.score:.2f}"
            axes.text(middle, size, label, color=color, fontsize=7.5, bbox=LABEL, linespacing=1.0, **CENTRED)
        for place, character in enumerate(seen(self.text)):
            axes.text(place + 0.5, -0.45, character, fontsize=15, **CENTRED)
            axes.plot([place, place + 1], [0, 0], "o", color=GREY, markersize=3)
        cut = self.segmentations[0] if self.segmentations else Segmentation([], [], 0.0, 1.0)
        title = f"{' | '.join(map(seen, cut.tokens))}   log P = {cut.score:.2f}, {cut.share:.0%} of all segmentations"
        axes.set_title(title, loc="left", fontsize=12, color=BEST, parse_math=False)
        axes.set_xlim(-0.2, width + 0.2)
        axes.set_ylim(-0.9, tallest + 0.6)
        axes.set_axis_off()
        picture.save(figure, path)


def seen(text: str) -> str:
    """The text with one visible character for each of its own."""
    return "".join(character if character.isprintable() else "·" for character in text.translate(SEEN))
