"""VaultGemma (arXiv:2510.15001), trained with differential privacy: Gemma 2 without norms of what branches give."""

import dataclasses

from jaxlm.convert import gemma2
from jaxlm.convert.fields import Fields
from jaxlm.convert.gemma2 import DEFAULTS, IGNORED
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig, group_layers

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config"]

MODEL_TYPES = {"vaultgemma": "VaultGemmaForCausalLM"}
NAMES = {name: rule for name, rule in gemma2.NAMES.items() if "_out." not in rule.paths[0]}


def config(c: Fields) -> LMConfig:
    base = gemma2.config(c)
    blocks = [block for group in base.layers for _ in range(group.repeat) for block in group.blocks]
    plain = [dataclasses.replace(block, norm_out=None) for block in blocks if isinstance(block, BlockConfig)]
    return dataclasses.replace(base, layers=group_layers(plain))
