"""Synthetic tasks: rows that a rule makes, for what a model can and cannot learn, and at which lengths."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from jaxlm.config_check import check
from jaxlm.data.pack import Batch
from jaxlm.data.pairs import Synthetic
from jaxlm.data.synthetic import arithmetic, brackets, counting, othello, recall, rewriting, stories
from jaxlm.data.synthetic.task import PAD, Task, answer_row
from jaxlm.errors import UserError, unknown

FORMAL = counting.TASKS | rewriting.TASKS | arithmetic.TASKS  # the fifteen of Beck et al. 2024 (arXiv:2405.04517)
TASKS: dict[str, Task] = FORMAL | recall.TASKS | brackets.TASKS | stories.TASKS | othello.TASKS


@dataclasses.dataclass(frozen=True)
class SyntheticTask(Synthetic):
    """Rows of a task of `TASKS`, for `objectives.Answers`: a length drawn from `lengths` (inclusive, prompt and answer
    together; from `test_lengths` in held-out rows), and of it what the task makes, see `Task.make`.

    Held-out rows show whether a rule was found that holds for longer ones. Raises UserError for an unknown task, a
    vocabulary that it cannot have, and lengths below its least or beyond T + 1.
    """

    task: str
    V: int = 0  # vocabulary; 0: the task's own
    lengths: tuple[int, int] = (0, 40)  # from 0: from 3, or the task's least
    test_lengths: tuple[int, int] = (40, 256)
    T: int = 256  # positions of a row
    holdout: int = 512  # rows to evaluate on
    seed: int = 0

    def __post_init__(self) -> None:
        check(self, V=">= 0", T=">= 1", holdout=">= 1", seed=">= 0")
        if self.task not in TASKS:
            raise unknown("synthetic task", self.task, TASKS)
        task = TASKS[self.task]
        if (task.fixed and self.V not in (0, task.V)) or task.classes(self.vocabulary) < 2:
            raise UserError(f"V={self.V} is no vocabulary of {self.task}: leave it out for its own, {task.V}")
        if not self.lengths[0]:
            object.__setattr__(self, "lengths", (max(3, task.least), self.lengths[1]))
        for what in ("lengths", "test_lengths"):
            low, high = getattr(self, what)
            if not task.least <= low <= high <= self.T + 1:
                raise UserError(
                    f"{what}={low},{high} of {self.task} must be in order, at least {task.least} and at most T + 1 = "
                    f"{self.T + 1}"
                )

    @property
    def vocabulary(self) -> int:
        return self.V or TASKS[self.task].V

    @property
    def chance(self) -> float:
        """The accuracy of a guess among all answers."""
        return 1 / TASKS[self.task].classes(self.vocabulary)

    def row(self, split: int, index: int) -> Batch:
        rng = np.random.default_rng((self.seed, split, index))
        low, high = self.test_lengths if split else self.lengths
        return answer_row(*TASKS[self.task].make(rng, int(rng.integers(low, high + 1)), self.vocabulary), self.T)

    def measures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Beside the usual "scaled" = (accuracy - chance) / (1 - chance): 0 of a guess, 1 of what is always right."""
        found = super().measures(sums)
        if "accuracy" in found:
            found["scaled"] = (found["accuracy"] - self.chance) / (1 - self.chance)
        return found


__all__ = ["FORMAL", "PAD", "TASKS", "SyntheticTask", "Task", "answer_row"]
