"""Training what pruning left, and pruning while training."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.axes import Array, Params
from jaxlm.models import ModelConfig
from jaxlm.ops.leaves import Masked
from jaxlm.sharding import Axes
from jaxlm.trains import Trains, is_axes
from jaxlm.tune.prune import prune
from jaxlm.tune.quantize import is_matrix

Train = Callable[[Params, int], Params]  # parameters, and which round it is


@dataclasses.dataclass(frozen=True)
class Kept(Trains):
    """Trains every parameter, but weights of the layers' matrices that are zero at the start stay zero."""

    def dress(self, params: Params, axes: Params, key: Array) -> Params:
        masked = lambda a, w: Masked(w, w != 0) if is_matrix(a) else w
        return jax.tree.map(masked, axes, params, is_leaf=is_axes)

    def dress_axes(self, axes: Params) -> Params:
        def masked(a: Any) -> Any:
            mask: Any = Axes(a.names)
            return Masked(a, mask) if is_matrix(a) else a

        return jax.tree.map(masked, axes, is_leaf=is_axes)

    def chooses(self, path: str) -> bool:
        return not path.endswith(".mask")


def gradual(
    config: ModelConfig, params: Params, train: Train, shares: Sequence[float], method: str = "magnitude", **how: Any
) -> Params:
    """Pruned a little more each round, and trained between: `shares` as those of `prune.cubic` (Zhu & Gupta 2017,
    arXiv:1710.01878). `train` trains with `Kept`; `how` are further arguments of `prune`."""
    for i, share in enumerate(shares):
        params = train(prune(config, params, share, method, **how)[0], i)
    return params


def lottery_ticket(
    config: ModelConfig, start: Params, train: Train, shares: Sequence[float], method: str = "magnitude", **how: Any
) -> Params:
    """The weights of `start`, zero where those trained from it are pruned: to be trained again (Frankle & Carbin 2018,
    arXiv:1803.03635). A `start` from early in training is rewound to (Frankle et al. 2019, arXiv:1903.01611). Each
    round trains what the one before left, and prunes to the next of `shares`."""
    ticket = start
    for i, share in enumerate(shares):
        trained = prune(config, train(ticket, i), share, method, **how)[0]
        ticket = jax.tree.map(lambda first, last: jnp.where(last == 0, 0, first), start, trained)
    return ticket
