"""Tasks whose rows were written down by others: files of ListOps expressions, and of Othello games."""

import dataclasses
import functools
import hashlib

import numpy as np

from jaxlm.config_check import check
from jaxlm.data import files, sources
from jaxlm.data.pack import Batch
from jaxlm.data.pairs import Synthetic
from jaxlm.data.synthetic import brackets, othello
from jaxlm.data.synthetic.task import answer_row
from jaxlm.errors import UserError

Row = tuple[list[int], list[int]]  # a prompt and its answer


def _list_ops(line: str) -> Row:
    """ "9 TAB ( [MAX 2 ) 9 ] ...": parentheses say nothing that the brackets do not."""
    value, _, text = line.partition("\t")
    words = [word for word in text.split() if word not in "()"]
    try:
        right = brackets.list_ops_value(words) == int(value)
    except (ValueError, IndexError, KeyError):
        right = False
    if not right:
        raise UserError(f"{line[:40]!r} is no ListOps expression behind its value and a tab")
    return [brackets.LIST_OPS.index(word) for word in words], [brackets.DIGIT + int(value)]


def _othello(line: str) -> Row:
    """ "number,winner,f5d6c3...": the moves stand last; every move after the first is an answer."""
    first, *rest = (othello.IDS[square] for square in othello.read_moves(line.rpartition(",")[2]))
    return [first], rest


KINDS = {"list_ops": (_list_ops, len(brackets.LIST_OPS)), "othello": (_othello, 61)}


@functools.lru_cache(maxsize=4)
def _read(path: str, kind: str) -> tuple[tuple[Row, ...], str]:
    """All rows of a file, and a hash of it. A first line that is none is its header; UserError for any other."""
    found = files.find(path, any_kind=True).files
    if len(found) != 1:
        raise UserError(f"{path}: rows of {kind} are read from a file, and these are {len(found)}")
    text, rows = "".join(text for text, _ in sources.text_blocks(found[0][1])), []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            rows.append(KINDS[kind][0](line))
        except UserError as e:
            if number > 1:
                raise UserError(f"{path}:{number}: {e}") from None
    return tuple(rows), hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclasses.dataclass(frozen=True)
class TaskFile(Synthetic):
    """The rows of a file (.gz too) as a task, for `objectives.Answers`: "list_ops" has lines of a value, a tab and an
    expression, "othello" lines that end with the moves of a game, each checked by the rules.

    Rows that do not fit into T positions are left out; `holdout` of the others, drawn by `seed`, are held out.
    """

    path: str
    kind: str
    T: int = 60
    holdout: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        check(self, T=">= 1", holdout=">= 1", seed=">= 0")
        if self.kind not in KINDS:
            raise UserError(f"kind={self.kind!r} must be one of {', '.join(KINDS)}")

    @property
    def vocabulary(self) -> int:
        return KINDS[self.kind][1]

    @property
    def content(self) -> str:
        return _read(self.path, self.kind)[1]

    def rows(self, split: int) -> list[Row]:
        """Those to train on, 0, or held out, 1."""
        return _split(self)[split]

    def row(self, split: int, index: int) -> Batch:
        """Training rows come in a new order each time through."""
        rows = _split(self)[split]
        time, at = divmod(index, len(rows))
        return answer_row(*rows[at if split else _order(self.seed, time, len(rows))[at]], self.T)


@functools.lru_cache(maxsize=4)
def _split(c: TaskFile) -> tuple[list[Row], list[Row]]:
    rows = [row for row in _read(c.path, c.kind)[0] if len(row[0]) + len(row[1]) <= c.T + 1]
    if len(rows) <= c.holdout:
        raise UserError(f"{c.path}: {len(rows)} rows fit into T={c.T}, and holdout={c.holdout} leaves none to train on")
    order = np.random.default_rng((c.seed, 2)).permutation(len(rows))
    return [rows[i] for i in order[c.holdout :]], [rows[i] for i in order[: c.holdout]]


@functools.lru_cache(maxsize=2)
def _order(seed: int, time: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, 3, time)).permutation(count)
