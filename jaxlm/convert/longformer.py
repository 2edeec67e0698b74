"""Longformer (Beltagy et al. 2020, arXiv:2004.05150): RoBERTa with attention within windows and to global tokens."""

from jaxlm.convert import bert_like
from jaxlm.convert.fields import Fields
from jaxlm.convert.names import Names
from jaxlm.convert.roberta import HEADS
from jaxlm.convert.usual import layers
from jaxlm.models import EncoderConfig
from jaxlm.nn import LongformerConfig, group_layers

MODEL_TYPES = {"longformer": "LongformerForMaskedLM"}
SELF = "longformer.encoder.layer.{}.attention.self"
NAMES = {
    **bert_like.body("longformer"),
    **bert_like.projection(f"{SELF}.query_global", "mixer.q_global"),
    **bert_like.projection(f"{SELF}.key_global", "mixer.k_global"),
    **bert_like.projection(f"{SELF}.value_global", "mixer.v_global"),
}
SPELLINGS = ({"longformer.": ""},)
IGNORED = (*bert_like.IGNORED, "lm_head.*")  # of a bare encoder


def names(config: EncoderConfig) -> Names:
    return bert_like.named(NAMES, HEADS, config)


def config(c: Fields) -> EncoderConfig:
    kind, N = bert_like.architecture(c, MODEL_TYPES), layers(c)
    windows = c.get("attention_window", default=512)
    windows = windows if isinstance(windows, list) else [windows] * N
    if len(windows) != N or not all(type(w) is int and w >= 2 and w % 2 == 0 for w in windows):
        raise c.error("attention_window", f"must be an even number, or one for each of {N} layers")
    of_window = {w: bert_like.block(c, LongformerConfig(**bert_like.heads(c), reach=w // 2)) for w in {*windows}}
    return bert_like.encoder(
        c,
        layers=group_layers([of_window[w] for w in windows]),
        positions=bert_like.positions(c, bert_like.after_padding(c)),
        head=bert_like.head(kind, c, bert_like.usual_heads(c, bert_like.masked(c), "tanh")),
        pooler=kind == "Model",
    )
