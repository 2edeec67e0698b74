"""Text to tokens and back. No JAX here.

A tokenizer has `V`, `eot`, `encode`, `encode_batch`, `encoding`, `decode`, `decode_bytes`, `save` and `fingerprint`;
see `Tokenizer`. `load_tokenizer` opens whatever a path holds.
"""

from jaxlm.text.base import Encoding, Tokenizer
from jaxlm.text.bytes import ByteTokenizer
from jaxlm.text.chat.conversation import chat_text, encode_chat
from jaxlm.text.chat.template import builtin_template, render_chat, render_chat_spans
from jaxlm.text.formats.bert_files import vocab_txt_to_json
from jaxlm.text.formats.fast import FastTokenizer
from jaxlm.text.formats.gpt2_files import gpt2_files_to_json
from jaxlm.text.formats.sentencepiece import SentencePieceTokenizer
from jaxlm.text.formats.sentencepiece_train import train_sentencepiece
from jaxlm.text.formats.tiktoken import tiktoken_to_json
from jaxlm.text.load import load_readable, load_tokenizer
from jaxlm.text.readable.bert_text import BertNormalizer
from jaxlm.text.readable.bpe import BPETokenizer
from jaxlm.text.readable.characters import CharacterTokenizer
from jaxlm.text.readable.unigram import UnigramTokenizer
from jaxlm.text.readable.wordpiece import WordPieceTokenizer
from jaxlm.text.readable.words import WordTokenizer
from jaxlm.text.stream import TextStream

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
