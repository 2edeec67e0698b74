"""What a GGUF file says of its model, in the words of a config.json and of Hugging Face's tensors.

An architecture is what differs from Llama's; the families of `convert` do the rest.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxlm.errors import UserError, unknown

FIELDS = {  # of a config.json -> the value's key below the architecture's name
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
    "max_position_embeddings": "context_length",
    "sliding_window": "attention.sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
}
TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
QWEN_EXPERTS = {
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.{e}.gate_proj",
    "ffn_up_exps": "mlp.experts.{e}.up_proj",
    "ffn_down_exps": "mlp.experts.{e}.down_proj",
}
MIXTRAL_EXPERTS = {
    "ffn_gate_inp": "block_sparse_moe.gate",
    "ffn_gate_exps": "block_sparse_moe.experts.{e}.w1",
    "ffn_up_exps": "block_sparse_moe.experts.{e}.w3",
    "ffn_down_exps": "block_sparse_moe.experts.{e}.w2",
}
AROUND = {  # norms before and after each part
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
AFTER = {"post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
FREQUENCIES = "rope_freqs.weight"  # what each rotary frequency is divided by
PART = re.compile(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)")


@dataclasses.dataclass(frozen=True)
class Architecture:
    """`turned`: rows of q and k lie as Llama's own code has them, pairs side by side. `centred`: norms are stored with
    the 1 that the family adds. `wide`: the number of layers of the size whose scores are scaled by D / H, not by K.
    """

    model_type: str
    layer: Mapping[str, str] = dataclasses.field(default_factory=lambda: LAYER)
    turned: bool = False
    centred: bool = False
    wide: int | None = None
    says: Mapping[str, Any] = dataclasses.field(default_factory=dict)


ARCHITECTURES = {
    "llama": Architecture("llama", turned=True),
    "mixtral": Architecture("mixtral", LAYER | MIXTRAL_EXPERTS, turned=True),  # "llama" with experts
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3"),
    "qwen3moe": Architecture("qwen3_moe", LAYER | QWEN_EXPERTS, says={"norm_topk_prob": True}),
    "olmo2": Architecture("olmo2", {k: v for k, v in LAYER.items() if not k.endswith("n_norm")} | AFTER),
    "gemma2": Architecture("gemma2", LAYER | AROUND, centred=True, wide=46),
    "gemma3": Architecture("gemma3_text", LAYER | AROUND, centred=True, wide=62),
}


def architecture(metadata: Mapping[str, Any], where: str) -> Architecture:
    name = metadata.get("general.architecture")
    if name == "llama" and metadata.get("llama.expert_count"):
        name = "mixtral"
    if name not in ARCHITECTURES:
        raise UserError(f"{where}: {unknown('general.architecture', str(name)[:60], ARCHITECTURES)}")
    return ARCHITECTURES[name]


def fields(metadata: Mapping[str, Any], tensors: Mapping[str, Any], divisors: np.ndarray | None) -> dict[str, Any]:
    """The config.json that the values stand for. `divisors` are those of the rotary frequencies, if there are any."""
    prefix = metadata["general.architecture"]
    known = architecture(metadata, "")
    said = {key: metadata.get(f"{prefix}.{name}") for key, name in FIELDS.items()}
    found = {key: value for key, value in said.items() if value not in (None, 0)}
    table = tensors["token_embd.weight"].shape if "token_embd.weight" in tensors else (1,)
    found |= {"model_type": known.model_type, "vocab_size": table[0], "tie_word_embeddings": not _untied(tensors)}
    for key, token in (("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")):
        found[key] = metadata.get(f"tokenizer.ggml.{token}_token_id")
    if "head_dim" not in found and (width := metadata.get(f"{prefix}.rope.dimension_count")):
        found["head_dim"] = width
    if known.wide:
        each = found["hidden_size"] // found["num_attention_heads"]
        found["query_pre_attn_scalar"] = each if found["num_hidden_layers"] == known.wide else found["head_dim"]
    kind, factor = (metadata.get(f"{prefix}.rope.scaling.{name}") for name in ("type", "factor"))
    if kind not in (None, "none") and factor:
        found["rope_scaling"] = {"rope_type": kind, "factor": factor}
    if divisors is not None:
        found["rope_scaling"] = {"rope_type": "llama3", "factor": float(divisors.max()), **LLAMA3}
        if not np.allclose(divisors, _llama3(found), rtol=1e-3):
            raise UserError(f"{FREQUENCIES} does not hold the factors of Llama 3.1, and no others are read")
    return found | dict(known.says)


def _untied(tensors: Mapping[str, Any]) -> bool:
    return "output.weight" in tensors


def _llama3(said: Mapping[str, Any]) -> np.ndarray:
    """Llama 3.1's divisors: 1 for short wavelengths, the factor for long ones, between them a smooth step."""
    n = said.get("head_dim") or said["hidden_size"] // said["num_attention_heads"]
    waves = 2 * math.pi * said.get("rope_theta", 10_000.0) ** (np.arange(0, n, 2) / n)
    low, high, context = LLAMA3.values()
    smooth = np.clip((context / waves - low) / (high - low), 0, 1)
    return (1 / (smooth + (1 - smooth) / said["rope_scaling"]["factor"])).astype(np.float32)


