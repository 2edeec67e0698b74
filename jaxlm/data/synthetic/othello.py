"""Othello: the rules on bitboards, random games, and files of games.

A game is the list of its moves, squares 0 (a1) to 63 (h8), row by row; Black begins, and who cannot move passes, which
is written nowhere. As tokens the 60 squares that are not the middle are ids 1 to 60 (Li et al. 2023,
arXiv:2210.13382), and every move after the first is an answer.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from jaxlm.data.synthetic.arithmetic import Draws
from jaxlm.data.synthetic.task import Rng, Task
from jaxlm.errors import UserError

START = (1 << 28 | 1 << 35, 1 << 27 | 1 << 36)  # black e4 and d5, white d4 and e5
ALL, NOT_A, NOT_H = 2**64 - 1, 0xFEFEFEFEFEFEFEFE, 0x7F7F7F7F7F7F7F7F
EAST, WEST = (1, NOT_A), (-1, NOT_H)
DIRECTIONS = (EAST, WEST, (8, ALL), (-8, ALL), (9, NOT_A), (7, NOT_H), (-7, NOT_A), (-9, NOT_H))
SQUARES = tuple(square for square in range(64) if square not in (27, 28, 35, 36))  # by id - 1
IDS = {square: 1 + i for i, square in enumerate(SQUARES)}


def legal(mine: int, yours: int) -> int:
    """The squares, as bits, to which who has the discs `mine` may move."""
    found = 0
    for by, mask in DIRECTIONS:
        line = _shift(mine, by) & mask & yours
        for _ in range(5):
            line |= _shift(line, by) & mask & yours
        found |= _shift(line, by) & mask
    return found & ~(mine | yours)


def moved(mine: int, yours: int, square: int) -> tuple[int, int]:
    """The discs of both after the move, still mine and yours. Nothing is checked: see `legal`."""
    disc, flipped = 1 << square, 0
    for by, mask in DIRECTIONS:
        line, at = 0, _shift(disc, by) & mask
        while at & yours:
            line, at = line | at, _shift(at, by) & mask
        flipped |= line if at & mine else 0
    return mine | disc | flipped, yours & ~flipped


def positions(moves: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """After each move: Black's discs, White's, and whose turn it is, 0 Black's, 1 White's, 2 nobody's.

    Raises UserError for a move against the rules.
    """
    discs, turn, may = list[int](START), 0, legal(*START)
    for number, square in enumerate(moves):
        if not may >> square & 1:
            raise UserError(f"move {number + 1}, {name(square)}, is against the rules")
        discs[turn], discs[1 - turn] = moved(discs[turn], discs[1 - turn], square)
        turns = ((who, legal(discs[who], discs[1 - who])) for who in (1 - turn, turn))
        turn, may = next((one for one in turns if one[1]), (2, 0))
        yield discs[0], discs[1], turn


def boards(moves: Sequence[int], absolute: bool = False) -> np.ndarray:
    """(moves, 64): after each move 0 where a square is empty, 1 where the disc is of who moves next (of White after
    the last move), 2 of the other; `absolute`: 1 Black's, 2 White's."""
    found = np.zeros((len(moves), 64), np.int32)
    for at, (black, white, turn) in enumerate(positions(moves)):
        mine, yours = (black, white) if absolute or turn == 0 else (white, black)
        for value, discs in ((1, mine), (2, yours)):
            found[at] += value * np.unpackbits(np.array([discs], "<u8").view(np.uint8), bitorder="little")
    return found


def legal_moves(moves: Sequence[int]) -> np.ndarray:
    """(moves, 61) bool: the ids to which may be moved after each move; none after the last."""
    found = np.zeros((len(moves), 61), bool)
    for at, (black, white, turn) in enumerate(positions(moves)):
        may = 0 if turn == 2 else legal(*((black, white), (white, black))[turn])
        found[at, [IDS[square] for square in SQUARES if may >> square & 1]] = True
    return found


def game(rng: Rng, moves: int = 60) -> list[int]:
    """A game of moves chosen uniformly among the legal ones, up to so many."""
    draws, played = Draws(rng, 60), []
    mine, yours = START
    for _ in range(moves):
        found = legal(mine, yours)
        if not found:
            mine, yours = yours, mine
            found = legal(mine, yours)
            if not found:
                break
        choices = [square for square in SQUARES if found >> square & 1]
        played.append(choices[draws.below(len(choices))])
        mine, yours = moved(mine, yours, played[-1])[::-1]
    return played


def othello(rng: Rng, n: int, V: int):
    """The first move of a random game -> all others."""
    first, *rest = (IDS[square] for square in game(rng, n))
    return [first], rest


def name(square: int) -> str:
    return "abcdefgh"[square % 8] + str(square // 8 + 1)


def read_moves(text: str) -> list[int]:
    """Squares of a transcript such as "f5d6c4". Raises UserError for what is none, and for a move against the rules."""
    pairs = [text[i : i + 2].lower() for i in range(0, len(text.strip()), 2)]
    if not pairs or any(len(p) != 2 or p[0] not in "abcdefgh" or p[1] not in "12345678" for p in pairs):
        raise UserError(f"{text[:20]!r} is no list of Othello's moves such as f5d6c4")
    moves = ["abcdefgh".index(p[0]) + 8 * (int(p[1]) - 1) for p in pairs]
    for _ in positions(moves):
        pass
    return moves


def _shift(bits: int, by: int) -> int:
    return (bits << by if by > 0 else bits >> -by) & ALL


TASKS = {"othello": Task(othello, 61, lambda V: 60, 2, True)}
