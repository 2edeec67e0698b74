"""EXAONE 4 (arXiv:2507.11407): what branches give is normed, as are queries and keys; global layers among local ones
have no positions."""

from jaxlm.convert import olmo2, rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.usual import ATTENTION, IGNORED, attention, layer_types, layers, lm, mlp, norm
from jaxlm.models import LMConfig
from jaxlm.nn import AttentionConfig, BlockConfig, QKNormConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config", "mixers"]

MODEL_TYPES = {"exaone4": "Exaone4ForCausalLM"}
DEFAULTS = {"num_key_value_heads": 32, "sliding_window": 4096, "max_position_embeddings": 2_048}
NAMES = olmo2.NAMES | ATTENTION


def config(c: Fields) -> LMConfig:
    after = norm(c, 1e-5)
    return lm(c, [BlockConfig(mixer, mlp(c), norm=None, norm_out=after) for mixer in mixers(c)], norm=after)


def mixers(c: Fields) -> list[AttentionConfig]:
    """Of each layer. Files say the pattern as a number, or as letters such as "LLLG"."""
    given, window = c.get("sliding_window_pattern", default=4), c.size("sliding_window", default=None)
    if isinstance(given, str) and given and set(given) <= {"L", "G"}:
        pattern = [letter == "L" for letter in given]
    else:
        every = 1 if window is None else c.size("sliding_window_pattern", default=4)
        pattern = [True] * (every - 1) + [False]
    local = layer_types(c, [window is not None and pattern[i % len(pattern)] for i in range(layers(c))])
    return [
        attention(
            c,
            rope=rope.read(c) if one or window is None else None,
            window=window if one else None,
            qk_norm=QKNormConfig(norm(c, 1e-5)),
        )
        for one in local
    ]
