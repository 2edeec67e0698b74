"""MiniMax M2 (2025): queries and keys normed over all heads, part of each head rotated, many experts chosen by sigmoids
and a term that balances them."""

from jaxlm.convert import rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.names import flat, linear, same
from jaxlm.convert.usual import ATTENTION, IGNORED, NORMS, TOP, activation, attention, layers, lm, norm
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig, MoEConfig, QKNormConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config"]

MODEL_TYPES = {"minimax_m2": "MiniMaxM2ForCausalLM"}
DEFAULTS = {"num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 196_608}
MOE = "model.layers.{}.block_sparse_moe"
NAMES = (
    TOP
    | ATTENTION
    | NORMS
    | {
        "model.layers.{}.self_attn.q_norm.weight": flat("mixer.q_norm.scale"),
        "model.layers.{}.self_attn.k_norm.weight": flat("mixer.k_norm.scale"),
        f"{MOE}.gate.weight": linear("ffn.router"),
        f"{MOE}.e_score_correction_bias": same("ffn.balance"),
        f"{MOE}.experts.{{e}}.w1.weight": linear("ffn.gate"),
        f"{MOE}.experts.{{e}}.w3.weight": linear("ffn.up"),
        f"{MOE}.experts.{{e}}.w2.weight": linear("ffn.down"),
    }
)
IGNORED = (*IGNORED, "model.layers.{}.*")


def config(c: Fields) -> LMConfig:
    turned = c.size("rotary_dim", default=None)
    K = c.size("head_dim")
    fraction = 1.0 if turned is None else turned / K
    joint = QKNormConfig(norm(c), joint=True) if c.bool("use_qk_norm", default=True) else None
    mixer = attention(c, rope=rope.read(c, base=5e6, fraction=fraction), qk_norm=joint)
    experts = MoEConfig(
        E=c.size("num_local_experts", "num_experts", default=256),
        top_k=c.size("num_experts_per_tok", default=8),
        F=c.size("intermediate_size"),
        activation=activation(c, "hidden_act", "silu"),
        score=c.one_of("scoring_func", among={"sigmoid": "sigmoid"}, default="sigmoid"),
        score_correction_bias=True,
    )
    return lm(c, [BlockConfig(mixer, experts, norm(c))] * layers(c))
