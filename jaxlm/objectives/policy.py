"""Policy gradients: what a policy wrote becomes likelier by how much better than expected it was."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array, Params
from jaxlm.config_check import check
from jaxlm.errors import UserError
from jaxlm.losses import token_logprobs
from jaxlm.models import LMConfig, ModelConfig, WithHead, forward, logits
from jaxlm.objectives.objective import Batch, Objective, Spec, Sums, is_causal, unfit
from jaxlm.ops import policy

STATS = ("reward", "reward_std", "frac_reward_zero_std", "completions/mean_length", "completions/terminated")


@dataclasses.dataclass(frozen=True)
class Policy(Objective):
    """What GRPO (Shao et al. 2024, arXiv:2402.03300), PPO (Schulman et al. 2017, arXiv:1707.06347), RLOO (Ahmadian et
    al. 2024, arXiv:2402.14740), REINFORCE and online DPO (Guo et al. 2024, arXiv:2402.04792) share: `G` completions of
    each prompt of `data.Prompts` are written, rewarded, and trained on. `align.train` runs it.

    | method | advantage | KL with weight beta |
    |---|---|---|
    | grpo | reward less its group's mean, over its deviation (`scale`) | in the loss, k3 |
    | rloo | reward less the mean of the others of its group | in the reward |
    | reinforce | reward less the mean of all | in the reward |
    | ppo | GAE of a value head (model: a `WithHead`), whitened | in the reward, each token's own |
    | online_dpo | of two the better is chosen | -log sigmoid(beta (c - r)) |

    The loss is `ops.policy.clipped` (or `cispo`), added up by `loss_type`; level="sequence" with loss_type="grpo" is
    GSPO. A round of rollouts is batch x minibatches completions, trained on `epochs` times; steps are optimizer steps.
    """

    rewards: tuple[str, ...] = ()  # names of `align.rewards`, "file.py:function", or "model:FOLDER"
    reward_weights: tuple[float, ...] = ()  # (): each 1
    method: Literal["grpo", "rloo", "reinforce", "ppo", "online_dpo"] = "grpo"
    G: int = 8
    new_tokens: int = 64  # the longest completion
    temperature: float = 1.0
    beta: float = 0.0
    target_kl: float = 0.0  # beta is led so that the KL of a completion is this; 0: it stays
    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo"] = "dapo"
    level: Literal["token", "sequence"] = "token"
    scale: Literal["group", "batch", "none"] = "group"
    low: float = 0.2  # clipping of ratios
    high: float = 0.2  # for cispo the bound itself is 1 + high
    epochs: int = 1
    minibatches: int = 1
    mask_truncated: bool = False  # completions that did not end count nothing
    missing_end_penalty: float = 0.0  # taken from their reward
    gamma: float = 1.0
    lam: float = 0.95
    value_coef: float = 0.1
    value_clip: float = 0.2
    whiten_rewards: bool = False
    on_error: Literal["stop", "zero"] = "stop"  # a reward that raises or is no number
    patience: int = 20  # rounds without any difference within a group after which a run that is no better stops

    def __post_init__(self):
        counts = ("G", "new_tokens", "epochs", "minibatches", "patience")
        check(self, **dict.fromkeys(counts, ">= 1"), **dict.fromkeys(("beta", "target_kl", "low", "high"), ">= 0"))
        check(self, temperature="> 0", gamma="[0, 1]", lam="[0, 1]", missing_end_penalty=">= 0")
        check(self, value_coef=">= 0", value_clip="> 0", reward_weights="")
        if self.reward_weights and len(self.reward_weights) != len(self.rewards):
            raise UserError(f"reward_weights has {len(self.reward_weights)} numbers for {len(self.rewards)} rewards")
        if self.method in ("grpo", "rloo") and self.G < 2:
            raise UserError(f"G={self.G}: {self.method} compares completions of one prompt, and needs two at least")
        if self.method == "online_dpo" and (self.G != 2 or not self.beta):
            raise UserError("online_dpo compares two completions: set objective.G=2 and a beta, say 0.1")
        if self.target_kl and not self.beta:
            raise UserError("target_kl leads beta from where it begins: set beta too, say to 0.05")

    def check(self, model: ModelConfig) -> None:
        if self.method == "ppo" and not isinstance(model, WithHead):
            raise unfit(self, model, "ppo needs values: give a WithHead of it")
        if self.method != "ppo" and not isinstance(model, LMConfig):
            raise unfit(self, model, "only ppo reads a head")
        trunk: Any = writer(model)
        if not is_causal(trunk):
            raise unfit(self, model, "it writes no text from left to right")
        if trunk.softcap is not None and self.temperature != 1:
            raise unfit(self, model, "its logits are capped: leave temperature=1")

    def length(self, data: Any) -> int:
        return data.T + self.new_tokens

    @property
    def stats(self) -> tuple[str, ...]:
        """What a rollout tells of each row."""
        return (*STATS, "kl", "sampling_logp_difference", *(f"rewards/{name}" for name in self.rewards))

    def spec(self, data: Any) -> dict[str, Spec]:
        T = self.length(data)
        row = lambda dtype: Spec((T,), dtype, ("positions",))
        floats = ("weights", "old", "reference", "advantages", "returns", "values")
        found = dict.fromkeys(("tokens", "labels", "segments"), row(jnp.int32)) | dict.fromkeys(
            floats, row(jnp.float32)
        )
        one = lambda n: Spec((n,), jnp.float32, (None,))
        return found | {"fresh": one(1), "beta": one(1), "stats": one(len(self.stats))}

    def lengths(self, data: Any) -> dict[str, int]:
        return {"T": self.length(data)}

    def scores(self, model: Any, params: Params, batch: Batch) -> tuple[Array, Array, Any]:
        """Of every token its log probability at the rollout's temperature and, where there is a head, its value before
        it, float32 (R, T) both, and statistics. Without dropout: ratios compare two passes."""
        out = forward(model.build(), params, batch["tokens"], None, batch["segments"])
        text = out.encoded if isinstance(model, WithHead) else out
        hidden_RTD = text.hidden_BTD if self.temperature == 1 else text.hidden_BTD / self.temperature
        cap = getattr(writer(model), "softcap", None)
        logp_RT, _ = token_logprobs(hidden_RTD, text.head_VD, batch["labels"], softcap=cap)
        values_RT = logits(model, out)[..., 0] if isinstance(model, WithHead) else jnp.zeros_like(logp_RT)
        return logp_RT, values_RT, out.statistics

    def loss(
        self, model: ModelConfig, params: Params, batch: Batch, key: Array | None = None
    ) -> tuple[Sums, dict[Any, tuple]]:
        new_RT, values_RT, statistics = self.scores(model, params, batch)
        whole = lambda x: sharding.constrain(x, *[None] * x.ndim)  # numbers, not states: a row each on all devices
        new_RT, values_RT = whole(new_RT), whole(values_RT)
        b = {name: whole(batch[name]) for name in batch if name not in ("tokens", "labels", "segments")}
        with jax.named_scope("loss"):
            if self.method == "online_dpo":
                total, weight, more = self._pairs(new_RT, b)
            else:
                total, weight, more = self._surrogate(new_RT, values_RT, b)
        tokens = jnp.maximum(jnp.sum(b["weights"]), 1)
        shown = {"entropy": -jnp.sum(new_RT * b["weights"]) / tokens}  # of what was sampled
        shown |= more | {name: jnp.mean(b["stats"][:, i]) for i, name in enumerate(self.stats)}
        return Sums(total, weight, {name: jax.lax.stop_gradient(x) * weight for name, x in shown.items()}), statistics

    def _surrogate(self, new_RT: Array, values_RT: Array, b: Batch) -> tuple[Array, Array, dict[str, Array]]:
        mask_RT, a_RT = b["weights"], b["advantages"]
        old_RT = jnp.where(b["fresh"] > 0, jax.lax.stop_gradient(new_RT), b["old"])
        ratio_RT = policy.ratios(new_RT, old_RT, mask_RT, self.level == "sequence")
        if self.loss_type == "cispo":
            each_RT = policy.cispo(ratio_RT, a_RT, new_RT, 1 + self.high)
        else:
            each_RT = policy.clipped(ratio_RT, a_RT, self.low, self.high)
        if self.method == "grpo" and self.beta:
            each_RT += b["beta"] * policy.k3(new_RT, b["reference"])
        if self.method == "ppo":
            each_RT += self.value_coef * policy.value_loss(values_RT, b["values"], b["returns"], self.value_clip)
        how = "dapo" if self.loss_type == "cispo" else self.loss_type
        total, weight = policy.aggregate(each_RT, mask_RT, how, self.new_tokens)
        tokens = jnp.maximum(jnp.sum(mask_RT), 1)
        mean = lambda x_RT: jnp.sum(x_RT * mask_RT) / tokens
        more = {
            "clip_ratio": mean(((ratio_RT < 1 - self.low) | (ratio_RT > 1 + self.high)).astype(jnp.float32)),
            "ratio": mean(ratio_RT),
        }
        if self.method == "ppo":
            more["value_error"] = mean((values_RT - b["returns"]) ** 2)
        return total, weight, more

    def _pairs(self, new_RT: Array, b: Batch) -> tuple[Array, Array, dict[str, Array]]:
        """Rows are pairs, the better first; its advantage is 1, or 0 of both where none is better."""
        logp_R, reference_R = (jnp.sum(x_RT * b["weights"], 1) for x_RT in (new_RT, b["reference"]))
        ratio_N2 = (logp_R - reference_R).reshape(-1, 2)
        differ_N = jnp.max(b["advantages"], 1).reshape(-1, 2)[:, 0]
        loss_N = -jax.nn.log_sigmoid(b["beta"].reshape(-1, 2)[:, 0] * (ratio_N2[:, 0] - ratio_N2[:, 1]))
        wins = jnp.sum((ratio_N2[:, 0] > ratio_N2[:, 1]) * differ_N) / jnp.maximum(jnp.sum(differ_N), 1)
        return jnp.sum(loss_N * differ_N), jnp.maximum(jnp.sum(differ_N), 1), {"rewards/accuracies": wins}


def writer(model: Any) -> Any:
    """The model that writes: that below a head."""
    return model.trunk if isinstance(model, WithHead) else model
