"""Reward models: a number for a text, learned from which of two texts was chosen; and for each step of a solution."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array, Params
from jaxlm.config_check import check
from jaxlm.errors import UserError
from jaxlm.models import ModelConfig, WithHead, forward, logits
from jaxlm.objectives.objective import Batch, Objective, Spec, Sums, tokens, unfit
from jaxlm.ops.preference import bradley_terry

TEXTS = ("texts", "text_segments")


@dataclasses.dataclass(frozen=True)
class BradleyTerry(Objective):
    """Mean of -log sigmoid(c - r - margin) + centring (c + r)^2 of the rewards of `data.Preferences`, each the score at
    its text's last token; see `ops.preference.bradley_terry`. The margins are the data's own.

    It shows the accuracy, and for calibration the mean probability sigmoid(|c - r|) with which the model is sure: of a
    calibrated one they are equal.
    """

    centring: float = 0.0  # 0.01 in the paper

    def __post_init__(self):
        check(self, centring=">= 0")

    def check(self, model: ModelConfig) -> None:
        if not isinstance(model, WithHead):
            raise unfit(self, model, "it has no score: give a WithHead of it")

    def spec(self, data: Any) -> dict[str, Spec]:
        if getattr(data, "apart", True):
            raise UserError("objective BradleyTerry reads data Preferences with apart=false")
        one = Spec((1,), jnp.float32, (None,))
        texts = dict.fromkeys(TEXTS, Spec((2, data.T), jnp.int32, (None, "positions")))
        return texts | {"margins": one, "weights": one}

    def lengths(self, data: Any) -> dict[str, int]:
        return {"T": 2 * data.T}

    def flops(self, model: ModelConfig, data: Any) -> float:
        return 2 * model.flops({"T": data.T})

    def loss(
        self, model: ModelConfig, params: Params, batch: Batch, key: Array | None = None
    ) -> tuple[Sums, dict[Any, tuple]]:
        """Nothing is dropped: rewards are compared."""

        def one(given: Any) -> Any:
            score_B, statistics = last_scores(model, params, *given)
            return sharding.constrain(score_B, None), statistics

        texts = tuple(jnp.moveaxis(batch[name], 1, 0) for name in TEXTS)
        (c_B, r_B), statistics = jax.lax.map(one, texts)
        margin_B, weight_B = (sharding.constrain(batch[name], None, None)[:, 0] for name in ("margins", "weights"))
        loss_B = bradley_terry(c_B, r_B, margin_B, self.centring)
        total = lambda x_B: jnp.sum(x_B * weight_B)
        shown = {
            "accuracy": total((c_B > r_B).astype(jnp.float32)),
            "sureness": total(jax.nn.sigmoid(jnp.abs(c_B - r_B))),
            "rewards/chosen": total(c_B),
            "rewards/rejected": total(r_B),
            "rewards/margins": total(c_B - r_B),
        }
        return Sums(total(loss_B), jnp.sum(weight_B), shown), jax.tree.map(lambda x: x.mean(0), statistics)


def last_scores(model: Any, params: Params, tokens_BT: Array, mask_BT: Array) -> tuple[Array, Any]:
    """The score (B,) at each text's last real token, texts padded on the right, and the model's statistics."""
    out = forward(model.build(), params, tokens_BT, None, mask_BT)
    score_BT = sharding.constrain(logits(model, out), "batch", None, None)[..., 0]
    mask_BT = sharding.constrain(mask_BT, "batch", None)
    last_BT = jnp.arange(mask_BT.shape[1])[None] == jnp.sum(mask_BT, -1, keepdims=True) - 1
    return jnp.sum(jnp.where(last_BT, score_BT, 0), -1), out.statistics


@dataclasses.dataclass(frozen=True)
class ProcessReward(Objective):
    """Whether each step of a solution is right: mean of -log p(label) of the score's sigmoid at the tokens where a step
    ends (Lightman et al. 2023, arXiv:2305.20050). A batch is that of texts, with `labels` 0 or 1 and weight 1 there;
    the data is `data.Steps`."""

    def check(self, model: ModelConfig) -> None:
        if not isinstance(model, WithHead):
            raise unfit(self, model, "it has no score: give a WithHead of it")

    def spec(self, data: Any) -> dict[str, Spec]:
        return tokens(data.T)

    def loss(
        self, model: ModelConfig, params: Params, batch: Batch, key: Array | None = None
    ) -> tuple[Sums, dict[Any, tuple]]:
        out = forward(model.build(), params, batch["tokens"], batch["positions"], batch["segments"])
        score_BT, right_BT, weight_BT = logits(model, out)[..., 0], batch["labels"], batch["weights"]
        loss_BT = -jax.nn.log_sigmoid(jnp.where(right_BT > 0, score_BT, -score_BT))
        hit_BT = ((score_BT > 0) == (right_BT > 0)) * weight_BT
        return Sums(jnp.sum(loss_BT * weight_BT), jnp.sum(weight_BT), {"accuracy": jnp.sum(hit_BT)}), out.statistics
