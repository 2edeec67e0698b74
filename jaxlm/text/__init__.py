"""Text to tokens and back. No JAX here.

A tokenizer has `V`, `eot`, `encode`, `encode_batch`, `decode`, `decode_bytes`, `save` and `fingerprint`; see
`Tokenizer`. `load_tokenizer` opens whatever a path holds.
"""

from jaxlm.text.base import Tokenizer
from jaxlm.text.bytes import ByteTokenizer
from jaxlm.text.load import load_tokenizer
from jaxlm.text.sentencepiece import SentencePieceTokenizer
from jaxlm.text.stream import TextStream
from jaxlm.text.train import train_sentencepiece

__all__ = [
    "ByteTokenizer",
    "SentencePieceTokenizer",
    "TextStream",
    "Tokenizer",
    "load_tokenizer",
    "train_sentencepiece",
]