def hugging_face(name: str, known: Architecture, experts: int) -> list[str]:
    """The names of a tensor there: as many as experts where it has those of a layer, none for one nobody needs."""
    match = PART.fullmatch(name)
    if name == FREQUENCIES or not match:
        return [] if name == FREQUENCIES else [name]
    layer, part, kind = match.groups()
    if layer is None:
        return [f"{TOP[part]}.{kind}"] if part in TOP else [name]
    if part not in known.layer:
        return [name]
    whole = f"model.layers.{layer}.{known.layer[part]}.{kind}"
    return [whole.replace("{e}", str(e)) for e in range(experts)] if "{e}" in whole else [whole]


# Writing -------------------------------------------------------------------------------------------------------------


def named(model_type: str) -> tuple[str, Architecture]:
    """The name in files, and the architecture, of a config.json's model_type. Raises UserError where there is none."""
    found = {known.model_type: (name, known) for name, known in ARCHITECTURES.items() if "{e}" not in str(known.layer)}
    if model_type not in found:
        raise UserError(f"no GGUF is written of the model type {model_type}: {', '.join(found)} are")
    return found[model_type]


def metadata(said: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The values that a config.json stands for, as far as a file has a place for them."""
    theta = said.get("rope_parameters", {}).get("rope_theta")
    said = {"rope_theta": theta, "head_dim": said["hidden_size"] // said["num_attention_heads"]} | {
        key: value for key, value in said.items() if value is not None
    }
    found = {f"{name}.{key}": said[field] for field, key in FIELDS.items() if said.get(field) is not None}
    if width := said.get("head_dim"):
        found[f"{name}.attention.value_length"] = width
        found[f"{name}.rope.dimension_count"] = width
    return {"general.architecture": name, "general.name": name} | found


def divisors(said: Mapping[str, Any]) -> np.ndarray | None:
    """Those of the rotary frequencies of a config.json that scales them as Llama 3.1 does."""
    scaling = said.get("rope_scaling") or {}
    return _llama3(said) if scaling.items() >= LLAMA3.items() and "factor" in scaling else None


def gguf_name(theirs: str, known: Architecture) -> str:
    """The name in a file of Hugging Face's `theirs`."""
    part, kind = theirs.rsplit(".", 1)
    for own, top in TOP.items():
        if part == top:
            return f"{own}.{kind}"
    _, _, layer, rest = part.split(".", 3)
    return f"blk.{layer}.{next(own for own, name in known.layer.items() if name == rest)}.{kind}"
