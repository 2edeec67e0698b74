"""What a batch asks of a model, as a value: which arrays it has, and the sums that are minimised and shown."""

import abc
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxlm.axes import Array, Params
from jaxlm.errors import UserError
from jaxlm.models import ModelConfig, flops

Batch = dict[str, Array]


class Spec(NamedTuple):
    """One array of a batch, as one row of it."""

    shape: tuple[int, ...]
    dtype: Any
    axes: tuple[str | None, ...]  # logical, see sharding.RULES


@struct.dataclass
class Sums:
    """Sums over what counts in a batch, so that parts of it can be added before dividing by `weight`."""

    total: Array  # what is minimised, summed
    weight: Array  # how much was counted: tokens, rows, pairs
    shown: dict[str, Array]  # what else is told, summed: "nll" in nats, hits of "accuracy", ...

    def __add__(self, other: "Sums") -> "Sums":
        return jax.tree.map(jnp.add, self, other)


class Objective(abc.ABC):
    """A frozen dataclass that trains any model that can serve it. Objectives and models do not know each other's
    kinds: an objective calls the model's `forward`, and `check` says what it needs of it."""

    @abc.abstractmethod
    def spec(self, data: Any) -> dict[str, Spec]:
        """The arrays of a batch of `data`."""

    @abc.abstractmethod
    def loss(
        self, model: ModelConfig, params: Params, batch: Batch, key: Array | None = None
    ) -> tuple[Sums, dict[Any, tuple]]:
        """The sums of a batch, and the model's statistics (`models.Output`).

        With a key it is training: dropout and what regularises are on. Without one it is evaluation, and the same for
        the same batch.
        """

    def check(self, model: ModelConfig) -> None:  # noqa: B027
        """Raises UserError for a model that cannot serve this objective."""

    def lengths(self, data: Any) -> dict[str, int]:
        """How many positions of each kind a row has, by axis letter."""
        return {"T": data.T}

    def flops(self, model: ModelConfig, data: Any) -> float:
        """Training FLOPs of one row."""
        return model.flops(self.lengths(data))

    @property
    def adds(self) -> bool:
        """Whether what is minimised is more than the loss that is shown."""
        return False


def tokens(T: int) -> dict[str, Spec]:
    """What `data.pack` makes of text: rows of T tokens and their labels, documents apart."""
    row = lambda dtype: Spec((T,), dtype, ("positions",))
    names = ("tokens", "labels", "positions", "segments")
    return {name: row(jnp.int32) for name in names} | {"weights": row(jnp.float32)}


def is_causal(model: ModelConfig) -> bool:
    """Whether no layer lets a token see later ones."""
    return all(mixer.causal for mixer in flops.mixers(model))


def unfit(objective: Objective, model: ModelConfig, why: str) -> UserError:
    return UserError(f"objective {type(objective).__name__} cannot train this {type(model).__name__}: {why}")
