"""Parameters back into Hugging Face's layout: what was loaded is written under the same names with the same bits."""

import contextlib
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from safetensors import SafetensorError
from safetensors.numpy import save_file

from jaxlm.axes import Array, Params
from jaxlm.convert import ours
from jaxlm.convert.digests import digest, written
from jaxlm.convert.families import Source
from jaxlm.convert.files import CONFIG, DIGESTS, INDEX, WEIGHTS, check_dtype, read_json
from jaxlm.convert.names import Tensor
from jaxlm.convert.packed import Packed
from jaxlm.errors import UserError
from jaxlm.models import ModelConfig
from jaxlm.ops import leaves

GENERATION = "generation_config.json"  # where generation stops
ABOUT = (  # that, and what sentence-transformers says of a text's vector
    GENERATION,
    *("modules.json", "1_Pooling/config.json", "sentence_bert_config.json", "config_sentence_transformers.json"),
)
BESIDE = (  # these, and patterns of the files that a tokenizer may consist of
    *ABOUT,
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "chat_template.jinja", "chat_template.json"),
    *("spiece.model", "sentencepiece.bpe.model", "source.spm", "target.spm", "tiktoken.model", "*.tiktoken"),
    "additional_chat_templates/*.jinja",
)
OURS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|" + re.escape(INDEX))
UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def to_hf(tree: Params, config: ModelConfig, source: Source) -> Iterator[tuple[str, np.ndarray]]:
    """(name, contiguous array) of every tensor, in the leaves' dtypes; `tree` is parameters, or any tree like them.

    One layer's part of one weight is on the host at a time.
    """
    for tensor, array in _arrays(tree, list(source.tensors(config))):
        yield tensor.name, array


def _arrays(tree: Params, tensors: list[Tensor]) -> Iterator[tuple[Tensor, np.ndarray]]:
    here, parts = None, []
    for tensor in tensors:
        period, expert = tensor.index[:1], tensor.index[1:]
        place = [weight.key for weight in tensor.weights], period
        if place != here:
            here, parts = place, [_host(_leaf(tree, weight.key), period) for weight in tensor.weights]
        array = tensor.write([part[(*expert, ...)] for part in parts])
        # safetensors writes the buffer as it lies, so a transposed view would come back wrong.
        yield tensor, array if array.flags.c_contiguous else np.ascontiguousarray(array)


def _leaf(tree: Params, key: tuple[str, ...]) -> Any:
    try:
        return reduce(lambda branch, name: branch[name], key, tree)
    except (KeyError, TypeError, IndexError):
        raise UserError(f"the tree has no {'.'.join(key)}, so it is not like the model's parameters") from None


def _host(leaf: Any, period: tuple[int, ...]) -> np.ndarray:
    if isinstance(leaf, jax.Array):
        return np.asarray(_period(leaf, *period) if period else leaf)
    return np.asarray(leaf)[(*period, ...)]


@jax.jit
def _period(leaf: Array, period: Any) -> Array:
    return lax.dynamic_index_in_dim(leaf, period, keepdims=False)


# Files ---------------------------------------------------------------------------------------------------------------


def save(
    folder: Path,
    config: ModelConfig,
    params: Params,
    source: Source,
    tokenizer: Any = None,
    max_shard_size: int | str = "5GB",
    dtype: str | None = None,
    say: Callable[[str], None] = lambda line: None,
    packed: bool = False,
) -> None:
    """Write the model to `folder`: weights, config.json, generation_config.json and the tokenizer.

    Files are written under temporary names and renamed when all are whole; config.json comes last, so a folder that
    has one is complete. The arrays of one file are on the host at a time (safetensors wants them together), so
    `max_shard_size`, in bytes or such as "5GB", bounds the memory needed. `dtype` casts every tensor. Digests of all
    tensors are written beside them, which `load` checks. `say` gets a line a file. Raises UserError where `folder`
    cannot be written, for an unknown `dtype`, and for values beyond its range.
    Quantised leaves are made dense, or with `packed` written as they are, see `convert.packed`.
    """
    if dtype is not None:
        check_dtype(dtype)
    _refuse_run(folder)
    tensors = list(source.tensors(config))
    pack = Packed(params, _arrays) if packed else lambda tensor, array: {tensor.name: array}
    params = leaves.dense(params)
    shards = _shards(tensors, params, dtype, _bytes(max_shard_size))
    digests: dict[str, str] = {}
    with _replacing(folder) as temporary:
        where, total = {}, 0
        for i, shard in enumerate(shards):
            name = WEIGHTS if len(shards) == 1 else f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
            say(f"writing {folder / name}")
            arrays = {}
            for tensor, array in _arrays(params, shard):
                arrays |= {key: _cast(key, a, source, dtype) for key, a in pack(tensor, array).items()}
            path = temporary(name)
            path.touch()
            mode = path.stat().st_mode  # safetensors would make it readable to its owner only
            save_file(arrays, path, metadata={"format": "pt"})
            path.chmod(mode)
            where |= dict.fromkeys(arrays, name)
            digests |= {name: digest(array) for name, array in arrays.items()}
            total += sum(array.nbytes for array in arrays.values())
            del arrays
        if len(shards) > 1:
            temporary(INDEX).write_text(_json({"metadata": {"total_size": total}, "weight_map": where}))
        if packed:  # digests are of plain tensors
            (folder / DIGESTS).unlink(missing_ok=True)
        else:
            temporary(DIGESTS).write_text(written(digests))
        _copy_beside(folder, source, tokenizer, temporary)
        if source.family is ours:
            say(f"no family of Hugging Face's layout has models like this one: {folder} is opened by jaxlm only")
        quantised = {"quantization_config": pack.settings} if isinstance(pack, Packed) else {}
        said = "torch_dtype" if "torch_dtype" in source.fields else "dtype"
        temporary(CONFIG).write_text(_json({**source.fields, **({said: dtype} if dtype else {}), **quantised}))


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"


