"""DBRX (Databricks 2024): joined and clipped projections, layer norms without biases, sixteen experts of which four."""

from jaxlm.convert import rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.names import Rows, Weight, linear, same
from jaxlm.convert.usual import activation, layers
from jaxlm.models import LMConfig
from jaxlm.nn import AttentionConfig, BlockConfig, LayerNormConfig, MoEConfig, group_layers

MODEL_TYPES = {"dbrx": "DbrxForCausalLM"}
LAYER = "transformer.blocks.{}"


class Below(Rows):
    """All experts' matrices one below the other."""

    def shape(self, weights: tuple[Weight, ...]) -> tuple[int, ...]:
        E, rows, columns = super().shape(weights)
        return E * rows, columns

    def read(self, tensor, weights):
        return super().read(tensor.reshape(super().shape(weights)), weights)

    def write(self, ours, weights):
        return super().write(ours, weights).reshape(self.shape(weights))


NAMES = {
    "transformer.wte.weight": same("embed.table"),
    f"{LAYER}.norm_attn_norm.norm_1.weight": same("norm1.scale"),
    f"{LAYER}.norm_attn_norm.attn.Wqkv.weight": linear("mixer.q", "mixer.k", "mixer.v"),
    f"{LAYER}.norm_attn_norm.attn.out_proj.weight": linear("mixer.o"),
    f"{LAYER}.norm_attn_norm.norm_2.weight": same("norm2.scale"),
    f"{LAYER}.ffn.router.layer.weight": linear("ffn.router"),
    f"{LAYER}.ffn.experts.mlp.w1": Below(("ffn.gate",), experts=True),
    f"{LAYER}.ffn.experts.mlp.v1": Below(("ffn.up",), experts=True),
    f"{LAYER}.ffn.experts.mlp.w2": Below(("ffn.down",), transposed=True, experts=True),
    "transformer.norm_f.weight": same("norm.scale"),
    "lm_head.weight": linear("head"),
}


def config(c: Fields) -> LMConfig:
    D, H = c.size("d_model", "hidden_size", default=2048), c.size("n_heads", "num_attention_heads", default=16)
    if D % H:
        raise c.error("n_heads", f"{H} does not divide d_model {D}")
    a, f = c.section("attn_config", default={}), c.section("ffn_config", default={})
    act = activation(f.section("ffn_act_fn", default={}), "name", "silu")
    mixer = AttentionConfig(
        H,
        D // H,
        a.size("kv_n_heads", default=1),
        rope=rope.read(a, base=10_000.0),
        clip_qkv=a.positive("clip_qkv", default=None),
        dropout=a.float("attn_pdrop", default=0.0),
    )
    summed = f.float("moe_normalize_expert_weights", default=1.0)
    if summed not in (None, 1.0):
        raise f.error("moe_normalize_expert_weights", f"must be 1, not {summed:g}: weights sum to one")
    experts = MoEConfig(
        E=f.size("moe_num_experts", default=4),
        top_k=f.size("moe_top_k", default=1),
        F=f.size("ffn_hidden_size", default=3584),
        activation=act,
    )
    norm = LayerNormConfig(1e-5, bias=False)
    block = BlockConfig(mixer, experts, norm, dropout=c.float("resid_pdrop", default=0.0))
    return LMConfig(
        V=c.size("vocab_size"),
        D=D,
        layers=group_layers([block] * layers(c, "n_layers", "num_hidden_layers")),
        norm=norm,
        tied=c.bool("tie_word_embeddings", default=False),
    )
