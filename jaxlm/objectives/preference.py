"""Learning from preferences: the likelihood of answers that were chosen rises against that of those that were not."""

import abc
import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array, Params
from jaxlm.config_check import check
from jaxlm.errors import UserError, unknown
from jaxlm.losses import token_logprobs
from jaxlm.models import LMConfig, ModelConfig, forward
from jaxlm.objectives.objective import Batch, Objective, Spec, Sums, is_causal, unfit
from jaxlm.ops import preference


@dataclasses.dataclass(frozen=True)
class Scored:
    """Of two texts a row: sums of log probabilities of the answers (2, B), of all tokens, and how many there are."""

    answer_2B: Array
    length_2B: Array
    text_2B: Array
    text_length_2B: Array

    @property
    def mean_2B(self) -> Array:
        return self.answer_2B / jnp.maximum(self.length_2B, 1)


class Direct(Objective):
    """The base of objectives that read two texts a row from `data.Preferences` and their log probabilities."""

    needs_reference: ClassVar[bool] = True  # whether it reads the log probabilities of the model it begins from
    apart: ClassVar[bool] = False  # whether rows are judged answers, see `data.Preferences`

    def check(self, model: ModelConfig) -> None:
        if not isinstance(model, LMConfig) or not is_causal(model):
            raise unfit(self, model, "it writes no text from left to right")

    def spec(self, data: Any) -> dict[str, Spec]:
        if getattr(data, "apart", None) is not self.apart:
            raise UserError(
                f"objective {type(self).__name__} reads data Preferences with apart={str(self.apart).lower()}"
            )
        return spec(data.T)

    def lengths(self, data: Any) -> dict[str, int]:
        return {"T": 2 * data.T}

    def flops(self, model: ModelConfig, data: Any) -> float:
        return 2 * model.flops({"T": data.T})

    def logprobs(self, model: Any, params: Params, batch: Batch, key: Array | None = None) -> tuple[Scored, Any]:
        """What the model says to the texts of a batch, and its statistics. One text of each pair after the other, so
        that the model stands in the program once."""
        names = ("tokens", "labels", "segments", "answer_weights")
        texts = [jnp.moveaxis(batch[name], 1, 0) for name in names]
        keys = None if key is None else jax.random.split(key, 2)

        def one(given: Any) -> Any:
            (tokens_BT, labels_BT, segments_BT, weights_BT), own = given
            out = forward(model.build(), params, tokens_BT, None, segments_BT, dropout_key=own)
            logp_BT, _ = token_logprobs(out.hidden_BTD, out.head_VD, labels_BT, softcap=model.softcap)
            real_BT = sharding.constrain(
                (segments_BT > 0).astype(jnp.float32), *sharding.rows(segments_BT.shape[1])[:2]
            )
            weights_BT = sharding.constrain(weights_BT, *sharding.rows(segments_BT.shape[1])[:2])
            sums = [jnp.sum(x_BT, -1) for x_BT in (logp_BT * weights_BT, weights_BT, logp_BT * real_BT, real_BT)]
            return [sharding.constrain(x_B, None) for x_B in sums], out.statistics  # a few numbers: on all devices

        sums, statistics = jax.lax.map(one, (texts, keys))
        return Scored(*sums), jax.tree.map(lambda x: x.mean(0), statistics)

    @abc.abstractmethod
    def of(self, scored: Scored, reference_2B: Array, batch: Batch) -> tuple[Array, Array]:
        """The loss (B,) and the implicit rewards (2, B) of rows; `reference_2B` are the reference's log
        probabilities."""

    def loss(
        self, model: ModelConfig, params: Params, batch: Batch, key: Array | None = None
    ) -> tuple[Sums, dict[Any, tuple]]:
        scored, statistics = self.logprobs(model, params, batch, key)
        whole = {name: sharding.constrain(batch[name], None, None) for name in ("margins", "wanted", "weights")}
        with jax.named_scope("loss"):
            reference_2B = sharding.constrain(batch["reference"], None, None).T
            loss_B, rewards_2B = self.of(scored, reference_2B, whole)
            weight_B = whole["weights"][:, 0]
            shown = self.shown(scored, jax.lax.stop_gradient(rewards_2B), whole, weight_B)
        return Sums(jnp.sum(loss_B * weight_B), jnp.sum(weight_B), shown), statistics

    def shown(self, scored: Scored, rewards_2B: Array, batch: Batch, weight_B: Array) -> dict[str, Array]:
        total = lambda x_B: jnp.sum(x_B * weight_B)
        return {
            "rewards/chosen": total(rewards_2B[0]),
            "rewards/rejected": total(rewards_2B[1]),
            "rewards/margins": total(rewards_2B[0] - rewards_2B[1]),
            "rewards/accuracies": total((rewards_2B[0] > rewards_2B[1]).astype(jnp.float32)),
            "logps/chosen": total(scored.answer_2B[0]),
            "logps/rejected": total(scored.answer_2B[1]),
        }