def _bytes(size: int | str) -> int:
    match = re.fullmatch(r"(\d{1,30}) *([KMG]I?B)?", str(size).upper())
    if not match or int(match[1]) < 1:
        raise UserError(f"a shard's size is a number of bytes or such as 5GB or 500MiB, not {repr(size)[:60]}")
    return int(match[1]) * UNITS[match[2] or ""]


def _shards(tensors: list[Tensor], params: Params, dtype: str | None, limit: int) -> list[list[Tensor]]:
    """The tensors of each file: in order, as many as fit."""
    shards, room = [], 0
    for tensor in tensors:
        itemsize = jnp.dtype(dtype or _leaf(params, tensor.weights[0].key).dtype).itemsize
        size = math.prod(tensor.shape) * itemsize
        if not shards or size > room:
            shards.append([])
            room = limit
        shards[-1].append(tensor)
        room -= size
    return shards


def _cast(name: str, array: np.ndarray, source: Source, dtype: str | None) -> np.ndarray:
    if dtype is not None and array.dtype != np.int32:  # packed numbers stay
        with np.errstate(over="ignore"):
            cast = array.astype(jnp.dtype(dtype))
        if np.isfinite(array).all() and not np.isfinite(cast).all():
            raise UserError(f"{name} has values beyond the range of {dtype}: keep its dtype, or take bfloat16")
        return cast
    if name in source.narrow:  # other layers' wider dtype: back, unless training has made use of it
        cast = array.astype(source.narrow[name])
        return cast if np.array_equal(cast, array, equal_nan=True) else array
    return array


def _copy_beside(folder: Path, source: Source, tokenizer: Any, temporary: Callable[[str], Path]) -> None:
    whence = source.folder
    beside = {path for name in BESIDE for path in whence.glob(name) if path.is_file()} if whence else set()
    names = {path.relative_to(whence or path).as_posix(): path for path in sorted(beside)}
    for name, path in names.items():
        temporary(name).write_bytes(path.read_bytes())
    if tokenizer is not None and names.keys() <= {*ABOUT}:  # made here, or its folder is gone
        tokenizer.save(folder)


def _refuse_run(folder: Path) -> None:
    try:
        if (folder / CONFIG).is_file() and "type" in read_json(folder / CONFIG):
            raise UserError(f"{folder} is a run, whose config.json would be lost: write to another folder")
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from error


@contextlib.contextmanager
def _replacing(folder: Path) -> Iterator[Callable[[str], Path]]:
    """Gives temporary paths for names in `folder`; at the end all are renamed, after an error all are removed."""
    paths: dict[str, Path] = {}

    def temporary(name: str) -> Path:
        place = folder / name
        place.parent.mkdir(exist_ok=True)
        paths[name] = place.with_name(f".{place.name}.{os.getpid()}.tmp")
        return paths[name]

    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield temporary
        for name, path in paths.items():
            os.replace(path, folder / name)
        for path in folder.iterdir():  # weights of a model that was here, by which loading might be misled
            if OURS.fullmatch(path.name) and path.name not in paths:
                path.unlink()
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"cannot write to {folder}: {reason}") from error
    finally:
        for path in paths.values():
            path.unlink(missing_ok=True)
