"""Qwen2 and Qwen2.5 (arXiv:2407.10671, arXiv:2412.15115): Llama with biases of q, k and v; windows in late layers."""

from jaxlm.convert import rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.usual import IGNORED, NAMES, attention, layer_types, layers, lm, mlp, norm
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config", "window", "windows"]

MODEL_TYPES = {"qwen2": "Qwen2ForCausalLM"}
DEFAULTS = {"num_key_value_heads": 32, "sliding_window": 4096, "max_position_embeddings": 32_768}


def config(c: Fields) -> LMConfig:
    mixer = lambda window: attention(c, rope=rope.read(c), window=window, bias=True)
    return lm(c, [BlockConfig(mixer(window), mlp(c), norm(c)) for window in windows(c)])


def windows(c: Fields) -> list[int | None]:
    """The window of each layer: `sliding_window`, where it is used, in layers from `max_window_layers` on."""
    size, first = window(c), c.int("max_window_layers", default=28)
    return [size if local else None for local in layer_types(c, [i >= first for i in range(layers(c))])]


def window(c: Fields) -> int | None:
    return c.size("sliding_window", default=None) if c.bool("use_sliding_window", default=False) else None
