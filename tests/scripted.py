"""A language model that writes what it is told, for tests of what happens around a model."""

from collections.abc import Sequence

import jax
import numpy as np

from jaxlm.api import LanguageModel
from jaxlm.models import LM, LMConfig
from jaxlm.nn import AttentionConfig, BlockConfig, LayersConfig, LearnedConfig, MLPConfig
from jaxlm.text import ByteTokenizer, Tokenizer
from tests.weights import weights

LENGTH = 128
CONFIG = LMConfig(
    V=264,  # some rows more than a byte tokenizer has tokens
    D=LENGTH,
    layers=(LayersConfig((BlockConfig(AttentionConfig(H=1, K=2, rope=None), MLPConfig(F=2)),)),),
    positions=LearnedConfig(LENGTH),
    tied=False,
)


def scripted(ids: Sequence[int] | bytes, tokenizer: Tokenizer | None = ByteTokenizer()) -> LanguageModel:
    """Writes ids[p] after any token at position p, and goes round; an empty prompt is one token, at position 0."""
    params = jax.tree.map(np.zeros_like, weights(LM(CONFIG), np.zeros((1, 1), np.int32)))
    params["positions"]["table"] += np.eye(LENGTH)
    params["norm"]["scale"] += 1
    for p in range(LENGTH):
        params["head"][ids[p % len(ids)], p] = 10  # 113 after the norm: as good as certain
    return LanguageModel(CONFIG, params, tokenizer)
