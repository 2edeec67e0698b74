"""Published quantised folders, read as the plain weights they stand for.

| quant_method | tensors of a matrix X (outputs, inputs) | weight |
|---|---|---|
| fp8 | X.weight float8, X.weight_scale_inv (blocks of outputs, of inputs) | q s |
| gptq | X.qweight, qzeros int32, scales (groups, outputs), g_idx (inputs) | (q - z) s; version 1 stores z - 1 |
| awq | X.qweight, qzeros int32, scales (groups, outputs) | (q - z) s |
| bitsandbytes | X.weight uint8, .absmax, .quant_map, .quant_state (4 bits) | s level[q], see `ops.codes` |
| mxfp4 | X_blocks (..., groups, 16), X_scales (..., groups) of experts | 2^(s - 127) level[q] |

Each is made in float32 and rounded to the dtype that config.json says, one tensor at a time.
"""

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlm.convert.files import DTYPES, Checkpoint, Stored
from jaxlm.errors import UserError

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # which column of eight has the i-th four bits
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
FLOAT8 = {"F8_E4M3": jnp.float8_e4m3fn, "F8_E5M2": jnp.float8_e5m2}
Read = Callable[[str], np.ndarray]
Settings = Mapping[str, Any]  # quantization_config


def is_readable(settings: Any) -> bool:
    """Whether a config.json's quantization_config is one of those read here."""
    return isinstance(settings, Mapping) and settings.get("quant_method") in METHODS


class Plain(Checkpoint):
    """Another checkpoint's tensors, plain ones of `dtype` in place of those that are quantised. Reading raises
    UserError, naming the tensor, where its parts do not fit together."""

    def __init__(self, inner: Checkpoint, settings: Settings, dtype: str):
        self._inner, self._settings, self._dtype = inner, settings, dtype
        find, self._make = METHODS[settings["quant_method"]]
        name = next(name for name, said in DTYPES.items() if said == dtype)
        self._parts: dict[str, str] = {}
        self.stored = {}
        parts_of_others = set()
        for key in inner.stored:
            if (found := find(key, inner.stored, settings)) is not None:
                target, shape, parts = found
                self._parts[target] = key
                self.stored[target] = Stored(inner.stored[key].file, name, shape)
                parts_of_others |= set(parts)
        self.stored |= {
            key: stored for key, stored in inner.stored.items() if key not in parts_of_others and key not in self.stored
        }

    def read(self, name: str) -> np.ndarray:
        if name not in self._parts:
            return self._inner.read(name)
        try:
            made = self._make(self._parts[name], self._read, self._settings)
        except (KeyError, ValueError, IndexError) as error:
            raise UserError(f"{name} cannot be made of its quantised parts: {error}") from None
        if made.shape != self.stored[name].shape:
            raise UserError(f"{name}: its quantised parts do not fit together")
        return made.astype(jnp.dtype(self._dtype))

    def _read(self, name: str) -> np.ndarray:
        stored = self._inner.stored[name]
        if stored.dtype in FLOAT8:  # which numpy has no name for
            return np.frombuffer(_bytes(stored, name), FLOAT8[stored.dtype]).reshape(stored.shape)
        return self._inner.read(name)


def _bytes(stored: Stored, name: str) -> bytes:
    """Of a tensor, whatever its dtype; its file is sound, for it was opened."""
    begin, header = _header(stored.file)
    start, end = header[name]["data_offsets"]
    with open(stored.file, "rb") as file:
        file.seek(begin + start)
        return file.read(end - start)


