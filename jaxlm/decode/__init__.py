"""Decoding: caches, samplers, generation."""

from jaxlm.decode.generate import (
    check_length,
    check_mask,
    check_tokens,
    decode,
    generate,
    left_pad,
    prefill,
    prepare,
    results,
)
from jaxlm.decode.sampling import Chain, Greedy, Known, MinP, Sampler, Temperature, TopK, TopP, checked

__all__ = [
    "Chain",
    "Greedy",
    "Known",
    "MinP",
    "Sampler",
    "Temperature",
    "TopK",
    "TopP",
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
]
