"""Granite 3's mixtures (IBM 2024), with a shared expert or without: Granite's factors, joined matrices of experts."""

from jaxlm.convert import granite
from jaxlm.convert.fields import Fields
from jaxlm.convert.granite import DEFAULTS, IGNORED
from jaxlm.convert.names import linear
from jaxlm.convert.usual import NAMES, activation
from jaxlm.models import LMConfig
from jaxlm.nn import MLPConfig, MoEConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config", "ffn"]

MODEL_TYPES = {"granitemoe": "GraniteMoeForCausalLM", "granitemoeshared": "GraniteMoeSharedForCausalLM"}
MOE = "model.layers.{}.block_sparse_moe"
EXPERTS = {
    f"{MOE}.router.layer.weight": linear("ffn.router"),
    f"{MOE}.input_linear.weight": linear("ffn.gate", "ffn.up", experts=True),
    f"{MOE}.output_linear.weight": linear("ffn.down", experts=True),
    "model.layers.{}.shared_mlp.input_linear.weight": (
        linear("ffn.shared.gate", "ffn.shared.up"),
        linear("ffn.gate", "ffn.up"),
    ),
    "model.layers.{}.shared_mlp.output_linear.weight": (linear("ffn.shared.down"), linear("ffn.down")),
}
NAMES = EXPERTS | {name: rule for name, rule in NAMES.items() if ".mlp." not in name}


def config(c: Fields) -> LMConfig:
    return granite.of(c, ffn(c))


def ffn(c: Fields) -> MLPConfig:
    """The mixture, with an MLP that every token is given if the files say its width; without experts only that."""
    wide = c.int("shared_intermediate_size", default=0)
    act = activation(c, "hidden_act", "silu")
    shared = MLPConfig(wide, act) if wide else None
    if c.str("model_type") == "granitemoehybrid" and not c.int("num_local_experts", default=0):
        if shared is None:
            raise c.error("shared_intermediate_size", "is 0, and there are no experts: a layer needs one of them")
        return shared
    return MoEConfig(
        E=c.size("num_local_experts", default=8),
        top_k=c.size("num_experts_per_tok", default=2),
        F=c.size("intermediate_size"),
        activation=act,
        shared=shared,
    )
