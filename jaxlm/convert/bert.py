"""BERT (Devlin et al. 2019, arXiv:1810.04805): learned positions, two kinds of token, norms after each sum."""

from jaxlm.convert import bert_like
from jaxlm.convert.fields import Fields
from jaxlm.convert.names import Names, linear, same
from jaxlm.convert.usual import activation
from jaxlm.models import EncoderConfig, MaskedHead, SequenceHead, SpanHead, TokenHead

MODEL_TYPES = {"bert": "BertForMaskedLM"}
NAMES = bert_like.body("bert") | {
    "cls.seq_relationship.weight": linear("next_sentence"),
    "cls.seq_relationship.bias": same("next_sentence_bias"),
}
HEADS = {
    MaskedHead: bert_like.CLS,
    SequenceHead: bert_like.CLASSIFIER,
    TokenHead: bert_like.CLASSIFIER,
    SpanHead: bert_like.SPANS,
}
SPELLINGS = ({"bert.": ""}, bert_like.OLD_NORMS, {"bert.": "", **bert_like.OLD_NORMS})
IGNORED = (*bert_like.IGNORED, "cls.*")  # heads that a bare encoder's file may still have


def names(config: EncoderConfig) -> Names:
    return bert_like.named(NAMES, HEADS, config)


def config(c: Fields) -> EncoderConfig:
    kind = bert_like.architecture(c, MODEL_TYPES)
    masked = bert_like.masked(c, activation(c, "hidden_act", "gelu"))
    heads = bert_like.usual_heads(c, masked, None) | {"ForNextSentencePrediction": lambda: None}
    both = kind in ("ForPreTraining", "ForNextSentencePrediction")
    return bert_like.encoder(
        c,
        positions=bert_like.positions(c),
        head=bert_like.head(kind, c, heads),
        pooler=both or kind in ("Model", "ForSequenceClassification"),
        next_sentence=both,
    )
