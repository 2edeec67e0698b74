"""Small folders in Hugging Face's layout, written out by hand."""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 20,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500.0,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "a_key_that_nobody_knows": [1, {"two": None}],
}
GPT2 = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "vocab_size": 20,
    "n_embd": 8,
    "n_head": 2,
    "n_layer": 2,
    "n_positions": 16,
}
NO_PATHS = [None, 3, b"a", "", "a\0b", "a\ud800", "x" * 5000, "y/" * 2500, "~nobody-of-this-name/x"]
BFLOAT16 = ml_dtypes.bfloat16


def llama(seed: int = 0, **fields: Any) -> dict[str, np.ndarray]:
    """The tensors of the Llama that LLAMA and `fields` describe."""
    c = LLAMA | fields
    D, F, N = c["hidden_size"], c["intermediate_size"], c["num_hidden_layers"]
    kv = D // c["num_attention_heads"] * c["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (c["vocab_size"], D)}
    for i in range(N):
        layer = f"model.layers.{i}."
        shapes |= {f"{layer}self_attn.{n}_proj.weight": (D, D) for n in "qo"}
        shapes |= {f"{layer}self_attn.{n}_proj.weight": (kv, D) for n in "kv"}
        shapes |= {f"{layer}mlp.{n}_proj.weight": (F, D) for n in ("gate", "up")}
        shapes |= {f"{layer}mlp.down_proj.weight": (D, F)}
        shapes |= {f"{layer}{n}_layernorm.weight": (D,) for n in ("input", "post_attention")}
    shapes["model.norm.weight"] = (D,)
    if not c["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (c["vocab_size"], D)
    return _random(shapes, seed)


def gpt2(prefix: str = "transformer.") -> dict[str, np.ndarray]:
    D, shapes = GPT2["n_embd"], {"wte.weight": (GPT2["vocab_size"], GPT2["n_embd"]), "wpe.weight": (16, 8)}
    for i in range(GPT2["n_layer"]):
        shapes |= {f"h.{i}.{n}.{w}": (D,) for n in ("ln_1", "ln_2") for w in ("weight", "bias")}
        matrices = {"attn.c_attn": (D, 3 * D), "attn.c_proj": (D, D), "mlp.c_fc": (D, 4 * D), "mlp.c_proj": (4 * D, D)}
        shapes |= {f"h.{i}.{n}.weight": shape for n, shape in matrices.items()}
        shapes |= {f"h.{i}.{n}.bias": shape[1:] for n, shape in matrices.items()}
    shapes |= {"ln_f.weight": (D,), "ln_f.bias": (D,)}
    return _random({prefix + name: shape for name, shape in shapes.items()}, 0)


def _random(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape, np.float32) / 2 for name, shape in shapes.items()}


def write(folder: Path, tensors: dict[str, np.ndarray], fields: dict[str, Any], shards: int = 1) -> Path:
    """The folder, made with config.json and the weights in this many files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(fields))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    names = [list(tensors)[i::shards] for i in range(shards)]
    where = {}
    for i, part in enumerate(names):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        where |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": sum(x.nbytes for x in tensors.values())}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
