"""Everything a run carries from step to step."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxlm.axes import Array, Params


@struct.dataclass
class State:
    step: Array  # int32, steps taken
    params: Params  # those that are trained
    opt_state: Any
    key: Array  # the run's random key; a step uses fold_in(key, step)
    ema: Params | None = None

    @property
    def eval_params(self) -> Params:
        """The weights to evaluate and sample with: the moving average where there is one."""
        return self.params if self.ema is None else self.ema


def finite(state: State) -> bool:
    """Whether all weights, their moving average and the optimizer's moments are finite. Waits for them."""
    leaves = jax.tree.leaves((state.params, state.ema, state.opt_state))
    return all(jax.device_get([_finite(x) for x in leaves]))


@jax.jit
def _finite(x: Array) -> Array:
    x = jax.device_put(x, jax.memory.Space.Device)  # from host memory, where it lies there
    return jnp.isfinite(x).all()
