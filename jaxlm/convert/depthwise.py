"""The rule of names for depthwise convolutions."""

import dataclasses
import itertools
import math

import numpy as np

from jaxlm.convert.names import Rule, Weight


@dataclasses.dataclass(frozen=True)
class Depthwise(Rule):
    """A tensor (channels, 1, W), as PyTorch's Conv1d with a group a channel has it, of weights (W, ...), joined along
    their channels."""

    def shape(self, weights: tuple[Weight, ...]) -> tuple[int, ...]:
        return sum(self._widths(weights)), 1, weights[0].shape[0]

    def read(self, tensor: np.ndarray, weights: tuple[Weight, ...]) -> list[np.ndarray]:
        parts = np.split(tensor[:, 0].T, list(itertools.accumulate(self._widths(weights)))[:-1], axis=1)
        return [part.reshape(weight.shape) for part, weight in zip(parts, weights)]

    def write(self, ours: list[np.ndarray], weights: tuple[Weight, ...]) -> np.ndarray:
        return np.concatenate([part.reshape(len(part), -1) for part in ours], 1).T[:, None]

    def _widths(self, weights: tuple[Weight, ...]) -> list[int]:
        return [math.prod(weight.shape[1:]) for weight in weights]


def depthwise(*paths: str) -> Rule:
    """The weights of a depthwise convolution, or of several side by side."""
    return Depthwise(paths)
