"""Virtual tokens in peft's layout: one tensor `prompt_embeddings`, (n, D) of a prompt and (n, 2 layers heads width) of
a prefix, keys before values in each layer, whatever network computed them while they were trained."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as to_bytes

from jaxlm import sharding
from jaxlm.axes import Params
from jaxlm.convert.peft.layout import CONFIG, TENSOR, WEIGHTS, place
from jaxlm.errors import UserError
from jaxlm.files import write_file
from jaxlm.models import ModelConfig, abstract
from jaxlm.nn.virtual import VirtualConfig
from jaxlm.ops.leaves import dense

TYPES = {"PROMPT_TUNING": "prompt", "P_TUNING": "prompt", "PREFIX_TUNING": "prefix"}


def load(
    folder: Path, settings: Mapping[str, Any], arrays: dict[str, np.ndarray], config: ModelConfig, params: Params
) -> tuple[ModelConfig, Params]:
    """Config and parameters of the base model with the virtual tokens of a folder."""
    name, found = TYPES[settings["peft_type"]], arrays.get(TENSOR)
    if found is None or found.ndim != 2:
        raise UserError(f"{folder / WEIGHTS} has no matrix {TENSOR}")
    if not hasattr(config, "virtual"):
        raise UserError(f"{folder}: virtual tokens are of decoders and encoders, not of a {type(config).__name__}")
    if settings.get("num_transformer_submodules") not in (None, 1):
        raise UserError(f"{folder}: virtual tokens of two models at once are not read")
    made: Any = dataclasses.replace(config, virtual=VirtualConfig(len(found), name == "prefix"))  # pyright: ignore
    shapes, axes = abstract(made)
    if found.size != shapes[name].size:
        wanted = (len(found), shapes[name].size // len(found))
        raise UserError(
            f"{folder} is an adapter of another base: {TENSOR} is {found.shape}, and this one's would be {wanted}"
        )
    return made, {**params, name: place(found.reshape(shapes[name].shape), axes[name].names)}


def save(folder: Path, config: ModelConfig, params: Params, base: str | None) -> None:
    """Write the virtual tokens alone, as peft opens them."""
    virtual: VirtualConfig = config.virtual  # pyright: ignore
    name = "prefix" if virtual.prefix else "prompt"
    array = np.asarray(sharding.constrain(dense(params[name]), *[None] * (4 if virtual.prefix else 2)), np.float32)
    layers, heads, _ = virtual.sizes(next(iter(config.stacks().values())))
    settings = {
        "peft_type": "PREFIX_TUNING" if virtual.prefix else "PROMPT_TUNING",
        "task_type": "CAUSAL_LM" if config.decodes else "FEATURE_EXTRACTION",
        "inference_mode": True,
        "base_model_name_or_path": base,
        "num_virtual_tokens": virtual.n,
        "num_transformer_submodules": 1,
        "num_layers": layers,
        "num_attention_heads": heads,
        "token_dim": array[0].size // (2 * layers) if virtual.prefix else array.shape[1],
    }
    if virtual.prefix:
        settings |= {"encoder_hidden_size": config.D, "prefix_projection": False}
    else:
        settings |= {"prompt_tuning_init": "RANDOM"}
    write_file(folder / WEIGHTS, to_bytes({TENSOR: np.ascontiguousarray(array.reshape(virtual.n, -1))}))
    write_file(folder / CONFIG, (json.dumps(settings, indent=2) + "\n").encode())


def alone(config: ModelConfig, params: Params) -> tuple[ModelConfig, Params]:
    """The base model without virtual tokens."""
    if getattr(config, "virtual", None) is None:
        return config, params
    base: Any = dataclasses.replace(config, virtual=None)  # pyright: ignore
    return base, {name: x for name, x in params.items() if name not in TYPES.values()}
