"""Marian's translators (Junczys-Dowmunt et al. 2018, arXiv:1804.00344; OPUS-MT): the original Transformer, whose
sinusoids have all sines before all cosines, with a bias of the logits."""

from jaxlm.convert.bart import IGNORED as OF_BART
from jaxlm.convert.bart import NAMES, SPELLINGS, model
from jaxlm.convert.fields import Fields
from jaxlm.convert.usual import activation
from jaxlm.models import Seq2SeqConfig
from jaxlm.nn import SinusoidalConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "SPELLINGS", "config"]

MODEL_TYPES = {"marian": "MarianMTModel"}
DEFAULTS = {"share_encoder_decoder_embeddings": True}
IGNORED = (*OF_BART, "*embed_positions.weight")  # the sinusoids


def config(c: Fields) -> Seq2SeqConfig:
    if not c.bool("share_encoder_decoder_embeddings"):
        raise c.error("share_encoder_decoder_embeddings", "false is not supported: both sides share one table here")
    return model(c, False, activation(c, "activation_function", "gelu"), positions=SinusoidalConfig(halves=True))
