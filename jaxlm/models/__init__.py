"""Composition of modules into models; families and sizes are configs."""

from jaxlm.models.encoder import Encoder, EncoderConfig
from jaxlm.models.lm import LM, LMConfig
from jaxlm.models.model import Layer, ModelConfig, Output, abstract, blocks, forward, home, init_boxed, layers, logits
from jaxlm.models.seq2seq import Seq2Seq, Seq2SeqConfig

__all__ = [
    "LM",
    "Encoder",
    "EncoderConfig",
    "LMConfig",
    "Layer",
    "ModelConfig",
    "Output",
    "Seq2Seq",
    "Seq2SeqConfig",
    "abstract",
    "blocks",
    "forward",
    "home",
    "init_boxed",
    "layers",
    "logits",
]
