"""Text to tokens and back. No JAX here.

A tokenizer has `V`, `eot`, `encode`, `encode_batch`, `encoding`, `decode`, `decode_bytes`, `save` and `fingerprint`;
see `Tokenizer`. `load_tokenizer` opens whatever a path holds.
"""

from jaxlm.text.base import Encoding, Tokenizer
from jaxlm.text.bert_files import vocab_txt_to_json
from jaxlm.text.bert_text import BertNormalizer
from jaxlm.text.bpe import BPETokenizer
from jaxlm.text.bytes import ByteTokenizer
from jaxlm.text.characters import CharacterTokenizer
from jaxlm.text.chat import builtin_template, render_chat, render_chat_spans
from jaxlm.text.conversation import chat_text, encode_chat
from jaxlm.text.fast import FastTokenizer
from jaxlm.text.gpt2_files import gpt2_files_to_json
from jaxlm.text.load import load_readable, load_tokenizer
from jaxlm.text.sentencepiece import SentencePieceTokenizer
from jaxlm.text.sentencepiece_train import train_sentencepiece
from jaxlm.text.stream import TextStream
from jaxlm.text.tiktoken import tiktoken_to_json
from jaxlm.text.unigram import UnigramTokenizer
from jaxlm.text.wordpiece import WordPieceTokenizer
from jaxlm.text.words import WordTokenizer

__all__ = [
    "BPETokenizer",
    "BertNormalizer",
    "ByteTokenizer",
    "CharacterTokenizer",
    "Encoding",
    "FastTokenizer",
    "SentencePieceTokenizer",
    "TextStream",
    "Tokenizer",
    "UnigramTokenizer",
    "WordPieceTokenizer",
    "WordTokenizer",
    "builtin_template",
    "chat_text",
    "encode_chat",
    "gpt2_files_to_json",
    "load_readable",
    "load_tokenizer",
    "render_chat",
    "render_chat_spans",
    "tiktoken_to_json",
    "train_sentencepiece",
    "vocab_txt_to_json",
]
