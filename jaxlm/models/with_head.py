"""A language model with one more output: a number for each token, which a reward model or a value function reads."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from jaxlm.axes import Array
from jaxlm.errors import UserError
from jaxlm.models.lm import LMConfig
from jaxlm.models.model import ModelConfig, Output, Path
from jaxlm.nn import init
from jaxlm.nn.stack import LayersConfig
from jaxlm.sharding import weight

TRUNK, SCORE = "trunk", "score"


@dataclasses.dataclass(frozen=True)
class WithHead(ModelConfig):
    """A trunk and a scalar head without bias on its last hidden states: score_t = w h_t.

    The score at a text's last token is its reward (Ouyang et al. 2022, arXiv:2203.02155), that at each token a value,
    that at the end of each step of a solution the step's (Lightman et al. 2023, arXiv:2305.20050). `models.logits` of
    the output are the scores (B, T, 1); what the trunk gives, to write text with, is `Output.encoded`.
    """

    trunk: LMConfig

    def __post_init__(self):
        if not isinstance(self.trunk, LMConfig):
            raise UserError(f"a head stands on a language model, not on a {type(self.trunk).__name__}")

    V = property(lambda self: self.trunk.V)  # pyright: ignore[reportAssignmentType]
    D = property(lambda self: self.trunk.D)  # pyright: ignore[reportAssignmentType]
    dtype = property(lambda self: self.trunk.dtype)  # pyright: ignore[reportAssignmentType]
    remat = property(lambda self: self.trunk.remat)  # pyright: ignore[reportAssignmentType]

    def build(self, stacked: bool = True) -> "Headed":
        return Headed(self, stacked)

    def example(self) -> tuple[Any, ...]:
        return self.trunk.example()

    def stacks(self) -> dict[Path, tuple[LayersConfig, ...]]:
        return {(TRUNK, *path): groups for path, groups in self.trunk.stacks().items()}

    def flops(self, lengths: Mapping[str, int]) -> float:
        return self.trunk.flops(lengths)

    @property
    def tied_parameters(self) -> int:
        return self.trunk.tied_parameters


class Headed(nn.Module):
    """See `WithHead`."""

    c: WithHead
    stacked: bool = True

    @nn.compact
    def forward(self, *args: Any, **inputs: Any) -> Output:
        out: Output = self.c.trunk.build(self.stacked).copy(name=TRUNK).forward(*args, **inputs)
        width = out.hidden_BTD.shape[-1]
        score_1D: Array = weight(self, SCORE, (1, width), (None, "embed"), init.fan_in((1,)), (1,))
        statistics = {(TRUNK, *path): own for path, own in out.statistics.items()}
        return Output(out.hidden_BTD, score_1D, out.states, statistics, encoded=out)
