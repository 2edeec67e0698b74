"""BART (Lewis et al. 2019, arXiv:1910.13461) and mBART (Liu et al. 2020, arXiv:2001.08210): learned positions from the
third row of their table on, a norm of the embedding, a bias of the logits that is never trained. BART norms after each
sum, mBART before each branch and after each stack.
"""

from typing import Any

from jaxlm.convert.fields import Fields
from jaxlm.convert.names import Row, Rule, flat, linear, same
from jaxlm.convert.usual import MOST_LAYERS, activation
from jaxlm.models import Seq2SeqConfig
from jaxlm.nn import (
    AttentionConfig,
    BlockConfig,
    BranchConfig,
    BranchesConfig,
    CrossAttentionConfig,
    LayerNormConfig,
    LayersConfig,
    LearnedConfig,
    MLPConfig,
)

MODEL_TYPES = {"bart": "BartForConditionalGeneration", "mbart": "MBartForConditionalGeneration"}
BRANCHES = {
    "encoder": {"self_attn": ("mixer", "norm1"), "final": ("ffn", "norm2")},
    "decoder": {
        "self_attn": ("attention", "attention_norm"),
        "encoder_attn": ("cross", "cross_norm"),
        "final": ("ffn", "ffn_norm"),
    },
}


def affine(theirs: str, *ours: str) -> dict[str, tuple[Rule, ...]]:
    """A norm, under the first of these names that there is."""
    return {
        f"{theirs}.weight": tuple(same(f"{name}.scale") for name in ours),
        f"{theirs}.bias": tuple(same(f"{name}.bias") for name in ours),
    }


def _names() -> dict[str, Any]:
    found: dict[str, Any] = {
        "model.shared.weight": same("embed.table"),
        "lm_head.weight": linear("head"),
        "final_logits_bias": Row(("logit_bias",)),
    }
    for stack, branches in BRANCHES.items():
        above, layer = f"model.{stack}", f"model.{stack}.layers.{{}}"
        found[f"{above}.embed_positions.weight"] = same(f"{stack}.positions.table")
        found |= affine(f"{above}.layernorm_embedding", f"{stack}.embed_norm")
        found |= affine(f"{above}.layer_norm", f"{stack}.norm")
        for theirs, (part, norm) in branches.items():
            found |= affine(f"{layer}.{theirs}_layer_norm", f"{stack}.{norm}_sum", f"{stack}.{norm}")
            own = f"{stack}.{part}"
            if part == "ffn":
                found |= {f"{layer}.fc1.weight": linear(f"{own}.up"), f"{layer}.fc1.bias": same(f"{own}.up_bias")}
                found |= {f"{layer}.fc2.weight": linear(f"{own}.down"), f"{layer}.fc2.bias": same(f"{own}.down_bias")}
                continue
            for name in "qkv":
                found[f"{layer}.{theirs}.{name}_proj.weight"] = linear(f"{own}.{name}")
                found[f"{layer}.{theirs}.{name}_proj.bias"] = flat(f"{own}.{name}_bias")
            found[f"{layer}.{theirs}.out_proj.weight"] = linear(f"{own}.o")
            found[f"{layer}.{theirs}.out_proj.bias"] = same(f"{own}.o_bias")
    return found


NAMES = _names()
SPELLINGS = ({"model.": ""},)  # a file without the head
IGNORED = ("*encoder.embed_tokens.weight", "*decoder.embed_tokens.weight", "*encoder.version", "*decoder.version")


def config(c: Fields) -> Seq2SeqConfig:
    before = c.get("model_type") == "mbart"
    return model(
        c,
        before,
        activation(c, "activation_function", "gelu"),
        positions=LearnedConfig(c.size("max_position_embeddings", default=1024), offset=2),
        embed_norm=LayerNormConfig(),
        norm=LayerNormConfig() if before else None,
    )


def model(c: Fields, before: bool, activation: str, bias_k: bool = True, **changes: Any) -> Seq2SeqConfig:
    """The model with norms before each branch, or after each sum; Whisper's keys have no biases."""
    D, dropout = c.size("d_model"), c.float("dropout", default=0.1)
    norms: dict[str, Any] = {"norm": LayerNormConfig()} if before else {"norm": None, "norm_sum": LayerNormConfig()}

    def parts(stack: str) -> tuple[dict[str, Any], MLPConfig, int]:
        H, N = c.size(f"{stack}_attention_heads"), c.size(f"{stack}_layers")
        if D % H:
            raise c.error(f"{stack}_attention_heads", f"{H} does not divide d_model {D}")
        if N > MOST_LAYERS:
            raise c.error(f"{stack}_layers", f"is {N}: no more than {MOST_LAYERS} layers are read")
        heads = {"H": H, "K": D // H, "bias": True, "bias_k": bias_k, "bias_out": True}
        heads["dropout"] = c.float("attention_dropout", default=0.0)
        return heads, MLPConfig(c.size(f"{stack}_ffn_dim"), activation, gated=False, bias=True), N

    heads, ffn, N = parts("encoder")
    encoder = BlockConfig(AttentionConfig(**heads, rope=None, causal=False), ffn, **norms, dropout=dropout)
    encoders = LayersConfig((encoder,), N)
    heads, ffn, N = parts("decoder")
    each = {"attention": AttentionConfig(**heads, rope=None), "cross": CrossAttentionConfig(**heads), "ffn": ffn}
    branches = tuple(BranchConfig(name, of, **norms, dropout=dropout) for name, of in each.items())
    usual = {
        "embed_scale": D**0.5 if c.bool("scale_embedding", default=False) else 1.0,
        "tied": c.bool("tie_word_embeddings", default=True),
        "logit_bias": True,
        "untrained": c.int("pad_token_id", default=None),  # the padding_idx of torch's embedding
        "dropout": dropout,
    }
    decoders = LayersConfig((BranchesConfig(branches),), N)
    return Seq2SeqConfig(c.size("vocab_size"), D, (encoders,), (decoders,), **usual | changes)
