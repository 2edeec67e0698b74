"""Digests of tensors, beside the weights: a bit that flipped on disk or on the way is seen, and in which tensor.

safetensors checks its header only. `model.digests.json` has the SHA-256 of each tensor's bytes as they lie in the file:

    {"algorithm": "sha256", "tensors": {"model.norm.weight": "9f86d081884c7d65...", ...}}
"""

import hashlib
import json
from pathlib import Path

import numpy as np

from jaxlm.convert.files import DIGESTS, read_json
from jaxlm.errors import UserError

ALGORITHM = "sha256"
UNCHECKED = "load it with verify=False (--no-verify)"


def digest(array: np.ndarray) -> str:
    """The SHA-256 of a contiguous array's bytes."""
    return hashlib.sha256(array.reshape(-1).view(np.uint8).data).hexdigest()


def written(digests: dict[str, str]) -> str:
    """The file's text."""
    return json.dumps({"algorithm": ALGORITHM, "tensors": digests}, indent=2) + "\n"


class Digests:
    """Those of a folder; of one without them, or not to be verified, nothing is checked. Raises UserError for a file
    that is damaged."""

    def __init__(self, folder: Path, verify: bool = True):
        self.path, self.known = folder / DIGESTS, None
        if not verify or not self.path.is_file():
            return
        said = read_json(self.path)
        self.known = said.get("tensors")
        if said.get("algorithm") != ALGORITHM or not isinstance(self.known, dict):
            raise UserError(f"{self.path} does not hold {ALGORITHM} digests of tensors: mend it, or {UNCHECKED}")

    def check(self, name: str, array: np.ndarray) -> None:
        """Raises UserError if the tensor is not the one that was saved."""
        if self.known is not None and self.known.get(name) != digest(array):
            raise UserError(
                f"{self.path.parent}: {name} is not what was saved, says {self.path.name}: get the files again; if "
                f"another program wrote the weights anew, delete {self.path.name}, or {UNCHECKED}"
            )
