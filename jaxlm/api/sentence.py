"""What a folder of sentence-transformers says beside the weights: how tokens become one vector of a text."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from jaxlm.convert.files import read_json
from jaxlm.errors import UserError

MODULES, LENGTH = "modules.json", "sentence_bert_config.json"
MODES = {  # keys of 1_Pooling/config.json: names of `ops.pooling`
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weighted",
    "pooling_mode_lasttoken": "last",
}


@dataclasses.dataclass(frozen=True)
class Sentence:
    """The pooling, whether vectors are given unit length, and after how many tokens texts are cut (None: nowhere)."""

    pooling: str = "mean"
    normalize: bool = True
    max_length: int | None = None


def transformer_folder(folder: Path) -> Path:
    """Where the Transformer itself lies: the folder, or one within that modules.json names (older ones)."""
    if (folder / "config.json").exists() or not (folder / MODULES).is_file():
        return folder
    first = next(iter(_modules(folder)), {})
    return folder / _inside(folder, first.get("path"))


def read_sentence(folder: Path) -> Sentence | None:
    """What the folder says, None where it is not sentence-transformers'. Raises UserError for what is not done here:
    several poolings side by side, or further layers after them."""
    if not (folder / MODULES).is_file():
        return None
    pooling, normalize = "mean", False
    for module in _modules(folder):
        kind = str(module.get("type")).rpartition(".")[2]
        if kind == "Pooling":
            pooling = _pooling(folder / _inside(folder, module.get("path")) / "config.json")
        elif kind == "Normalize":
            normalize = True
        elif kind != "Transformer":
            raise UserError(f"{folder / MODULES}: a module of type {kind[:60]!r} is not computed here")
    where = transformer_folder(folder) / LENGTH
    length = read_json(where).get("max_seq_length") if where.is_file() else None
    if length is not None and (type(length) is not int or length < 1):
        raise UserError(f"{where}: max_seq_length must be a whole number of at least 1, not {repr(length)[:60]}")
    return Sentence(pooling, normalize, length)


def _modules(folder: Path) -> list[dict[str, Any]]:
    try:
        modules = json.loads((folder / MODULES).read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{folder / MODULES} is not valid JSON: {error}") from None
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise UserError(f"{folder / MODULES} must hold a list of objects")
    return modules


def _inside(folder: Path, path: Any) -> str:
    if not isinstance(path, str) or "\0" in path or Path(path).is_absolute() or ".." in Path(path).parts:
        raise UserError(f"{folder / MODULES}: a path within the folder is wanted, not {repr(path)[:60]}")
    return path


def _pooling(path: Path) -> str:
    said = read_json(path)
    chosen = [key for key, on in said.items() if key.startswith("pooling_mode_") and on]
    if len(chosen) != 1 or chosen[0] not in MODES:
        raise UserError(f"{path}: one pooling of {', '.join(MODES)} is wanted, not {', '.join(chosen) or 'none'}")
    return MODES[chosen[0]]
