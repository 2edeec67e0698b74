"""Switch Transformers (Fedus et al. 2021, arXiv:2101.03961): T5 with experts in every second layer, one a token."""

from collections.abc import Callable
from typing import Any

from jaxlm.convert.fields import Fields
from jaxlm.convert.names import linear, same
from jaxlm.convert.t5 import IGNORED, decoder_layer, encoder_layer, model, stacks
from jaxlm.convert.usual import activation, layers
from jaxlm.models import Seq2SeqConfig
from jaxlm.nn import FeedForwardConfig, MLPConfig, MoEConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config"]

MODEL_TYPES = {"switch_transformers": "SwitchTransformersForConditionalGeneration"}
DEFAULTS = {"num_sparse_encoder_layers": 3, "num_sparse_decoder_layers": 3}

PLACES = (("encoder", 1), ("decoder", 2))  # of a feed-forward among the parts of a layer
NAMES = stacks({"mlp.wi": "up", "mlp.wo": "down", "mlp.router.classifier": "router"})
NAMES |= {f"{s}.block.{{}}.layer.{i}.mlp.router.classifier.bias": same(f"{s}.ffn.router_bias") for s, i in PLACES}
NAMES |= {
    f"{stack}.block.{{}}.layer.{i}.mlp.experts.expert_{{e}}.{theirs}.weight": linear(f"{stack}.ffn.{ours}")
    for stack, i in PLACES
    for theirs, ours in (("wi", "up"), ("wo", "down"))
}


def config(c: Fields) -> Seq2SeqConfig:
    dense = MLPConfig(c.size("d_ff"), activation(c, "dense_act_fn", "relu"), gated=False)
    experts = MoEConfig(
        F=dense.F,
        activation=dense.activation,
        gated=False,
        E=c.size("num_experts"),
        top_k=1,
        norm_topk_prob=False,
        router_bias=c.bool("router_bias", default=False),
        row_capacity=c.size("expert_capacity", default=64),
    )
    N = layers(c, "num_layers")

    def stack(name: str, N: int, layer: Callable[[Fields, FeedForwardConfig], Any]) -> list[Any]:
        sparse = c.int(f"num_sparse_{name}_layers")
        step = N // sparse if sparse > 0 else N
        every: list[FeedForwardConfig] = [experts if i % step == 1 or step == 1 else dense for i in range(N)]
        return [layer(c, ffn) for ffn in every]

    encoder = stack("encoder", N, encoder_layer)
    decoder = stack("decoder", c.size("num_decoder_layers", default=N), decoder_layer)
    return model(c, encoder, decoder)
