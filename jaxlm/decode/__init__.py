"""Decoding: caches, samplers, generation."""

from jaxlm.decode.checks import check_length, check_mask, check_tokens, left_pad
from jaxlm.decode.generate import decode, generate
from jaxlm.decode.layout import prepare
from jaxlm.decode.penalties import RepetitionPenalty
from jaxlm.decode.prefill import prefill
from jaxlm.decode.sampling import (
    Chain,
    Choice,
    Greedy,
    MinP,
    Sampler,
    Temperature,
    TopK,
    TopP,
    VocabularyMask,
    checked,
    within,
)
from jaxlm.decode.state import DecodeState, results

__all__ = [
    "Chain",
    "Choice",
    "DecodeState",
    "Greedy",
    "MinP",
    "RepetitionPenalty",
    "Sampler",
    "Temperature",
    "TopK",
    "TopP",
    "VocabularyMask",
    "check_length",
    "check_mask",
    "check_tokens",
    "checked",
    "decode",
    "generate",
    "left_pad",
    "prefill",
    "prepare",
    "results",
    "within",
]
