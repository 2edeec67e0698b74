"""GPT-2-shaped models in jaxlm, and their weights under the names of transformers' GPT2LMHeadModel."""

import dataclasses
import runpy
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchsuite.piece import ROOT
from benchsuite.sizes import ADAMW, Size
from jaxlm import models, sharding
from jaxlm.axes import Array, Params
from jaxlm.data.config import DataConfig
from jaxlm.models import LMConfig
from jaxlm.optim import OptimizerConfig
from jaxlm.run import RunConfig
from jaxlm.sharding import MeshConfig

MESH = MeshConfig(data=1)


def run_config(size: Size) -> RunConfig:
    """The training run of a size: the model of configs/gpt2.py, and AdamW at a constant rate."""
    make = runpy.run_path(str(ROOT / "configs" / "gpt2.py"))["model"]
    model = make(N=size.N, D=size.D, H=size.H, V=size.V, T=size.T)
    adamw = OptimizerConfig(
        learning_rate=ADAMW["learning_rate"],
        schedule="constant",
        weight_decay=ADAMW["weight_decay"],
        clip=ADAMW["clip"],
        options=(("b2", ADAMW["b2"]),),
    )
    return RunConfig(
        model=dataclasses.replace(model, dtype=size.dtype, unroll=size.unroll, remat=size.remat or model.remat),
        data=DataConfig(T=size.T),
        optimizer=adamw,
        mesh=MESH,
        batch=size.B,
    )


def fresh(config: LMConfig) -> Params:
    """Fresh parameters on one device."""
    return jax.jit(lambda: sharding.unbox(models.init_boxed(config, jax.random.key(0))))()


def roughen(params: Params) -> Params:
    """Noise of 0.02 on all weights, so that a bias or a scale that is not used shows in the loss."""

    def one(path: Any, x: Array) -> Array:
        key = jax.random.fold_in(jax.random.key(1), zlib.crc32(jax.tree_util.keystr(path).encode()))
        return x + 0.02 * jax.random.normal(key, x.shape)

    return jax.jit(lambda tree: jax.tree_util.tree_map_with_path(one, tree), donate_argnums=0)(params)


def tokens(size: Size, rows: int, length: int) -> np.ndarray:
    """Random ids, int32 (rows, length)."""
    return np.random.default_rng(0).integers(0, size.V, (rows, length)).astype(np.int32)


def batch(size: Size) -> dict[str, np.ndarray]:
    """Random rows, each one text, as `jaxlm.data.pack` makes them."""
    ids, shape = tokens(size, size.B, size.T + 1), (size.B, size.T)
    return {
        "tokens": ids[:, :-1],
        "labels": ids[:, 1:],
        "positions": np.broadcast_to(np.arange(size.T, dtype=np.int32), shape),
        "segments": np.ones(shape, np.int32),
        "weights": np.ones(shape, np.float32),
    }


def export(params: Params, ids: np.ndarray, folder: str | Path) -> None:
    """`weights.safetensors` and `ids.npz` for the peer."""
    from safetensors.numpy import save_file

    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file(hugging_face(jax.device_get(params)), Path(folder) / "weights.safetensors")
    np.savez(Path(folder) / "ids.npz", ids=ids)


def hugging_face(params: Params) -> dict[str, np.ndarray]:
    """Name -> array. GPT-2's matrices are stored (in, out) and q, k, v are one; the head is the embedding table."""
    out = {
        "transformer.wte.weight": params["embed"]["table"],
        "transformer.wpe.weight": params["positions"]["table"],
        "transformer.ln_f.weight": params["norm"]["scale"],
        "transformer.ln_f.bias": params["norm"]["bias"],
    }
    block = params["segment_0"]["periods"]["block_0"]
    mixer, ffn, D = block["mixer"], block["ffn"], params["norm"]["scale"].shape[0]
    for i in range(mixer["q"].shape[0]):
        layer = {
            "ln_1.weight": block["norm1"]["scale"][i],
            "ln_1.bias": block["norm1"]["bias"][i],
            "attn.c_attn.weight": np.concatenate([mixer[name][i].reshape(D, -1) for name in "qkv"], 1),
            "attn.c_attn.bias": np.concatenate([mixer[f"{name}_bias"][i].reshape(-1) for name in "qkv"]),
            "attn.c_proj.weight": mixer["o"][i].reshape(-1, D),
            "attn.c_proj.bias": mixer["o_bias"][i],
            "ln_2.weight": block["norm2"]["scale"][i],
            "ln_2.bias": block["norm2"]["bias"][i],
            "mlp.c_fc.weight": ffn["up"][i],
            "mlp.c_fc.bias": ffn["up_bias"][i],
            "mlp.c_proj.weight": ffn["down"][i],
            "mlp.c_proj.bias": ffn["down_bias"][i],
        }
        out |= {f"transformer.h.{i}.{name}": x for name, x in layer.items()}
    return {name: np.ascontiguousarray(x) for name, x in out.items()}
