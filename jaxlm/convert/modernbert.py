"""ModernBERT (Warner et al. 2024, arXiv:2412.13663): pre-norm without biases, gated feed-forwards, rotary positions of
two bases, and two layers of three that see a window. The first layer's attention reads the embedding's norm."""

from typing import Any

from jaxlm.convert import bert_like, rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.names import Names, flat, linear, same
from jaxlm.convert.spellings import ACTIVATIONS, parameters
from jaxlm.convert.usual import activation, layer_types, layers
from jaxlm.models import (
    EncoderConfig,
    MaskedHead,
    SequenceHead,
    SpanHead,
    TokenHead,
    TransformConfig,
)
from jaxlm.models import layers as layers_of
from jaxlm.nn import AttentionConfig, BranchConfig, BranchesConfig, LayerNormConfig, MLPConfig, RopeConfig, group_layers

MODEL_TYPES = {"modernbert": "ModernBertForMaskedLM"}
LAYER = "model.layers.{}"
NAMES = {
    "model.embeddings.tok_embeddings.weight": same("embed.table"),
    **bert_like.norm("model.embeddings.norm", "embed_norm"),
    **bert_like.norm(f"{LAYER}.attn_norm", "mixer_norm"),
    f"{LAYER}.attn.Wqkv.weight": linear("mixer.q", "mixer.k", "mixer.v"),
    f"{LAYER}.attn.Wqkv.bias": flat("mixer.q_bias", "mixer.k_bias", "mixer.v_bias"),
    **bert_like.affine(f"{LAYER}.attn.Wo", "mixer.o"),
    **bert_like.norm(f"{LAYER}.mlp_norm", "ffn_norm"),
    f"{LAYER}.mlp.Wi.weight": linear("ffn.gate", "ffn.up"),
    f"{LAYER}.mlp.Wi.bias": flat("ffn.gate_bias", "ffn.up_bias"),
    **bert_like.affine(f"{LAYER}.mlp.Wo", "ffn.down"),
    **bert_like.norm("model.final_norm", "norm"),
}
TRANSFORM = bert_like.affine("head.dense", "transform") | bert_like.norm("head.norm", "transform_norm")
HEADS = {
    MaskedHead: {**TRANSFORM, **bert_like.affine("decoder", "head")},
    **{head: TRANSFORM | bert_like.CLASSIFIER for head in (SequenceHead, TokenHead, SpanHead)},
}
SPELLINGS = ({"model.": ""},)
IGNORED = ("head.*", "decoder.*")  # of a bare encoder
POOLINGS = {"cls": False, "mean": True}
BASES = {"full_attention": ("global_rope_theta", 160_000.0), "sliding_attention": ("local_rope_theta", 10_000.0)}


def names(config: EncoderConfig) -> Names:
    return bert_like.named(NAMES, HEADS, config)


def config(c: Fields) -> EncoderConfig:
    norm = LayerNormConfig(c.float("norm_eps", default=1e-5), bias=c.bool("norm_bias", default=False))
    every = c.size("global_attn_every_n_layers", default=3)
    local = layer_types(c, [i % every != 0 for i in range(layers(c))])
    return EncoderConfig(
        V=c.size("vocab_size"),
        D=c.size("hidden_size"),
        layers=group_layers([_layer(c, norm, near, first=i == 0) for i, near in enumerate(local)]),
        positions=None,
        embed_norm=norm,
        norm=norm,
        head=bert_like.head(bert_like.architecture(c, MODEL_TYPES), c, _heads(c, norm)),
        dropout=c.float("embedding_dropout", default=0.0),
    )


def _layer(c: Fields, norm: LayerNormConfig, local: bool, first: bool) -> BranchesConfig:
    bias, drop = c.bool("attention_bias", default=False), c.float("attention_dropout", default=0.0)
    kind = "sliding_attention" if local else "full_attention"
    key, base = BASES[kind]
    p = c.section("rope_scaling", default={}).over(c.section("rope_parameters", default={}).section(kind, default={}))
    mixer = AttentionConfig(
        **bert_like.heads(c),
        rope=RopeConfig(p.float("rope_theta", default=c.float(key, default=base)), rope.scaling(c, p)),
        causal=False,
        window=c.size("local_attention", default=128) // 2 + 1 if local else None,
        bias=bias,
        bias_out=bias,
        dropout=drop,
    )
    act = activation(c, "hidden_activation", "gelu")
    ffn = MLPConfig(c.size("intermediate_size"), act, bias=c.bool("mlp_bias", default=False))
    read = BranchConfig("mixer", mixer, None if first else norm, dropout=drop)
    return BranchesConfig((read, BranchConfig("ffn", ffn, norm)))


def _heads(c: Fields, norm: LayerNormConfig) -> dict[str, Any]:
    act, bias = activation(c, "classifier_activation", "gelu"), c.bool("classifier_bias", default=False)
    drop, before = c.float("classifier_dropout", default=0.0), TransformConfig(act, norm, bias)
    mean = c.one_of("classifier_pooling", among=POOLINGS, default="cls")
    masked = MaskedHead(
        act, norm, c.bool("decoder_bias", default=True), c.bool("tie_word_embeddings", default=True), bias
    )
    return {
        "Model": lambda: None,
        "ForMaskedLM": lambda: masked,
        "ForSequenceClassification": lambda: SequenceHead(bert_like.labels(c), act, drop, norm, bias, mean),
        "ForTokenClassification": lambda: TokenHead(bert_like.labels(c), drop, before),
        "ForQuestionAnswering": lambda: SpanHead(before),
    }


def fields(config: EncoderConfig) -> dict[str, Any] | None:
    """What config.json says of such a model, None of any other."""
    found = [layer.config for layer in layers_of(config)]
    norm = config.embed_norm
    if not isinstance(norm, LayerNormConfig) or not all(isinstance(layer, BranchesConfig) for layer in found):
        return None
    parts = [layer.parts for layer in found]
    mixers, ffns = [one.get("mixer") for one in parts], [one.get("ffn") for one in parts]
    if not all(isinstance(m, AttentionConfig) and m.rope for m in mixers) or not isinstance(ffns[0], MLPConfig):
        return None
    kinds = ["full_attention" if m.window is None else "sliding_attention" for m in mixers]
    head, reach = config.head, next((m.window - 1 for m in mixers if m.window is not None), 64)
    transform = getattr(head, "transform", None) or TransformConfig(bias=False)
    return {
        "vocab_size": config.V,
        "hidden_size": config.D,
        "intermediate_size": ffns[0].F,
        "num_hidden_layers": len(found),
        "num_attention_heads": mixers[0].H,
        "hidden_activation": ACTIVATIONS.get(ffns[0].activation, ffns[0].activation),
        "norm_eps": norm.eps,
        "norm_bias": norm.bias,
        "attention_bias": mixers[0].bias,
        "mlp_bias": ffns[0].bias,
        "local_attention": 2 * reach,
        "layer_types": kinds,
        "rope_parameters": {kind: parameters(mixers[kinds.index(kind)].rope) for kind in dict.fromkeys(kinds)},
        "decoder_bias": head.bias if isinstance(head, MaskedHead) else None,
        "tie_word_embeddings": head.tied if isinstance(head, MaskedHead) else True,
        "classifier_bias": transform.bias,
        "classifier_activation": ACTIVATIONS.get(transform.activation, transform.activation),
        "classifier_pooling": "mean" if getattr(head, "mean", False) else "cls",
    }
