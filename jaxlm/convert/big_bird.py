"""BigBird (Zaheer et al. 2020, arXiv:2007.14062): BERT with block-sparse attention, or its full form."""

from jaxlm.convert import bert_like
from jaxlm.convert.fields import Fields
from jaxlm.convert.names import Names, linear, same
from jaxlm.convert.usual import activation, layers
from jaxlm.models import EncoderConfig, MaskedHead, SequenceHead, SpanHead, TokenHead
from jaxlm.nn import BigBirdConfig, MLPConfig, group_layers

MODEL_TYPES = {"big_bird": "BigBirdForMaskedLM"}
NAMES = {
    **bert_like.body("bert"),
    **bert_like.affine("bert.pooler", "pooler"),
    "cls.seq_relationship.weight": linear("next_sentence"),
    "cls.seq_relationship.bias": same("next_sentence_bias"),
}
del NAMES["bert.pooler.dense.weight"], NAMES["bert.pooler.dense.bias"]
HEADS = {
    MaskedHead: bert_like.CLS,
    SequenceHead: bert_like.DENSE_CLASSIFIER,
    TokenHead: bert_like.CLASSIFIER,
    SpanHead: {
        **bert_like.affine("qa_classifier.intermediate.dense", "head_ffn.up"),
        **bert_like.affine("qa_classifier.output.dense", "head_ffn.down"),
        **bert_like.norm("qa_classifier.output.LayerNorm", "transform_norm"),
        **bert_like.affine("qa_classifier.qa_outputs", "head"),
    },
}
SPELLINGS = ({"bert.": ""},)
IGNORED = (*bert_like.IGNORED, "cls.*")  # of a bare encoder


def names(config: EncoderConfig) -> Names:
    return bert_like.named(NAMES, HEADS, config)


def config(c: Fields) -> EncoderConfig:
    kind, act = bert_like.architecture(c, MODEL_TYPES), activation(c, "hidden_act", "gelu_new")
    heads = bert_like.usual_heads(c, bert_like.masked(c, act), act)
    ffn = MLPConfig(c.size("intermediate_size"), act, gated=False, bias=True)
    heads["ForQuestionAnswering"] = lambda: SpanHead(ffn=ffn, norm=bert_like.norm_config(c))
    if not c.bool("use_bias", default=True):
        raise c.error("use_bias", "is false: only attention with biases is read")
    kinds = {"block_sparse": True, "original_full": False}
    sparse = c.one_of("attention_type", among=kinds, default="block_sparse")
    blocks = {"C": c.size("block_size", default=64), "random": c.int("num_random_blocks", default=3)}
    mixer = BigBirdConfig(**bert_like.heads(c), **blocks) if sparse else bert_like.attention(c)
    return bert_like.encoder(
        c,
        layers=group_layers([bert_like.block(c, mixer, act)] * layers(c)),
        positions=bert_like.positions(c),
        embed_scale=c.size("hidden_size") ** 0.5 if c.bool("rescale_embeddings", default=False) else 1.0,
        head=bert_like.head(kind, c, heads),
        pooler=kind in ("Model", "ForPreTraining", "ForSequenceClassification"),
        next_sentence=kind == "ForPreTraining",
    )
