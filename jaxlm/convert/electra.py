"""ELECTRA (Clark et al. 2020, arXiv:2003.10555): BERT with embeddings narrower than the layers, which tells replaced
tokens from real ones; the generator that replaces them restores hidden tokens."""

from jaxlm.convert import bert_like
from jaxlm.convert.fields import Fields
from jaxlm.convert.names import Names, linear, same
from jaxlm.convert.usual import activation
from jaxlm.models import EncoderConfig, MaskedHead, ReplacedHead, SequenceHead, SpanHead, TokenHead

MODEL_TYPES = {"electra": "ElectraForMaskedLM"}
NAMES = bert_like.body("electra") | bert_like.affine("electra.embeddings_project", "embed_in")
HEADS = {
    MaskedHead: {
        **bert_like.affine("generator_predictions.dense", "transform"),
        **bert_like.norm("generator_predictions.LayerNorm", "transform_norm"),
        "generator_lm_head.weight": linear("head"),
        "generator_lm_head.bias": same("head_bias"),
    },
    ReplacedHead: {
        **bert_like.affine("discriminator_predictions.dense", "transform"),
        **bert_like.affine("discriminator_predictions.dense_prediction", "head"),
    },
    SequenceHead: bert_like.DENSE_CLASSIFIER,
    TokenHead: bert_like.CLASSIFIER,
    SpanHead: bert_like.SPANS,
}
SPELLINGS = ({"electra.": ""},)
IGNORED = (*bert_like.IGNORED, "generator_*", "discriminator_predictions.*")  # of a bare encoder


def names(config: EncoderConfig) -> Names:
    return bert_like.named(NAMES, HEADS, config)


def config(c: Fields) -> EncoderConfig:
    act, width = activation(c, "hidden_act", "gelu"), c.size("embedding_size", default=c.size("hidden_size"))
    heads = bert_like.usual_heads(c, bert_like.masked(c), "gelu") | {"ForPreTraining": lambda: ReplacedHead(act)}
    return bert_like.encoder(
        c,
        positions=bert_like.positions(c),
        embed_width=None if width == c.size("hidden_size") else width,
        head=bert_like.head(bert_like.architecture(c, MODEL_TYPES), c, heads),
    )
