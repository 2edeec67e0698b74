"""Sequence to sequence: predict a target's tokens from the source and the target before them."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.axes import Array, Params
from jaxlm.config_check import check
from jaxlm.losses import cross_entropy
from jaxlm.models import ModelConfig, Seq2SeqConfig, forward
from jaxlm.objectives.objective import Batch, Objective, Spec, Sums, unfit

PACKED = ("source_positions", "positions", "segments")  # what a batch has besides where rows have several pairs


@dataclasses.dataclass(frozen=True)
class SequenceToSequence(Objective):
    """Mean negative log-likelihood of a target given its source, -log p(y_t | y_<t, x), in nats, with the true tokens
    before each (teacher forcing; Sutskever et al. 2014, arXiv:1409.3215). Smoothing in training only."""

    label_smoothing: float = 0.0

    def __post_init__(self):
        check(self, label_smoothing="[0, 1)")

    def check(self, model: ModelConfig) -> None:
        if not isinstance(model, Seq2SeqConfig):
            raise unfit(self, model, "it reads no source; try NextToken")

    def spec(self, data: Any) -> dict[str, Spec]:
        row = lambda dtype: Spec((data.T,), dtype, ("positions",))
        more = PACKED if getattr(data, "packs", False) else ()
        ids = dict.fromkeys(("source", "source_segments", "tokens", "labels", *more), row(jnp.int32))
        return ids | {"weights": row(jnp.float32)}

    def lengths(self, data: Any) -> dict[str, int]:
        return {"S": data.T, "T": data.T}

    def loss(
        self, model: ModelConfig, params: Params, batch: Batch, key: Array | None = None
    ) -> tuple[Sums, dict[Any, tuple]]:
        source = {"source_BS": batch["source"], "source_segments_BS": batch["source_segments"]}
        if "positions" in batch:  # rows of several pairs
            source |= {"source_positions_BS": batch["source_positions"]}
            source |= {"positions_BT": batch["positions"], "segments_BT": batch["segments"]}
        out = forward(model.build(), params, batch["tokens"], dropout_key=key, **source)
        smoothing = 0.0 if key is None else self.label_smoothing
        with jax.named_scope("loss"):
            found = cross_entropy(
                out.hidden_BTD,
                out.head_VD,
                batch["labels"],
                batch["weights"],
                softcap=model.softcap,
                bias_V=out.bias_V,
                label_smoothing=smoothing,
            )
        return Sums(found.total, found.weight, {"nll": found.nll}), out.statistics

    @property
    def adds(self) -> bool:
        return self.label_smoothing > 0


def of_text(
    pairs_of: Callable[[Array, Array], dict[str, Array]],
    model: ModelConfig,
    params: Params,
    batch: Batch,
    key: Array | None,
) -> tuple[Sums, dict[Any, tuple]]:
    """The loss of the pairs that `pairs_of` makes of a text's rows and a key, in evaluation always the same one; rows
    that the text does not fill do not count."""
    cut, drop = (jax.random.key(0), None) if key is None else jax.random.split(key)
    pairs = pairs_of(batch["tokens"], cut)
    full_B1 = (batch["weights"].min(1, keepdims=True) > 0).astype(jnp.float32)
    pairs["weights"] = jnp.broadcast_to(full_B1, pairs["labels"].shape)
    return SequenceToSequence().loss(model, params, pairs, drop)
