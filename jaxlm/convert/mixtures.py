"""What families of mixtures have in common: the names of routers and experts, and DeepSeek V3's way to choose them."""

from typing import Any

from jaxlm.convert.fields import Fields
from jaxlm.convert.names import linear, same
from jaxlm.convert.usual import activation, layers
from jaxlm.nn import MLPConfig, MoEConfig

EXPERTS = {
    "model.layers.{}.mlp.gate.weight": linear("ffn.router"),
    "model.layers.{}.mlp.experts.{e}.gate_proj.weight": linear("ffn.gate"),
    "model.layers.{}.mlp.experts.{e}.up_proj.weight": linear("ffn.up"),
    "model.layers.{}.mlp.experts.{e}.down_proj.weight": linear("ffn.down"),
}
BALANCED = {"model.layers.{}.mlp.gate.e_score_correction_bias": same("ffn.balance")}


def shared(called: str = "shared_experts") -> dict[str, Any]:
    """The names of the experts that every token is given."""
    place = f"model.layers.{{}}.mlp.{called}"
    return {
        f"{place}.{theirs}_proj.{kind}": rule(f"ffn.shared.{theirs}{end}")
        for theirs in ("gate", "up", "down")
        for kind, rule, end in (("weight", linear, ""), ("bias", same, "_bias"))
    }


def sigmoid(c: Fields, E: int, F: int, A: int, many: int, scale: float, **changes: Any) -> MoEConfig:
    """As DeepSeek V3 (arXiv:2412.19437) chooses: sigmoids, a term that balances them, groups of experts; `many` are
    shared. A, `many` and `scale` are the family's own defaults of the number chosen, of those, and of the factor."""
    c.one_of("scoring_func", among={"sigmoid": "sigmoid"}, default="sigmoid")
    usual: dict[str, Any] = {
        "activation": activation(c, "hidden_act", "silu"),
        "score": "sigmoid",
        "norm_topk_prob": c.bool("norm_topk_prob", default=True),
        "scale": c.float("routed_scaling_factor", default=scale),
        "groups": c.size("n_group", default=1),
        "topk_group": c.size("topk_group", default=1),
        "group_score": "top2",
        "score_correction_bias": True,
        "shared": c.int("n_shared_experts", "num_shared_experts", default=many) or None,
    }
    return MoEConfig(E=E, top_k=c.size("num_experts_per_tok", default=A), F=F, **usual | changes)


def choose(c: Fields, dense: MLPConfig, experts: MoEConfig, first: int) -> list[MLPConfig]:
    """The feed-forward of each layer: from `mlp_layer_types`, or dense in the first `first_k_dense_replace`."""
    N = layers(c)
    kinds = c.list("mlp_layer_types", default=None)
    if kinds is None:
        first = c.int("first_k_dense_replace", default=first)
        return [experts if i >= first else dense for i in range(N)]
    if len(kinds) != N or not {*kinds} <= {"dense", "sparse"}:
        raise c.error("mlp_layer_types", f"must say dense or sparse for each of {N} layers, not {str(kinds)[:60]}")
    return [experts if kind == "sparse" else dense for kind in kinds]
