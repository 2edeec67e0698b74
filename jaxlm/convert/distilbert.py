"""DistilBERT (Sanh et al. 2019, arXiv:1910.01108): half of BERT's layers, one kind of token, no pooler."""

from jaxlm.convert import bert_like
from jaxlm.convert.fields import Fields
from jaxlm.convert.names import Names, linear, same
from jaxlm.convert.usual import activation, layers
from jaxlm.models import EncoderConfig, MaskedHead, SequenceHead, SpanHead, TokenHead
from jaxlm.nn import AttentionConfig, BlockConfig, LayerNormConfig, MLPConfig, group_layers

MODEL_TYPES = {"distilbert": "DistilBertForMaskedLM"}
EPS = 1e-12
LAYER = "distilbert.transformer.layer.{}"
NAMES = {
    **bert_like.embeddings("distilbert.embeddings"),
    **bert_like.projection(f"{LAYER}.attention.q_lin", "mixer.q"),
    **bert_like.projection(f"{LAYER}.attention.k_lin", "mixer.k"),
    **bert_like.projection(f"{LAYER}.attention.v_lin", "mixer.v"),
    **bert_like.affine(f"{LAYER}.attention.out_lin", "mixer.o"),
    **bert_like.norm(f"{LAYER}.sa_layer_norm", "norm1_sum"),
    **bert_like.affine(f"{LAYER}.ffn.lin1", "ffn.up"),
    **bert_like.affine(f"{LAYER}.ffn.lin2", "ffn.down"),
    **bert_like.norm(f"{LAYER}.output_layer_norm", "norm2_sum"),
}
HEADS = {
    MaskedHead: {
        **bert_like.affine("vocab_transform", "transform"),
        **bert_like.norm("vocab_layer_norm", "transform_norm"),
        "vocab_projector.weight": linear("head"),
        "vocab_projector.bias": same("head_bias"),
    },
    SequenceHead: bert_like.affine("pre_classifier", "transform") | bert_like.CLASSIFIER,
    TokenHead: bert_like.CLASSIFIER,
    SpanHead: bert_like.SPANS,
}
SPELLINGS = ({"distilbert.": ""},)
IGNORED = (*bert_like.IGNORED, "vocab_*")  # of a bare encoder


def names(config: EncoderConfig) -> Names:
    return bert_like.named(NAMES, HEADS, config)


def config(c: Fields) -> EncoderConfig:
    D, H = c.size("dim", "hidden_size", default=768), c.size("n_heads", "num_attention_heads", default=12)
    if D % H:
        raise c.error("n_heads", f"{H} does not divide dim {D}")
    norm, act, dropout = LayerNormConfig(EPS), activation(c, "activation", "gelu"), c.float("dropout", default=0.1)
    mixer = AttentionConfig(
        H,
        D // H,
        rope=None,
        causal=False,
        bias=True,
        bias_out=True,
        dropout=c.float("attention_dropout", default=0.1),
    )
    ffn = MLPConfig(c.size("hidden_dim", default=4 * D), act, gated=False, bias=True)
    masked = MaskedHead(act, norm, tied=c.bool("tie_word_embeddings", default=True))
    heads = bert_like.usual_heads(c, masked, "relu") | {
        "ForSequenceClassification": lambda: SequenceHead(
            bert_like.labels(c), "relu", c.float("seq_classif_dropout", default=0.2)
        )
    }
    return EncoderConfig(
        V=c.size("vocab_size"),
        D=D,
        layers=group_layers(
            [BlockConfig(mixer, ffn, norm=None, norm_sum=norm, dropout=dropout)]
            * layers(c, "n_layers", "num_hidden_layers")
        ),
        positions=bert_like.positions(c),
        embed_norm=norm,
        head=bert_like.head(bert_like.architecture(c, MODEL_TYPES), c, heads),
        dropout=dropout,
    )
