"""Decoding: caches, samplers, generation."""

from jaxlm.decode.generate import decode, generate, left_pad, prefill, prepare, results
from jaxlm.decode.sampling import Chain, Greedy, Known, MinP, Sampler, Temperature, TopK, TopP

__all__ = [
    "Chain",
    "Greedy",
    "Known",
    "MinP",
    "Sampler",
    "Temperature",
    "TopK",
    "TopP",
    "decode",
    "generate",
    "left_pad",
    "prefill",
    "prepare",
    "results",
]
