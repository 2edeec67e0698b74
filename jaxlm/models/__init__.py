"""Composition of modules into models; families and sizes are configs."""

from jaxlm.models.electra import Electra, ElectraConfig
from jaxlm.models.encoder import Encoded, Encoder, EncoderConfig
from jaxlm.models.heads import HeadConfig, MaskedHead, ReplacedHead, SequenceHead, SpanHead, TokenHead, TransformConfig
from jaxlm.models.lm import LM, LMConfig
from jaxlm.models.memory import MemoryConfig
from jaxlm.models.model import Layer, ModelConfig, Output, abstract, blocks, forward, home, init_boxed, layers, logits
from jaxlm.models.seq2seq import Seq2Seq, Seq2SeqConfig
from jaxlm.models.vit import ViT, ViTConfig, vit
from jaxlm.models.whisper import whisper
from jaxlm.models.with_head import WithHead

__all__ = [
    "LM",
    "Electra",
    "ElectraConfig",
    "Encoded",
    "Encoder",
    "EncoderConfig",
    "HeadConfig",
    "LMConfig",
    "Layer",
    "MaskedHead",
    "MemoryConfig",
    "ModelConfig",
    "Output",
    "ReplacedHead",
    "Seq2Seq",
    "Seq2SeqConfig",
    "SequenceHead",
    "SpanHead",
    "TokenHead",
    "TransformConfig",
    "ViT",
    "ViTConfig",
    "WithHead",
    "abstract",
    "blocks",
    "forward",
    "home",
    "init_boxed",
    "layers",
    "logits",
    "vit",
    "whisper",
]
