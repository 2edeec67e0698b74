"""Models of no family: a layout of our own in Hugging Face's files, which `jaxlm.load` opens.

config.json has model_type "jaxlm" and, under "config", the model's config as a run saves it; every tensor is a weight
of ours as it lies in memory: "embed.table", "layers.3.mixer.q" (of layer 3), "norm.scale".
"""

from typing import Any

from jaxlm.config import from_dict, to_dict
from jaxlm.convert.fields import Fields
from jaxlm.convert.names import Rule, apart, same
from jaxlm.models import ModelConfig, blocks

MODEL_TYPE = "jaxlm"
MODEL_TYPES = {MODEL_TYPE: None}  # transformers has no class for it


def config(c: Fields) -> ModelConfig:
    found = from_dict(c.section("config").values)
    if not isinstance(found, ModelConfig):
        raise c.error("config", f"must describe a model, not a {type(found).__name__}")
    return found


def fields(config: ModelConfig) -> dict[str, Any]:
    """What config.json says of the model."""
    return {"config": to_dict(config)}


def names(config: ModelConfig) -> dict[str, Rule]:
    """A line for each weight that the model, or any layer of it, has."""
    top, layers = apart(config)
    found = {".".join(weight.key): same(".".join(weight.key)) for weight in top}
    stacks = {layer.path(): layer.stack for layer in blocks(config).values()}
    inside = dict.fromkeys((stacks[path], w.key[len(path) :]) for path, weights in layers.items() for w in weights)
    return found | {".".join((*stack, "layers.{}", *key)): same(".".join((*stack, *key))) for stack, key in inside}