def spec(T: int) -> dict[str, Spec]:
    """A batch of `data.Preferences`."""
    row, one = lambda dtype: Spec((2, T), dtype, (None, "positions")), Spec((1,), jnp.float32, (None,))
    found = dict.fromkeys(("tokens", "labels", "segments"), row(jnp.int32)) | {"answer_weights": row(jnp.float32)}
    return (
        found | dict.fromkeys(("margins", "wanted", "weights"), one) | {"reference": Spec((2,), jnp.float32, (None,))}
    )


@dataclasses.dataclass(frozen=True)
class DPO(Direct):
    """Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290) in one of the forms of
    `ops.preference.FORMS`: mean of -log sigmoid(beta (c - r)), c and r the log ratios of the chosen and the rejected
    answer. `nll` adds so much of the chosen answers' mean negative log-likelihood (RPO; Pang et al. 2024,
    arXiv:2404.19733)."""

    form: str = "sigmoid"
    beta: float = 0.1
    label_smoothing: float = 0.0
    divergence: str = "reverse_kl"
    nll: float = 0.0

    def __post_init__(self):
        check(self, beta="> 0", label_smoothing="[0, 1)", nll=">= 0")
        for name, value, known in (
            ("form of DPO", self.form, preference.FORMS),
            ("divergence", self.divergence, preference.DIVERGENCES),
        ):
            if value not in known:
                raise unknown(name, value, known)
        if self.form == "robust" and self.label_smoothing >= 0.5:
            raise UserError(f"label_smoothing={self.label_smoothing} must be below 0.5 with form=robust")

    def of(self, scored: Scored, reference_2B: Array, batch: Batch) -> tuple[Array, Array]:
        pairs = preference.Pairs(*scored.answer_2B, *reference_2B, *scored.length_2B)
        loss_B = preference.dpo(pairs, self.form, self.beta, self.label_smoothing, self.divergence)
        if self.nll:
            loss_B += self.nll * _per_token(scored.answer_2B[0], scored.length_2B[0], batch)
        return loss_B, self.beta * (scored.answer_2B - reference_2B)


def _per_token(logprob_B: Array, length_B: Array, batch: Batch) -> Array:
    """The negative log-likelihood of a row, such that the mean over rows is that over tokens."""
    weight_B = batch["weights"][:, 0]
    tokens = jnp.maximum(jnp.sum(length_B * weight_B), 1)
    return -logprob_B * jnp.sum(weight_B) / tokens


