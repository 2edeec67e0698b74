"""Reading an adapter."""

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from jaxlm.axes import Array, Params
from jaxlm.convert.families import Source
from jaxlm.convert.files import read_json
from jaxlm.convert.names import Tensor, Weight, weights_of
from jaxlm.convert.peft import virtual
from jaxlm.convert.peft.layout import CONFIG, KINDS, PREFIX, WEIGHTS, at, input_dims, outputs, place, replaced, sides
from jaxlm.errors import UserError, unknown
from jaxlm.models import ModelConfig
from jaxlm.ops.leaves import LowRank, Scaled, is_leaf, lengths

PART = re.compile(r"(.+)\.(lora_A|lora_B|lora_magnitude_vector|lora_embedding_A|lora_embedding_B|ia3_l)(\.weight)?")
CHANGES = (
    "alora_invocation_tokens",
    "lora_bias",
    "target_parameters",
    "trainable_token_indices",
)  # to what is computed


def load(folder: Path, config: ModelConfig, params: Params, source: Source) -> tuple[ModelConfig, Params]:
    """Config and parameters of the base model with the adapter in `folder`: as leaves (`LowRank`, `Scaled`) in place of
    its weights, or virtual tokens before its texts.

    Arrays lie as those of the base do. Raises UserError where the adapter is damaged, of another kind, or of another
    base, naming the first tensor that does not fit.
    """
    settings = read_json(folder / CONFIG)
    if (kind := settings.get("peft_type")) not in KINDS:
        raise UserError(f"{folder / CONFIG}: {unknown('peft_type', str(kind)[:40], KINDS)}")
    if odd := next((key for key in CHANGES if settings.get(key)), None):
        raise UserError(f"{folder / CONFIG}: {odd} is not read")
    modules, others = _read(folder)
    if kind in virtual.TYPES:
        return virtual.load(folder, settings, others, config, params)
    tensors = {tensor.name: tensor for tensor in source.tensors(config)}
    weights = {weight.key: weight for weight in weights_of(config)}
    tied = getattr(config, "tied", False)
    for name, array in others.items():
        tensor = _find(name.replace(".base_layer.", "."), tensors, folder)
        _same_shape(folder, name, array.shape, tensor.shape)
        if tied and tensor.weights[0].key == ("embed", "table"):
            raise UserError(f"{folder}: {name} is the head too in this base: untie it first")
        for weight, part in zip(tensor.weights, tensor.read(array)):
            old = at(params, weight.key)
            params = replaced(params, weight.key, old.at[tensor.index].set(jnp.asarray(part, old.dtype)))
    found: dict[tuple[str, ...], list[tuple]] = defaultdict(list)
    for name, parts in modules.items():
        tensor = _find(f"{name}.weight", tensors, folder)
        if tied and tensor.weights[0].key == ("embed", "table"):
            raise UserError(f"{folder}: an adapter of {name}, which is the head too in this base: untie it first")
        if kind == "LORA":
            scale = _scale(name, len(parts.get("lora_A", parts.get("lora_embedding_A", ()))), settings)
            _low_rank(folder, name, tensor, parts, scale, found)
        else:
            _scaled(folder, name, tensor, tensors.get(f"{tensor.name.removesuffix('.weight')}.bias"), parts, found)
    make = _make_low_rank if kind == "LORA" else _make_scaled
    for key, entries in found.items():
        params = replaced(params, key, make(weights[key], at(params, key), entries))
    return config, params


def _read(folder: Path) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """Of each adapted module its parts by their names, and what stands for tensors of the base; float32."""
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder} has no {WEIGHTS}; adapter_model.bin is a pickle, and pickles are never opened")
    try:
        arrays = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{folder / WEIGHTS} is damaged: {error}") from None
    modules: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    others = {}
    for name, array in sorted(arrays.items()):
        name, array = name.removeprefix(PREFIX), array.astype(np.float32)
        if match := PART.fullmatch(name):
            modules[match[1]][match[2]] = array
        else:
            others[name] = array
    return modules, others


def _scale(name: str, r: int, settings: Mapping[str, Any]) -> float:
    """alpha / r, with rsLoRA alpha / sqrt(r); a module's own alpha by the pattern that its name ends with."""
    patterns = settings.get("alpha_pattern") or {}
    own = (a for pattern, a in patterns.items() if re.fullmatch(rf"(.*\.)?({pattern})", name))
    return float(next(own, settings.get("lora_alpha", 8))) / (r**0.5 if settings.get("use_rslora") else max(r, 1))


def _find(name: str, tensors: Mapping[str, Tensor], folder: Path) -> Tensor:
    """The base's tensor of this name, or the one that has it at its end, or whose own is at its end."""
    if name in tensors:
        return tensors[name]
    alike = [t for other, t in tensors.items() if other.endswith(f".{name}") or name.endswith(f".{other}")]
    if len(alike) != 1:
        raise UserError(f"{folder} is an adapter of another base: this one has no {name}")
    return alike[0]


