"""What a batch asks of a model."""

from jaxlm.objectives.answers import Answers
from jaxlm.objectives.classify import Classify
from jaxlm.objectives.denoising import Denoising
from jaxlm.objectives.masked_tokens import MaskedTokens
from jaxlm.objectives.next_token import NextToken
from jaxlm.objectives.objective import Batch, Objective, Spec, Sums
from jaxlm.objectives.sequence_to_sequence import SequenceToSequence
from jaxlm.objectives.spans import SpanCorruption

__all__ = [
    "Answers",
    "Batch",
    "Classify",
    "Denoising",
    "MaskedTokens",
    "NextToken",
    "Objective",
    "SequenceToSequence",
    "SpanCorruption",
    "Spec",
    "Sums",
]
