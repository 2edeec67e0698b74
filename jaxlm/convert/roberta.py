"""RoBERTa (Liu et al. 2019, arXiv:1907.11692) and XLM-RoBERTa: BERT whose positions begin after that of padding."""

from jaxlm.convert import bert_like
from jaxlm.convert.fields import Fields
from jaxlm.convert.names import Names
from jaxlm.models import EncoderConfig, MaskedHead, SequenceHead, SpanHead, TokenHead

MODEL_TYPES = {
    "roberta": "RobertaForMaskedLM",
    "xlm-roberta": "XLMRobertaForMaskedLM",
    "camembert": "CamembertForMaskedLM",
}
NAMES = bert_like.body("roberta")
HEADS = {
    MaskedHead: bert_like.LM_HEAD,
    SequenceHead: bert_like.DENSE_CLASSIFIER,
    TokenHead: bert_like.CLASSIFIER,
    SpanHead: bert_like.SPANS,
}
SPELLINGS = ({"roberta.": ""},)
IGNORED = (*bert_like.IGNORED, "lm_head.*")  # of a bare encoder


def names(config: EncoderConfig) -> Names:
    return bert_like.named(NAMES, HEADS, config)


def config(c: Fields) -> EncoderConfig:
    kind = bert_like.architecture(c, MODEL_TYPES)
    return bert_like.encoder(
        c,
        positions=bert_like.positions(c, bert_like.after_padding(c)),
        head=bert_like.head(kind, c, bert_like.usual_heads(c, bert_like.masked(c), "tanh")),
        pooler=kind == "Model",
    )