def _same_shape(folder: Path, name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if found != wanted:
        raise UserError(f"{folder} is an adapter of another base: {name} is {found}, and this one's would be {wanted}")


# One module ----------------------------------------------------------------------------------------------------------


def _low_rank(folder: Path, name: str, tensor: Tensor, parts: dict, scale: float, found: dict) -> None:
    kinds = ("lora_embedding_A", "lora_embedding_B") if "lora_embedding_A" in parts else ("lora_A", "lora_B")
    if missing := [part for part in kinds if part not in parts]:
        raise UserError(f"{folder / WEIGHTS}: {name} has no {missing[0]}")
    down, up = (parts[part] for part in kinds)
    ins, outs = sides(tensor)
    r = len(down)
    if kinds[0] == "lora_embedding_A":
        ins, outs = tensor.shape
    _same_shape(folder, f"{name}.{kinds[0]}", down.shape, (r, ins))
    _same_shape(folder, f"{name}.{kinds[1]}", up.shape, (outs, r))
    sizes = parts.get("lora_magnitude_vector")
    if sizes is not None:
        _same_shape(folder, f"{name}.lora_magnitude_vector", sizes.shape, (outs,))
    of_b, of_m = outputs(tensor, up), None if sizes is None else outputs(tensor, sizes[:, None])
    for i, weight in enumerate(tensor.weights):
        dims = input_dims(weight)
        a = np.moveaxis(down.reshape(r, *(weight.shape[d] for d in dims)), 0, -1)
        b = np.moveaxis(of_b[i], dims[0], 0)
        b = b.reshape(r, *(n for d, n in enumerate(weight.shape) if d not in dims))
        found[weight.key].append((tensor.index, a, b, scale, None if of_m is None else of_m[i]))


def _scaled(folder: Path, name: str, tensor: Tensor, bias: Tensor | None, parts: dict, found: dict) -> None:
    """A vector over the outputs scales the bias too; one over the inputs does not."""
    vector = parts["ia3_l"]
    ins, outs = sides(tensor)
    if vector.shape == (1, ins):
        for w in tensor.weights:
            dims = input_dims(w)
            shape = tuple(n if d in dims else 1 for d, n in enumerate(w.shape))
            found[w.key].append((tensor.index, vector.reshape(shape)))
        return
    _same_shape(folder, f"{name}.ia3_l", vector.shape, (outs, 1))
    for weight, factor in zip(tensor.weights, outputs(tensor, vector)):
        found[weight.key].append((tensor.index, factor))
    for weight, factor in zip(*((bias.weights, bias.read(vector[:, 0])) if bias else ((), ()))):
        found[weight.key].append((bias.index if bias else (), factor))


# All layers of a weight ----------------------------------------------------------------------------------------------


def _make_low_rank(weight: Weight, w: Any, entries: list[tuple]) -> LowRank:
    """Ranks are filled up with zeros to the largest, and where scales differ they are part of b."""
    n = len(entries[0][0])
    rank = max(a.shape[-1] for _, a, *_ in entries)
    scales = {scale for *_, scale, _ in entries}
    scale = scales.pop() if len(scales) == 1 else 1.0
    lead, one = weight.shape[:n], weight.shape[n:]
    ins = tuple(i - n for i in weight.axes.inputs) or (0,)
    outs = tuple(d for d in range(len(one)) if d not in ins)
    a_all = np.zeros((*lead, *(one[d] for d in ins), rank), np.float32)
    b_all = np.zeros((*lead, rank, *(one[d] for d in outs)), np.float32)
    for index, a, b, own, _ in entries:
        a_all[index][..., : a.shape[-1]] = a
        b_all[index][: len(b)] = b * (own / scale)
    from_end = lambda dims: tuple(d - len(one) for d in dims)
    names = weight.axes.names
    named = lambda dims: tuple(names[n + d] for d in dims)
    magnitude = None
    if any(m is not None for *_, m in entries):
        sizes = np.array(lengths(w.dense() if is_leaf(w) else w, from_end(ins)))
        for index, *_, m in entries:
            if m is not None:
                sizes[index] = m
        magnitude = place(sizes, tuple(None if i - n in ins else name for i, name in enumerate(names)))
    return LowRank(
        w,
        place(a_all, (*names[:n], *named(ins), None)),
        place(b_all, (*names[:n], None, *named(outs))),
        scale,
        from_end(ins),
        from_end(outs),
        magnitude,
    )


def _make_scaled(weight: Weight, w: Array, entries: list[tuple]) -> Scaled:
    n, factor = len(entries[0][0]), entries[0][1]
    whole = np.ones((*weight.shape[:n], *factor.shape), np.float32)
    for index, factor in entries:
        whole[index] = factor
    names = (name if size > 1 else None for name, size in zip(weight.axes.names, whole.shape))
    return Scaled(w, place(whole, tuple(names)))
