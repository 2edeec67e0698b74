"""CodeGen (arXiv:2203.13474): GPT-J with joined projections, in the order of the devices that it was trained on."""

import dataclasses

import numpy as np

from jaxlm.convert import gptj
from jaxlm.convert.gptj import IGNORED, config
from jaxlm.convert.names import Names, Rows, Weight

__all__ = ["IGNORED", "MODEL_TYPES", "NAMES", "config"]

MODEL_TYPES = {"codegen": "CodeGenForCausalLM"}
PIECES = 4  # devices, each of which kept its heads


@dataclasses.dataclass(frozen=True)
class Pieces(Rows):
    """Queries, values and keys of a device's heads, then those of the next device's."""

    def read(self, tensor: np.ndarray, weights: tuple[Weight, ...]) -> list[np.ndarray]:
        return super().read(self._turned(tensor, (PIECES, len(weights))), weights)

    def write(self, ours: list[np.ndarray], weights: tuple[Weight, ...]) -> np.ndarray:
        return self._turned(super().write(ours, weights), (len(weights), PIECES))

    def _turned(self, tensor: np.ndarray, parts: tuple[int, int]) -> np.ndarray:
        return tensor.reshape(*parts, -1, tensor.shape[-1]).swapaxes(0, 1).reshape(tensor.shape)


JOINED: Names = {"transformer.h.{}.attn.qkv_proj.weight": Pieces(("mixer.q", "mixer.v", "mixer.k"))}
NAMES = JOINED | gptj.NAMES
