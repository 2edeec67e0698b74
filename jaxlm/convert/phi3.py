"""Phi-3 and Phi-3.5 (arXiv:2404.14219): Llama with joined projections and LongRoPE."""

from jaxlm.convert import rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.names import linear
from jaxlm.convert.usual import FUSED_MLP, IGNORED, NORMS, TOP, attention, layers, lm, mlp, norm
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config"]

MODEL_TYPES = {"phi3": "Phi3ForCausalLM"}
DEFAULTS = {"original_max_position_embeddings": 4096, "max_position_embeddings": 4_096}

NAMES = (
    TOP
    | NORMS
    | FUSED_MLP
    | {
        "model.layers.{}.self_attn.qkv_proj.weight": linear("mixer.q", "mixer.k", "mixer.v"),
        "model.layers.{}.self_attn.o_proj.weight": linear("mixer.o"),
    }
)


def config(c: Fields) -> LMConfig:
    mixer = attention(c, rope=rope.read(c, fraction=1.0), window=c.size("sliding_window", default=None))
    block = BlockConfig(mixer, mlp(c), norm(c, 1e-5), dropout=c.float("resid_pdrop", default=0.0))
    return lm(c, [block] * layers(c), norm=norm(c, 1e-5), dropout=c.float("embd_pdrop", default=0.0))
