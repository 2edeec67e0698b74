"""ALBERT (Lan et al. 2019, arXiv:1909.11942): one layer's weights for all layers, and narrow embeddings."""

from jaxlm.convert import bert_like
from jaxlm.convert.fields import Fields
from jaxlm.convert.names import Names, linear, same
from jaxlm.convert.usual import activation, layers
from jaxlm.models import EncoderConfig, MaskedHead, SequenceHead, SpanHead, TokenHead
from jaxlm.nn import SharedConfig, group_layers

MODEL_TYPES = {"albert": "AlbertForMaskedLM"}
LAYER = "albert.encoder.albert_layer_groups.{}.albert_layers.0"
NAMES = {
    **bert_like.embeddings("albert.embeddings"),
    **bert_like.affine("albert.encoder.embedding_hidden_mapping_in", "embed_in"),
    **bert_like.projection(f"{LAYER}.attention.query", "layer.mixer.q"),
    **bert_like.projection(f"{LAYER}.attention.key", "layer.mixer.k"),
    **bert_like.projection(f"{LAYER}.attention.value", "layer.mixer.v"),
    **bert_like.affine(f"{LAYER}.attention.dense", "layer.mixer.o"),
    **bert_like.norm(f"{LAYER}.attention.LayerNorm", "layer.norm1_sum"),
    **bert_like.affine(f"{LAYER}.ffn", "layer.ffn.up"),
    **bert_like.affine(f"{LAYER}.ffn_output", "layer.ffn.down"),
    **bert_like.norm(f"{LAYER}.full_layer_layer_norm", "layer.norm2_sum"),
    **bert_like.affine("albert.pooler", "pooler"),
    **bert_like.affine("sop_classifier.classifier", "next_sentence"),
}
HEADS = {
    MaskedHead: {
        **bert_like.affine("predictions.dense", "transform"),
        **bert_like.norm("predictions.LayerNorm", "transform_norm"),
        "predictions.decoder.weight": linear("head"),
        "predictions.bias": same("head_bias"),
    },
    SequenceHead: bert_like.CLASSIFIER,
    TokenHead: bert_like.CLASSIFIER,
    SpanHead: bert_like.SPANS,
}
SPELLINGS = ({"albert.": ""},)
IGNORED = (*bert_like.IGNORED, "predictions.*", "sop_classifier.*")  # of a bare encoder


def names(config: EncoderConfig) -> Names:
    return bert_like.named(NAMES, HEADS, config)


def config(c: Fields) -> EncoderConfig:
    kind, N, groups = bert_like.architecture(c, MODEL_TYPES), layers(c), c.size("num_hidden_groups", default=1)
    if N % groups:
        raise c.error("num_hidden_groups", f"{groups} does not divide num_hidden_layers {N}")
    if (inner := c.size("inner_group_num", default=1)) != 1:
        raise c.error("inner_group_num", f"is {inner}: only groups of one layer are read")
    act, drop = activation(c, "hidden_act", "gelu_new"), c.float("classifier_dropout_prob", default=0.1)
    heads = bert_like.usual_heads(c, bert_like.masked(c, act), None) | {
        "ForSequenceClassification": lambda: SequenceHead(bert_like.labels(c), None, drop)
    }
    layer = bert_like.block(c, bert_like.attention(c), act)
    return bert_like.encoder(
        c,
        layers=group_layers([SharedConfig(layer, N // groups)] * groups),
        positions=bert_like.positions(c),
        embed_width=c.size("embedding_size", default=128),
        head=bert_like.head(kind, c, heads),
        pooler=kind in ("Model", "ForPreTraining", "ForSequenceClassification"),
        next_sentence=kind == "ForPreTraining",
    )
