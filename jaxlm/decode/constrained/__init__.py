"""Decoding within a constraint: an automaton of our own over bytes, which every tokenizer's tokens walk."""

from jaxlm.decode.constrained.constraint import Choices, Compiled, Constraint, Grammar, JsonSchema, Regex
from jaxlm.decode.constrained.generate import allow, constrained, steps
from jaxlm.decode.constrained.matching import packed

__all__ = [
    "Choices",
    "Compiled",
    "Constraint",
    "Grammar",
    "JsonSchema",
    "Regex",
    "allow",
    "constrained",
    "packed",
    "steps",
]
