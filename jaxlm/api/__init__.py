"""`jaxlm.load`: a trained model with its parameters and tokenizer, ready to score, to write and to be saved."""

from jaxlm.api.encoder import Classified, Encoder
from jaxlm.api.model import Generated, LanguageModel
from jaxlm.api.open import load
from jaxlm.api.seq2seq import Seq2Seq, Writing
from jaxlm.api.vision import Vision
from jaxlm.api.whisper import Whisper

__all__ = ["Classified", "Encoder", "Generated", "LanguageModel", "Seq2Seq", "Vision", "Whisper", "Writing", "load"]
