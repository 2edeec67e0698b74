"""GPT-J (Wang and Komatsuzaki 2021): branches side by side behind one norm, the first entries of each head turned by
neighbours, and a bias of the logits."""

from jaxlm.convert.fields import Fields
from jaxlm.convert.names import linear, same
from jaxlm.convert.usual import activation, layers
from jaxlm.models import LMConfig
from jaxlm.nn import AttentionConfig, LayerNormConfig, MLPConfig, ParallelConfig, RopeConfig, group_layers

MODEL_TYPES = {"gptj": "GPTJForCausalLM"}

NAMES = {
    "transformer.wte.weight": same("embed.table"),
    "transformer.h.{}.ln_1.weight": same("norm1.scale"),
    "transformer.h.{}.ln_1.bias": same("norm1.bias"),
    "transformer.h.{}.attn.q_proj.weight": linear("mixer.q"),
    "transformer.h.{}.attn.k_proj.weight": linear("mixer.k"),
    "transformer.h.{}.attn.v_proj.weight": linear("mixer.v"),
    "transformer.h.{}.attn.out_proj.weight": linear("mixer.o"),
    "transformer.h.{}.mlp.fc_in.weight": linear("ffn.up"),
    "transformer.h.{}.mlp.fc_in.bias": same("ffn.up_bias"),
    "transformer.h.{}.mlp.fc_out.weight": linear("ffn.down"),
    "transformer.h.{}.mlp.fc_out.bias": same("ffn.down_bias"),
    "transformer.ln_f.weight": same("norm.scale"),
    "transformer.ln_f.bias": same("norm.bias"),
    "lm_head.weight": linear("head"),
    "lm_head.bias": same("head_bias"),
}
IGNORED = ("*.attn.bias", "*.attn.masked_bias", "*.attn.causal_mask")


def config(c: Fields) -> LMConfig:
    D, H = c.size("n_embd", "hidden_size"), c.size("n_head", "num_attention_heads")
    if D % H:
        raise c.error("n_head", f"{H} does not divide n_embd {D}")
    norm = LayerNormConfig(c.float("layer_norm_epsilon", default=1e-5))
    turned = c.size("rotary_dim", default=64) if c.get("rotary_dim", default=64) is not None else D // H
    if turned > D // H:
        raise c.error("rotary_dim", f"{turned} is more than a head's width, {D // H}")
    rope = RopeConfig(fraction=turned * H / D, interleaved=True)
    mixer = AttentionConfig(H, D // H, rope=rope, dropout=c.float("attn_pdrop", default=0.0))
    act = activation(c, "activation_function", "gelu_new")
    ffn = MLPConfig(c.size("n_inner", default=4 * D), act, gated=False, bias=True)
    block = ParallelConfig(mixer, ffn, norm, dropout=c.float("resid_pdrop", default=0.0))
    tied = c.bool("tie_word_embeddings", default=False)
    return LMConfig(
        V=c.size("vocab_size"),
        D=D,
        layers=group_layers([block] * layers(c, "n_layer", "num_hidden_layers")),
        norm=norm,
        tied=tied,
        dropout=c.float("embd_pdrop", default=0.0),
        head_bias=True,
    )
