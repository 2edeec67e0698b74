"""Shapes of the models that are measured; every one is GPT-2's (configs/gpt2.py)."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Size:
    """N layers of width D with H heads, V ids, and B rows of T tokens per training step."""

    N: int
    D: int
    H: int
    V: int
    T: int
    B: int
    dtype: str = "float32"
    remat: str | None = None  # None: as configs/gpt2.py has it
    unroll: int = 1

    @property
    def tokens(self) -> int:
        return self.B * self.T

    def json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


ADAMW = {"learning_rate": 3e-4, "b2": 0.95, "weight_decay": 0.1, "clip": 1.0}  # the same for every system
