"""Othello's rules against a board of rows and columns; games end as they must."""

import numpy as np
import pytest

from jaxlm.data import SyntheticTask
from jaxlm.data.synthetic import othello
from jaxlm.errors import UserError


def turned(board, who, square):
    """The discs that a move turns, looked for in every direction on a dictionary of squares."""
    y, x = divmod(square, 8)
    found = []
    for dy, dx in [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if a or b]:
        line, at = [], (y + dy, x + dx)
        while board.get(at) == 1 - who:
            line.append(at)
            at = at[0] + dy, at[1] + dx
        found += line if board.get(at) == who else []
    return found


def can(board, who):
    return [s for s in range(64) if divmod(s, 8) not in board and turned(board, who, s)]


def bits(board, who):
    return sum(1 << 8 * y + x for (y, x), owner in board.items() if owner == who)


def test_random_games_follow_the_rules():
    lengths = set()
    for seed in range(6):
        board = {(3, 3): 1, (4, 4): 1, (3, 4): 0, (4, 3): 0}
        who = 0
        moves = othello.game(np.random.default_rng(seed))
        states = list(othello.positions(moves))
        for move, state in zip(moves, states, strict=True):
            if not can(board, who):
                who = 1 - who
            assert sum(1 << s for s in can(board, who)) == othello.legal(bits(board, who), bits(board, 1 - who))
            assert move in can(board, who)
            board |= dict.fromkeys([*turned(board, who, move), divmod(move, 8)], who)
            assert state[:2] == (bits(board, 0), bits(board, 1))
            who = 1 - who
        assert states[-1][2] == 2 and not can(board, 0) and not can(board, 1)
        lengths.add(len(moves))
    assert max(lengths) == 60


def test_boards_and_legal_moves():
    moves = othello.game(np.random.default_rng(3))
    mine, black, may = othello.boards(moves), othello.boards(moves, absolute=True), othello.legal_moves(moves)
    for at, (b, w, turn) in enumerate(othello.positions(moves)):
        for square in range(64):
            owner = 1 if b >> square & 1 else 2 if w >> square & 1 else 0
            assert black[at, square] == owner
            assert mine[at, square] == (owner if turn == 0 or not owner else 3 - owner)
        if turn < 2:
            squares = {othello.SQUARES[i - 1] for i in np.flatnonzero(may[at])}
            assert sum(1 << square for square in squares) == othello.legal(*((b, w), (w, b))[turn])
            assert moves[at + 1] in squares
    assert not may[-1].any()


def test_a_known_opening():
    assert [othello.name(s) for s in range(64) if othello.legal(*othello.START) >> s & 1] == ["d3", "c4", "f5", "e6"]
    assert othello.read_moves("f5d6C4\n") == [37, 43, 26]


def test_rows_are_games():
    data = SyntheticTask("othello", lengths=(2, 60), test_lengths=(60, 60), T=60)
    for i in range(5):
        row = data.row(1, i)
        n = int(row["segments"].sum())
        ids = [*row["tokens"][:n], row["labels"][n - 1]]
        assert row["weights"][:n].all() and not row["weights"][n:].any()
        list(othello.positions([othello.SQUARES[i - 1] for i in ids]))  # raises for a move against the rules


@pytest.mark.parametrize(
    "text, line",
    [("f5d6x9", "is no list of Othello's moves"), ("", "is no list"), ("f5f5", "move 2, f5, is against the rules")],
)
def test_what_is_no_game(text, line):
    with pytest.raises(UserError, match=line):
        othello.read_moves(text)
