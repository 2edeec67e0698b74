"""Contrastive learning of texts' vectors: of all targets in a batch, a source is nearest to its own."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array, Params
from jaxlm.config_check import check
from jaxlm.errors import unknown
from jaxlm.models import EncoderConfig, ModelConfig, forward
from jaxlm.objectives.objective import Batch, Objective, Spec, Sums, unfit
from jaxlm.ops.pooling import POOLINGS, pool

LEAST = 1e-6  # of a vector's squared length


@dataclasses.dataclass(frozen=True)
class Contrastive(Objective):
    """Mean of -log softmax_j(cos(a_i, b_j) / temperature) at j = i, where a and b are the pooled vectors of sources and
    targets and the other targets of the batch are the negatives (van den Oord et al. 2018, arXiv:1807.03748; of texts
    Gao et al. 2021, arXiv:2104.08821), and the share of sources that are nearest to their own. The data is
    `data.EmbeddingPairs`.

    `symmetric`: the mean of that and of the same with sources and targets exchanged. With `accumulate` negatives are
    those of one part.
    """

    temperature: float = 0.05
    pooling: str = "mean"  # a name of `ops.pooling`
    symmetric: bool = False

    def __post_init__(self):
        check(self, temperature="> 0")
        if self.pooling not in POOLINGS:
            raise unknown("pooling", self.pooling, POOLINGS)

    def check(self, model: ModelConfig) -> None:
        if not isinstance(model, EncoderConfig):
            raise unfit(self, model, "it gives texts no vectors: give an encoder, head=null")
        if model.head is not None:
            raise unfit(self, model, "its head is not trained so: give it head=null")

    def spec(self, data: Any) -> dict[str, Spec]:
        row = Spec((data.T,), jnp.int32, ("positions",))
        names = ("source", "source_segments", "target", "target_segments")
        return dict.fromkeys(names, row) | {"weights": Spec((1,), jnp.float32, (None,))}

    def lengths(self, data: Any) -> dict[str, int]:
        return {"S": data.T, "T": data.T}

    def flops(self, model: ModelConfig, data: Any) -> float:
        return 2 * model.flops({"T": data.T})

    def loss(
        self, model: ModelConfig, params: Params, batch: Batch, key: Array | None = None
    ) -> tuple[Sums, dict[Any, tuple]]:
        keys = (None, None) if key is None else jax.random.split(key)
        a_BD, statistics = self._vectors(model, params, batch, "source", keys[0])
        b_BD, _ = self._vectors(model, params, batch, "target", keys[1])
        with jax.named_scope("loss"):
            weight_B = batch["weights"][:, 0]
            found = _nearest(a_BD, b_BD, weight_B, self.temperature)
            if self.symmetric:
                found = jax.tree.map(lambda x, y: (x + y) / 2, found, _nearest(b_BD, a_BD, weight_B, self.temperature))
        return Sums(found[0], jnp.sum(weight_B), {"accuracy": found[1]}), statistics

    def _vectors(self, model: Any, params: Params, batch: Batch, side: str, key: Array | None) -> tuple[Array, Any]:
        segments_BT = batch[f"{side}_segments"]
        out = forward(model.build(), params, batch[side], None, segments_BT, dropout_key=key)
        x_BTD = sharding.constrain(sharding.replicated(out.encoded.last_BTD, 1), "batch", None, None)
        x_BD = pool(x_BTD, sharding.constrain(segments_BT, "batch", None), self.pooling)
        return x_BD * jax.lax.rsqrt(jnp.sum(x_BD**2, -1, keepdims=True) + LEAST), out.statistics


def _nearest(a_BD: Array, b_BD: Array, weight_B: Array, temperature: float) -> tuple[Array, Array]:
    """The summed losses of the rows that count, and how many are nearest to their own."""
    whole = lambda x, *axes: sharding.constrain(x, *axes)
    b_CD, weight_C = whole(b_BD, None, None), whole(weight_B, None)
    s_BC = jnp.einsum("bd,cd->bc", a_BD, b_CD) / temperature
    s_BC = jnp.where(weight_C[None] > 0, s_BC, -jnp.inf)
    own_BC = whole(jnp.eye(len(weight_B), dtype=bool), "batch", None)
    own_B = jnp.sum(jnp.where(own_BC, jnp.where(jnp.isfinite(s_BC), s_BC, 0), 0), -1)
    loss_B = jax.nn.logsumexp(s_BC, -1) - own_B
    return jnp.sum(loss_B * weight_B), jnp.sum((own_B >= jnp.max(s_BC, -1)) * weight_B)