@dataclasses.dataclass(frozen=True)
class KTO(Direct):
    """Kahneman-Tversky optimisation of judged answers (see `ops.preference.kto`); the KL is the mean log ratio of the
    batch's mismatched answers, of which each row has one."""

    apart: ClassVar[bool] = True

    beta: float = 0.1
    desirable: float = 1.0  # weight of wanted answers
    undesirable: float = 1.0

    def __post_init__(self):
        check(self, beta="> 0", desirable="> 0", undesirable="> 0")

    def of(self, scored: Scored, reference_2B: Array, batch: Batch) -> tuple[Array, Array]:
        ratio_2B = scored.answer_2B - reference_2B
        weight_B, wanted_B = batch["weights"][:, 0], batch["wanted"][:, 0]
        kl = jnp.sum(ratio_2B[1] * weight_B) / jnp.maximum(jnp.sum(weight_B), 1)
        loss_B = preference.kto(ratio_2B[0], wanted_B, kl, self.beta)
        return loss_B * jnp.where(wanted_B > 0, self.desirable, self.undesirable), self.beta * ratio_2B

    def shown(self, scored: Scored, rewards_2B: Array, batch: Batch, weight_B: Array) -> dict[str, Array]:
        """The rewards and log probabilities of both kinds by all rows: their share is in "wanted"."""
        wanted_B, rows = batch["wanted"][:, 0], jnp.sum(weight_B)
        mean = lambda x_B, of_B: rows * jnp.sum(x_B * of_B * weight_B) / jnp.maximum(jnp.sum(of_B * weight_B), 1)
        found = {
            f"{name}/{side}": mean(x_B, of_B)
            for name, x_B in (("rewards", rewards_2B[0]), ("logps", scored.answer_2B[0]))
            for side, of_B in (("chosen", wanted_B), ("rejected", 1 - wanted_B))
        }
        found["rewards/margins"] = found["rewards/chosen"] - found["rewards/rejected"]
        return found | {"kl": jnp.maximum(jnp.sum(rewards_2B[1] * weight_B) / self.beta, 0)}


@dataclasses.dataclass(frozen=True)
class ORPO(Direct):
    """Odds ratio preference optimisation (Hong et al. 2024, arXiv:2403.07691): the mean negative log-likelihood of the
    chosen text, its prompt included, and the odds ratio of `ops.preference.orpo`. It needs no reference."""

    needs_reference: ClassVar[bool] = False

    beta: float = 0.1

    def __post_init__(self):
        check(self, beta="> 0")

    def of(self, scored: Scored, reference_2B: Array, batch: Batch) -> tuple[Array, Array]:
        c_B, r_B = scored.mean_2B
        nll_B = _per_token(scored.text_2B[0], scored.text_length_2B[0], batch)
        return nll_B + preference.orpo(c_B, r_B, self.beta), self.beta * scored.mean_2B


@dataclasses.dataclass(frozen=True)
class SimPO(Direct):
    """Simple preference optimisation of mean log probabilities, without a reference; see `ops.preference.simpo`."""

    needs_reference: ClassVar[bool] = False

    beta: float = 2.0
    gamma: float = 1.0  # by how much the chosen must be ahead
    label_smoothing: float = 0.0

    def __post_init__(self):
        check(self, beta="> 0", gamma=">= 0", label_smoothing="[0, 1)")

    def of(self, scored: Scored, reference_2B: Array, batch: Batch) -> tuple[Array, Array]:
        c_B, r_B = scored.mean_2B
        loss_B = preference.simpo(c_B, r_B, self.beta, self.gamma, self.label_smoothing)
        return loss_B, self.beta * scored.mean_2B


@dataclasses.dataclass(frozen=True)
class CPO(Direct):
    """Contrastive preference optimisation, without a reference: `ops.preference.cpo` and `nll` of the chosen answers'
    mean negative log-likelihood."""

    needs_reference: ClassVar[bool] = False

    beta: float = 0.1
    nll: float = 1.0
    label_smoothing: float = 0.0

    def __post_init__(self):
        check(self, beta="> 0", nll=">= 0", label_smoothing="[0, 1)")

    def of(self, scored: Scored, reference_2B: Array, batch: Batch) -> tuple[Array, Array]:
        c_B, r_B = scored.answer_2B
        loss_B = preference.cpo(c_B, r_B, self.beta, self.label_smoothing)
        nll_B = _per_token(scored.answer_2B[0], scored.length_2B[0], batch)
        return loss_B + self.nll * nll_B, self.beta * scored.answer_2B
