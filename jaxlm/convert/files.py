"""The files of a folder in Hugging Face's layout, opened with care: they come from strangers.

Only JSON and safetensors are read. Pickles are never opened: unpickling runs what is written in them.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from jaxlm.errors import UserError, unknown

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
DIGESTS = "model.digests.json"
PICKLES = ("*.bin", "*.bin.index.json", "*.pt", "*.pth", "*.ckpt")
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
QUANTISED = "hf_quant_config.json"  # beside config.json, where NVIDIA's ModelOpt wrote the weights


def is_model(folder: Path) -> bool:
    """Whether the folder says what model it has, as Hugging Face's do."""
    return (folder / CONFIG).is_file() and "model_type" in read_json(folder / CONFIG)


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor in a file, not read yet."""

    file: Path
    dtype: str  # as safetensors names it
    shape: tuple[int, ...]


class Checkpoint:
    """The tensors of a folder: `stored` by name, and `read` one at a time."""

    def __init__(self, stored: dict[str, Stored], files: dict[Path, Any]):
        self.stored, self._files = stored, files

    def read(self, name: str) -> np.ndarray:
        """A copy in anonymous memory, freed with its last reference."""
        return self._files[self.stored[name].file].get_tensor(name)


def check_dtype(dtype: Any) -> None:
    """Raises UserError unless weights can be read, computed with and written in this dtype."""
    if not isinstance(dtype, str) or dtype not in DTYPES.values():
        raise unknown("dtype", str(dtype)[:40], DTYPES.values())


def quantisation(folder: Path, fields: Mapping[str, Any]) -> str:
    """How the weights beside a config.json of these `fields` are quantised, and which file says so; "" if they are not.
    Raises UserError for a file that cannot be understood."""
    said = fields.get("quantization_config")
    if said is not None:
        kind = said.get("quant_method") or said.get("quant_algo") if isinstance(said, dict) else None
        return f"quantization_config of {CONFIG}" + (f": {str(kind)[:40]}" if kind else "")
    if not os.path.lexists(folder / QUANTISED):
        return ""
    said = read_json(folder / QUANTISED).get("quantization")
    if not isinstance(said, dict):
        raise UserError(f"{folder / QUANTISED}: quantization must be an object")
    kind = said.get("quant_algo")  # null where only the cache of keys and values is quantised
    return f"{QUANTISED}: {str(kind)[:40]}" if kind else ""


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises UserError when there is none."""
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold a JSON object, not a {type(value).__name__}")
    return value


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[Checkpoint]:
    """The weights in a folder, one file or many with an index. Raises UserError for what is damaged or absent."""
    if (folder / WEIGHTS).exists():
        where = {}
        names = [WEIGHTS]
    elif (folder / INDEX).exists():
        where = _index(folder / INDEX)
        names = sorted(set(where.values()))
    else:
        raise UserError(_no_weights(folder))
    with contextlib.ExitStack() as stack:
        stored, files = {}, {}
        for name in names:
            file = folder / name
            files[file] = stack.enter_context(_open(file))
            for key in files[file].keys():  # noqa: SIM118 (it is no dict)
                if where.get(key, name) == name:
                    part = files[file].get_slice(key)
                    stored[key] = Stored(file, part.get_dtype(), tuple(part.get_shape()))
        absent = [key for key in where if key not in stored]
        if absent:
            raise UserError(f"{folder / where[absent[0]]} has no tensor {absent[0]!r}, which {INDEX} says is there")
        yield Checkpoint(stored, files)


def _index(path: Path) -> dict[str, str]:
    """Tensor name -> file name, every file one of this folder."""
    where = read_json(path).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise UserError(f"{path}: weight_map must be an object of tensor names and file names")
    for name in set(map(str, where.values())):
        said = repr(name[:80])
        if Path(name).name != name or "\\" in name or "\0" in name or not name.endswith(".safetensors"):
            raise UserError(f"{path} names the file {said}: only .safetensors files of the same folder are opened")
        if not (path.parent / name).is_file():
            raise UserError(f"{path} names {said}, which is not there: download it too")
    return where


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="np")
    except SafetensorError as error:
        raise UserError(f"{path} is not a whole safetensors file: {str(error)[:200]}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None


def _no_weights(folder: Path) -> str:
    some = lambda *patterns: next((path.name for p in patterns for path in sorted(folder.glob(p))), None)
    if other := some("*.safetensors"):
        return f"{folder} has {other} but neither {WEIGHTS} nor {INDEX}, by which its weights are found"
    if pickle := some(*PICKLES):
        return (
            f"{folder} has its weights only in {pickle}, a pickle, and pickles are never opened, since they may run "
            "anything: convert it with the safetensors library on a machine that may be lost"
        )
    if gguf := some("*.gguf"):
        return f"{folder} has its weights only in {gguf}: open that file itself"
    return f"{folder} has no weights: neither {WEIGHTS} nor {INDEX}"
