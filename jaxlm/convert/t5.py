"""T5 (Raffel et al. 2019, arXiv:1910.10683) and what follows its layout: T5 1.1, mT5 (arXiv:2010.11934), UL2.

Scores are not scaled, one table of position biases serves all layers of a stack, and the head is the embedding times
D^-0.5; T5 1.1 gates its feed-forwards and has a head of its own, unscaled.
"""

from collections.abc import Sequence
from typing import Any

from jaxlm.convert.fields import Fields
from jaxlm.convert.names import Rule, Turned, linear, same
from jaxlm.convert.usual import ACTIVATIONS, layers
from jaxlm.models import Seq2SeqConfig
from jaxlm.nn import (
    AttentionConfig,
    BlockConfig,
    BranchConfig,
    BranchesConfig,
    CrossAttentionConfig,
    FeedForwardConfig,
    LayerConfig,
    MLPConfig,
    RMSNormConfig,
    SharedBucketsConfig,
    group_layers,
)

MODEL_TYPES = {"t5": "T5ForConditionalGeneration", "mt5": "MT5ForConditionalGeneration"}


def attention(theirs: str, ours: str) -> dict[str, Rule]:
    return {f"{theirs}.{name}.weight": linear(f"{ours}.{name}") for name in "qkvo"}


def stacks(ffn: dict[str, str]) -> dict[str, Rule]:
    """The names of a model of T5's layout, with those of a feed-forward, theirs and ours."""
    found = {"shared.weight": same("embed.table"), "lm_head.weight": linear("head")}
    for stack, last, ours in (
        ("encoder", 1, ("norm1", "norm2")),
        ("decoder", 2, ("attention_norm", "cross_norm", "ffn_norm")),
    ):
        block, mixer = f"{stack}.block.{{}}.layer", "mixer" if stack == "encoder" else "attention"
        table = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        found |= {
            table: Turned((f"{stack}.position_bias.table",)),
            f"{stack}.final_layer_norm.weight": same(f"{stack}.norm.scale"),
            **attention(f"{block}.0.SelfAttention", f"{stack}.{mixer}"),
            **attention(f"{block}.1.EncDecAttention", f"{stack}.cross"),
            **{f"{block}.{i}.layer_norm.weight": same(f"{stack}.{norm}.scale") for i, norm in enumerate(ours)},
            **{f"{block}.{last}.{theirs}.weight": linear(f"{stack}.ffn.{own}") for theirs, own in ffn.items()},
        }
    return found


def names(config: Seq2SeqConfig) -> dict[str, Rule]:
    """The table: a gated feed-forward has its names of its own."""
    ffn: Any = config.encoder[0].blocks[0].ffns[0]
    ours = {"wi_0": "gate", "wi_1": "up", "wo": "down"} if ffn.gated else {"wi": "up", "wo": "down"}
    return stacks({f"DenseReluDense.{theirs}": own for theirs, own in ours.items()})


IGNORED = (
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",  # of old files, of no use
)


def config(c: Fields) -> Seq2SeqConfig:
    named = c.str("feed_forward_proj", default="gated-gelu" if c.get("model_type") == "mt5" else "relu")
    kind = named.removeprefix("gated-")
    if kind not in ACTIVATIONS:
        raise c.error("feed_forward_proj", f"{named[:60]!r} is not supported")
    gated = kind != named
    activation = "gelu_tanh" if named == "gated-gelu" else ACTIVATIONS[kind]
    ffn = MLPConfig(c.size("d_ff"), activation, gated=gated)
    N = layers(c, "num_layers")
    encoder = [encoder_layer(c, ffn)] * N
    decoder = [decoder_layer(c, ffn)] * c.size("num_decoder_layers", default=N)
    return model(c, encoder, decoder)


def norm(c: Fields) -> RMSNormConfig:
    return RMSNormConfig(c.float("layer_norm_epsilon", default=1e-6))


def _attention(c: Fields) -> dict[str, Any]:
    return {
        "H": c.size("num_heads"),
        "K": c.size("d_kv", default=64),
        "scale": 1.0,
        "dropout": c.float("dropout_rate", default=0.1),
    }


def _self_attention(c: Fields, causal: bool) -> AttentionConfig:
    buckets = c.size("relative_attention_num_buckets", default=32)
    longest = c.size("relative_attention_max_distance", default=128)
    bias = SharedBucketsConfig(buckets, longest, bidirectional=not causal)
    return AttentionConfig(**_attention(c), rope=None, position_bias=bias, causal=causal)


def encoder_layer(c: Fields, ffn: FeedForwardConfig) -> BlockConfig:
    return BlockConfig(_self_attention(c, False), ffn, norm(c), dropout=c.float("dropout_rate", default=0.1))


def decoder_layer(c: Fields, ffn: FeedForwardConfig) -> BranchesConfig:
    parts = {"attention": _self_attention(c, True), "cross": CrossAttentionConfig(**_attention(c)), "ffn": ffn}
    dropout = c.float("dropout_rate", default=0.1)
    return BranchesConfig(tuple(BranchConfig(name, of, norm(c), dropout=dropout) for name, of in parts.items()))


def model(c: Fields, encoder: Sequence[LayerConfig], decoder: Sequence[LayerConfig]) -> Seq2SeqConfig:
    D, mt5 = c.size("d_model"), c.get("model_type") == "mt5"
    tied = c.bool("tie_word_embeddings", default=not mt5)
    scaled = c.bool("scale_decoder_outputs", default=tied) and not mt5  # which newer files say apart
    return Seq2SeqConfig(
        c.size("vocab_size"),
        D,
        group_layers(encoder),
        group_layers(decoder),
        positions=None,
        norm=norm(c),
        tied=tied,
        logit_scale=D**-0.5 if scaled else 1.0,
        dropout=c.float("dropout_rate", default=0.1),
    )
