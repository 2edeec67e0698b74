"""Causal language modelling: predict each token from those before it."""

import dataclasses
from typing import Any

import jax

from jaxlm.axes import Array, Params
from jaxlm.config_check import check
from jaxlm.losses import cross_entropy
from jaxlm.models import ModelConfig, Seq2SeqConfig, forward
from jaxlm.objectives.objective import Batch, Objective, Spec, Sums, is_causal, tokens, unfit


@dataclasses.dataclass(frozen=True)
class NextToken(Objective):
    """Mean negative log-likelihood of the next token, -log p(x_t | x_<t), in nats.

    Smoothing (Szegedy et al. 2016) and z-loss (Chowdhery et al. 2022, arXiv:2204.02311) are added in training only, see
    `losses.cross_entropy`; what is shown is plain.
    """

    label_smoothing: float = 0.0
    z_loss: float = 0.0

    def __post_init__(self):
        check(self, label_smoothing="[0, 1)", z_loss=">= 0")

    def check(self, model: ModelConfig) -> None:
        if isinstance(model, Seq2SeqConfig):
            raise unfit(self, model, "it reads a source beside the text; try SequenceToSequence")
        if not is_causal(model):
            raise unfit(self, model, "its tokens see the later ones that they are to predict; try MaskedTokens")

    def spec(self, data: Any) -> dict[str, Spec]:
        return tokens(data.T)

    def loss(
        self, model: ModelConfig, params: Params, batch: Batch, key: Array | None = None
    ) -> tuple[Sums, dict[Any, tuple]]:
        out = forward(model.build(), params, batch["tokens"], batch["positions"], batch["segments"], dropout_key=key)
        how: dict[str, Any] = {} if key is None else {"label_smoothing": self.label_smoothing, "z_loss": self.z_loss}
        with jax.named_scope("loss"):
            found = cross_entropy(
                out.hidden_BTD,
                out.head_VD,
                batch["labels"],
                batch["weights"],
                softcap=model.softcap,
                bias_V=out.bias_V,
                **how,
            )
        return Sums(found.total, found.weight, {"nll": found.nll}), out.statistics

    @property
    def adds(self) -> bool:
        return bool(self.label_smoothing or self.z_loss)
