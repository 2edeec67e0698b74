"""Published sizes of Whisper (Radford et al. 2022, arXiv:2212.04356), an encoder-decoder that reads frames of sound."""

from typing import Any

from jaxlm.errors import unknown
from jaxlm.models.seq2seq import Seq2SeqConfig
from jaxlm.nn import (
    AttentionConfig,
    BlockConfig,
    BranchConfig,
    BranchesConfig,
    CrossAttentionConfig,
    FramesConfig,
    LayerNormConfig,
    LayersConfig,
    LearnedConfig,
    MLPConfig,
)

ENGLISH, MANY, MORE = 51_864, 51_865, 51_866  # vocabularies: of English alone, of 99 languages, of 100
SIZES: dict[str, tuple[int, int, int, int, int]] = {  # D, layers of encoder and decoder, V, mel bands
    "tiny": (384, 4, 4, MANY, 80),
    "base": (512, 6, 6, MANY, 80),
    "small": (768, 12, 12, MANY, 80),
    "medium": (1024, 24, 24, MANY, 80),
    "large": (1280, 32, 32, MANY, 80),
    "large-v3": (1280, 32, 32, MORE, 128),
    "turbo": (1280, 32, 4, MORE, 128),
}


def whisper(size: str, **more: Any) -> Seq2SeqConfig:
    """A published size, such as whisper("tiny") or, of English alone, whisper("tiny.en"): heads of width 64, pre-norm
    layers with biases but for keys. `more` are other fields of the config. Raises UserError for an unknown size.
    """
    name = size.removesuffix(".en")
    if name not in SIZES or (name != size and name.startswith(("large", "turbo"))):
        raise unknown("size", size, [*SIZES, *(f"{n}.en" for n in list(SIZES)[:4])])
    D, encoder, decoder, V, bands = SIZES[name]
    heads: dict[str, Any] = {"H": D // 64, "K": 64, "bias": True, "bias_k": False, "bias_out": True}
    norm, ffn = LayerNormConfig(), MLPConfig(4 * D, "gelu", gated=False, bias=True)
    parts = {"attention": AttentionConfig(**heads, rope=None), "cross": CrossAttentionConfig(**heads), "ffn": ffn}
    usual: dict[str, Any] = {"source": FramesConfig(bands, 1500), "positions": LearnedConfig(448), "norm": norm}
    return Seq2SeqConfig(
        ENGLISH if name != size else V,
        D,
        (LayersConfig((BlockConfig(AttentionConfig(**heads, rope=None, causal=False), ffn, norm),), encoder),),
        (LayersConfig((BranchesConfig(tuple(BranchConfig(n, of, norm) for n, of in parts.items())),), decoder),),
        **usual | more,
    )
