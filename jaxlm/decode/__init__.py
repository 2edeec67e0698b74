"""Decoding: caches, samplers, generation."""

from jaxlm.decode.beam import Beam, Texts, beam_search
from jaxlm.decode.candidates import candidates
from jaxlm.decode.checks import check_length, check_mask, check_tokens, left_pad, longest
from jaxlm.decode.constrained import Choices, Compiled, Constraint, Grammar, JsonSchema, Regex, constrained
from jaxlm.decode.contrastive import Contrastive, contrastive_search
from jaxlm.decode.cutoffs import Epsilon, Eta, Mirostat, Typical
from jaxlm.decode.drafts import Draft, Lookup, early_layers
from jaxlm.decode.engine import Engine, Full
from jaxlm.decode.forced import Allowed, Banned, Forced, LogitBias, MinLength
from jaxlm.decode.generate import decode, generate
from jaxlm.decode.layout import prepare
from jaxlm.decode.penalties import CountPenalty, NoRepeatNgram, RepetitionPenalty
from jaxlm.decode.per_row import PerRow, in_order
from jaxlm.decode.plain_beam import explain, plain_beam_search
from jaxlm.decode.prefill import prefill
from jaxlm.decode.request import Finish, Job, Token
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
    parted,
    within,
)
from jaxlm.decode.speculative import speculative
from jaxlm.decode.state import DecodeState, results
from jaxlm.decode.timestamps import Timestamps

__all__ = [
    "Allowed",
    "Banned",
    "Beam",
    "Chain",
    "Choice",
    "Choices",
    "Compiled",
    "Constraint",
    "Contrastive",
    "CountPenalty",
    "DecodeState",
    "Draft",
    "Engine",
    "Epsilon",
    "Eta",
    "Finish",
    "Forced",
    "Full",
    "Grammar",
    "Greedy",
    "Job",
    "JsonSchema",
    "LogitBias",
    "Lookup",
    "MinLength",
    "MinP",
    "Mirostat",
    "NoRepeatNgram",
    "PerRow",
    "Regex",
    "RepetitionPenalty",
    "Sampler",
    "Temperature",
    "Texts",
    "Timestamps",
    "Token",
    "TopK",
    "TopP",
    "Typical",
    "VocabularyMask",
    "beam_search",
    "candidates",
    "check_length",
    "check_mask",
    "check_tokens",
    "checked",
    "constrained",
    "contrastive_search",
    "decode",
    "early_layers",
    "explain",
    "generate",
    "in_order",
    "left_pad",
    "longest",
    "parted",
    "plain_beam_search",
    "prefill",
    "prepare",
    "results",
    "speculative",
    "within",
]
