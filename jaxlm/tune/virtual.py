"""Prompt tuning, P-tuning and prefix tuning: virtual tokens before a frozen model's texts."""

import dataclasses
import math
from typing import Any

import jax

from jaxlm.axes import Array, Params
from jaxlm.config_check import check
from jaxlm.errors import UserError, unknown
from jaxlm.ops.reparametrise import KINDS, fresh
from jaxlm.sharding import Axes
from jaxlm.trains import Trains

NAMES = ("prompt", "prefix")


@dataclasses.dataclass(frozen=True)
class Virtual(Trains):
    """Trains the virtual tokens that the model's config has (`virtual`, see `nn.virtual`): a prompt (Lester et al.
    2021, arXiv:2104.08691) or a prefix (Li & Liang 2021, arXiv:2101.00190).

    With `network` they are computed by one while they are trained, as peft has it: of a prompt "mlp" or "lstm"
    (P-tuning; Liu et al. 2021, arXiv:2103.10385), of a prefix "mlp"; `hidden` is its width. See `ops.reparametrise`.
    """

    network: str = ""
    hidden: int = 128

    def __post_init__(self):
        check(self, hidden=">= 1")
        if self.network and self.network not in KINDS:
            raise unknown("network", self.network, KINDS)

    def dress(self, params: Params, axes: Params, key: Array) -> Params:
        if not self.network:
            return params
        return {name: self._computed(name, w.shape, key) if name in NAMES else w for name, w in params.items()}

    def dress_axes(self, axes: Params) -> Params:
        if not self.network or not (found := [name for name in NAMES if name in axes]):
            return axes
        of = lambda x: Axes((None,) * x.ndim, (0,) if x.ndim > 1 else ())
        shape = (2, 2) if found[0] == "prompt" else (2, 2, 1, 1)  # any: only what is there counts
        made = jax.eval_shape(lambda: self._computed(found[0], shape, jax.random.key(0)))
        return axes | {found[0]: jax.tree.map(of, made)}

    def check(self, axes: Params) -> None:
        if not any(name in axes for name in NAMES):
            raise UserError(f"trains={self}: the model has no virtual tokens: set model.virtual")
        if "prefix" in axes and self.network == "lstm":
            raise UserError(f"trains={self}: a prefix is computed by an mlp")

    def chooses(self, path: str) -> bool:
        return path.startswith(NAMES)

    def _computed(self, name: str, shape: tuple[int, ...], key: Array) -> Any:
        kind = "prefix" if name == "prefix" else self.network
        return fresh(key, kind, math.prod(shape[2:]) if name == "prefix" else shape[1], self.hidden, shape)