@functools.lru_cache(maxsize=1)  # tensors are read file by file, and a header may name thousands
def _header(path: Path) -> tuple[int, dict[str, Any]]:
    """Where a safetensors file's data begin, and what it says of each tensor."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return 8 + size, json.loads(file.read(size))


# What there is, and how it is made -----------------------------------------------------------------------------------

Found = tuple[str, tuple[int, ...], tuple[str, ...]] | None  # the plain name and shape, and the parts it is made of
All = Mapping[str, Stored]


def _find_fp8(key: str, every: All, settings: Settings) -> Found:
    scale = f"{key}_scale_inv"
    return (key, every[key].shape, (key, scale)) if key.endswith(".weight") and scale in every else None


def _fp8(key: str, read: Read, settings: Settings) -> np.ndarray:
    w, scale = read(key).astype(np.float32), read(f"{key}_scale_inv").astype(np.float32)
    for axis, block in enumerate(settings.get("weight_block_size") or (128, 128)):
        scale = np.repeat(scale, block, axis)
    return w * scale[: w.shape[0], : w.shape[1]]


def _find_int32(key: str, every: All, settings: Settings) -> Found:
    base, part = key.rpartition(".")[::2]
    if part != "qweight":
        return None
    parts = tuple(f"{base}.{name}" for name in ("qweight", "qzeros", "scales", "g_idx"))
    scales, packed = every.get(f"{base}.scales"), every[key].shape
    if scales is None or len(packed) != 2:
        raise UserError(f"{key} has no scales beside it")
    outputs = scales.shape[1]
    along_inputs = settings["quant_method"] == "gptq"
    return f"{base}.weight", (outputs, packed[0] * (32 // _width(settings) if along_inputs else 1)), parts


def _width(settings: Settings) -> int:
    bits = settings.get("bits", 4)
    if bits not in (2, 4, 8):
        raise UserError(f"{bits!r} bits of quantization_config are not read: 2, 4 or 8")
    return bits


def _gptq(key: str, read: Read, settings: Settings) -> np.ndarray:
    base, bits = key.removesuffix("qweight"), _width(settings)
    q = _unpacked(read(key).T, bits).T  # (inputs, outputs)
    zeros = _unpacked(read(base + "qzeros"), bits) + (settings.get("checkpoint_format") != "gptq_v2")
    scales = read(base + "scales").astype(np.float32)
    try:
        group = read(base + "g_idx")
    except KeyError:
        group = np.arange(len(q)) // _group(settings, len(q))
    return ((q - zeros[group]) * scales[group]).T


def _awq(key: str, read: Read, settings: Settings) -> np.ndarray:
    base = key.removesuffix("qweight")
    q, zeros = (_unpacked(read(base + name), 4, AWQ_ORDER) for name in ("qweight", "qzeros"))
    scales = read(base + "scales").astype(np.float32)
    group = np.arange(len(q)) // _group(settings, len(q))
    return ((q - zeros[group]) * scales[group]).T


def _group(settings: Settings, inputs: int) -> int:
    size = int(settings.get("group_size", 128))
    return inputs if size == -1 else size


def _unpacked(packed: np.ndarray, bits: int, order: tuple[int, ...] | None = None) -> np.ndarray:
    """int32 (n, m) as the (n, 32 m / bits) numbers in it, the lowest bits first or in this order of columns."""
    each = 32 // bits
    shifts = np.arange(each, dtype=np.uint32) * np.uint32(bits)
    found = (packed.view(np.uint32)[..., None] >> shifts) & np.uint32(2**bits - 1)
    if order is not None:
        found = found[..., np.argsort(order)]
    return found.reshape(len(packed), -1).astype(np.int32)


def _find_bits(key: str, every: All, settings: Settings) -> Found:
    states = [f"{key}.quant_state.bitsandbytes__{kind}" for kind in ("nf4", "fp4")]
    state = next((name for name in states if name in every), None)
    if state is None:
        return None
    shape = tuple(json.loads(_bytes(every[state], state))["shape"])
    names = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
    return key, shape, (key, state, *(f"{key}.{name}" for name in names))


def _bits(key: str, read: Read, settings: Settings) -> np.ndarray:
    kind = settings.get("bnb_4bit_quant_type", "fp4")
    state = json.loads(read(f"{key}.quant_state.bitsandbytes__{kind}").tobytes())
    packed = read(key).ravel()
    level = read(f"{key}.quant_map").astype(np.float32)[np.stack([packed >> 4, packed & 15], -1).ravel()]
    scale = read(f"{key}.absmax")
    if "nested_offset" in state:
        largest = np.repeat(read(f"{key}.nested_absmax"), state["nested_blocksize"])[: scale.size]
        scale = read(f"{key}.nested_quant_map").astype(np.float32)[scale] * largest + np.float32(state["nested_offset"])
    w = level * np.repeat(scale.astype(np.float32), state["blocksize"])[: level.size]
    return w[: np.prod(state["shape"])].reshape(state["shape"])


def _find_mxfp4(key: str, every: All, settings: Settings) -> Found:
    if not key.endswith("_blocks"):
        return None
    base = key.removesuffix("_blocks")
    *lead, outputs, groups, half = every[key].shape
    return base, (*lead, groups * half * 2, outputs), (key, f"{base}_scales")


def _mxfp4(key: str, read: Read, settings: Settings) -> np.ndarray:
    """(experts, inputs, outputs), as the plain weights lie."""
    packed, scales = read(key), read(f"{key.removesuffix('_blocks')}_scales").astype(np.int32) - 127
    code = np.stack([packed & 15, packed >> 4], -1)
    level = np.concatenate([E2M1, -E2M1])[code].reshape(*packed.shape[:-1], -1)
    w = np.ldexp(level, scales[..., None])
    return w.reshape(*w.shape[:-2], -1).swapaxes(-1, -2)


METHODS: dict[str, tuple[Callable[[str, All, Settings], Found], Callable[[str, Read, Settings], np.ndarray]]] = {
    "fp8": (_find_fp8, _fp8),
    "gptq": (_find_int32, _gptq),
    "awq": (_find_int32, _awq),
    "bitsandbytes": (_find_bits, _bits),
    "mxfp4": (_find_mxfp4, _mxfp4),
}
