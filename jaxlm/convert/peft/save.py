"""Writing an adapter."""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as to_bytes

from jaxlm.axes import Params
from jaxlm.convert.families import Source
from jaxlm.convert.names import Tensor, Weight, weights_of
from jaxlm.convert.peft import virtual
from jaxlm.convert.peft.layout import CONFIG, PREFIX, WEIGHTS, at, input_dims, joined
from jaxlm.errors import UserError
from jaxlm.files import write_file
from jaxlm.models import ModelConfig
from jaxlm.ops.leaves import LowRank, Scaled

Arrays = dict[str, np.ndarray]


def save(folder: Path, config: ModelConfig, params: Params, source: Source) -> None:
    """Write the `LowRank` or `Scaled` leaves of `params`, or virtual tokens, as an adapter that peft opens on the base
    model.

    Layers without a change are left out. Raises UserError where no leaf is an adapter, where both kinds are, and where
    the folder cannot be written.
    """
    leaf = lambda weight: at(params, weight.key)
    kinds = {type(leaf(weight)) for weight in weights_of(config)} & {LowRank, Scaled}
    base = str(source.folder) if source.folder else None
    if getattr(config, "virtual", None) is not None and not kinds:
        return virtual.save(folder, config, params, base)
    if len(kinds) != 1 or getattr(config, "virtual", None) is not None:
        raise UserError(f"the model has {'adapters of two kinds' if kinds else 'no adapter'}: nothing is written")
    adapted = [
        (tensor.name.removesuffix(".weight"), tensor)
        for tensor in source.tensors(config)
        if tensor.name.endswith(".weight") and any(isinstance(leaf(w), LowRank | Scaled) for w in tensor.weights)
    ]
    arrays, settings = (_low_rank if kinds == {LowRank} else _scaled)(adapted, leaf)
    settings |= {
        "base_model_name_or_path": base,
        "task_type": "CAUSAL_LM" if config.decodes else "FEATURE_EXTRACTION",
        "inference_mode": True,
    }
    write_file(folder / WEIGHTS, to_bytes({PREFIX + name: np.ascontiguousarray(a) for name, a in arrays.items()}))
    write_file(folder / CONFIG, (json.dumps(settings, indent=2) + "\n").encode())


def _low_rank(adapted: list[tuple[str, Tensor]], leaf: Callable) -> tuple[Arrays, dict[str, Any]]:
    arrays: Arrays = {}
    ranks, scales, transposed, dora = {}, {}, set(), set()
    for name, tensor in adapted:
        found = [leaf(weight) for weight in tensor.weights]
        if not all(isinstance(one, LowRank) for one in found):
            raise UserError(f"only a part of {name} has an adapter, which peft cannot say")
        mine = lambda array, index=tensor.index: np.asarray(array[index], np.float32)
        down, ups = _shared([np.moveaxis(mine(one.a), -1, 0) for one in found], [mine(one.b) for one in found])
        up = joined(tensor, [_up(b, weight) for b, weight in zip(ups, tensor.weights)])
        down = down.reshape(len(down), -1)
        used = np.any(down, 1)  # filled up to the rank of other layers
        if not used.any():
            continue
        down, up = down[used], up[:, used]
        table = not tensor.weights[0].axes.inputs
        first, last = (".lora_embedding_A", ".lora_embedding_B") if table else (".lora_A.weight", ".lora_B.weight")
        arrays |= {name + first: down, name + last: up}
        if found[0].magnitude is not None:
            sizes = joined(tensor, [mine(one.magnitude) for one in found])
            arrays[f"{name}.lora_magnitude_vector"] = sizes[:, 0]
            dora.add(name)
        transposed.add(getattr(tensor.rule, "transposed", False))
        ranks[name], scales[name] = len(down), found[0].scale
        if len({one.scale for one in found}) > 1:
            raise UserError(f"the parts of {name} have scales of their own, which peft cannot say")
    if not ranks:
        raise UserError("the adapter changes nothing: nothing is written")
    rank = Counter(ranks.values()).most_common(1)[0][0]
    alphas = {name: scales[name] * ranks[name] for name in ranks}
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    whole = {re.escape(name): name for name in ranks}
    return arrays, {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "rank_pattern": {pattern: ranks[name] for pattern, name in whole.items() if ranks[name] != rank},
        "alpha_pattern": {pattern: alphas[name] for pattern, name in whole.items() if alphas[name] != alpha},
        "target_modules": sorted(ranks),
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": bool(dora),
        "fan_in_fan_out": transposed == {True},
        "init_lora_weights": True,
    }


def _shared(downs: list[np.ndarray], ups: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """One a, (r, *inputs), for all parts of a tensor: theirs, or all of theirs with zeros in b for the others'."""
    if all(np.array_equal(downs[0], other) for other in downs[1:]):
        return downs[0], ups
    total, first, filled = sum(map(len, downs)), 0, []
    for b in ups:
        whole = np.zeros((total, *b.shape[1:]), b.dtype)
        whole[first : first + len(b)] = b
        first += len(b)
        filled.append(whole)
    return np.concatenate(downs), filled


def _up(b: np.ndarray, weight: Weight) -> np.ndarray:
    """b, (r, *outputs), with r in place of the weight's first input and 1 of its others."""
    dims = input_dims(weight)
    shape = (len(b) if d == dims[0] else 1 if d in dims else n for d, n in enumerate(weight.shape))
    return np.moveaxis(b, 0, dims[0]).reshape(*shape)  # outputs before the first input are as many as its number


def _scaled(adapted: list[tuple[str, Tensor]], leaf: Callable) -> tuple[Arrays, dict[str, Any]]:
    arrays: Arrays = {}
    over_inputs: dict[str, bool] = {}
    for name, tensor in adapted:
        found = [leaf(weight) for weight in tensor.weights]
        if not all(isinstance(one, Scaled) for one in found):
            raise UserError(f"only a part of {name} has an adapter, which peft cannot say")
        factors = [np.asarray(one.factor[tensor.index], np.float32) for one in found]
        if all((factor == 1).all() for factor in factors):
            continue
        dims = input_dims(tensor.weights[0])
        over_inputs[name] = any(factors[0].shape[d] > 1 for d in dims)
        ends = factors[0].reshape(1, -1) if over_inputs[name] else joined(tensor, factors)
        arrays[f"{name}.ia3_l"] = ends
    if not arrays:
        raise UserError("the adapter changes nothing: nothing is written")
    return arrays, {
        "peft_type": "IA3",
        "target_modules": sorted(over_inputs),
        "feedforward_modules": sorted(name for name, inputs in over_inputs.items() if inputs),
        "fan_in_fan_out": all(getattr(tensor.rule, "transposed", False) for _, tensor in adapted),
        "init_ia3_weights": True,
    }
