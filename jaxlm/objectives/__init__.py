"""What a batch asks of a model."""

from jaxlm.objectives.answers import Answers
from jaxlm.objectives.classify import Classify, TagTokens
from jaxlm.objectives.contrastive import Contrastive
from jaxlm.objectives.denoising import Denoising
from jaxlm.objectives.distil import Distil
from jaxlm.objectives.masked_pairs import MaskedPairs
from jaxlm.objectives.masked_tokens import MaskedTokens
from jaxlm.objectives.next_token import NextToken
from jaxlm.objectives.objective import Batch, Objective, Spec, Sums
from jaxlm.objectives.policy import Policy
from jaxlm.objectives.preference import CPO, DPO, KTO, ORPO, SimPO
from jaxlm.objectives.replaced_tokens import ReplacedTokens
from jaxlm.objectives.reward import BradleyTerry, ProcessReward
from jaxlm.objectives.sequence_to_sequence import SequenceToSequence
from jaxlm.objectives.spans import SpanCorruption

__all__ = [
    "CPO",
    "DPO",
    "KTO",
    "ORPO",
    "Answers",
    "Batch",
    "BradleyTerry",
    "Classify",
    "Contrastive",
    "Denoising",
    "Distil",
    "MaskedPairs",
    "MaskedTokens",
    "NextToken",
    "Objective",
    "Policy",
    "ProcessReward",
    "ReplacedTokens",
    "SequenceToSequence",
    "SimPO",
    "SpanCorruption",
    "Spec",
    "Sums",
    "TagTokens",
]
