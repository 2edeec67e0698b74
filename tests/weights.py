"""Weights for tests: of a module, none of them zero or one, so that leaving one out shows."""

from typing import Any

import flax.linen as nn
import jax
import numpy as np

from jaxlm import sharding
from jaxlm.axes import Params


def boxed(module: nn.Module, *args: Any, **kwargs: Any) -> Params:
    """Shapes of the parameters of `module`, in their boxes. Computes nothing."""
    return jax.eval_shape(lambda: module.init(jax.random.key(0), *args, **kwargs))["params"]


def weights(module: nn.Module, *args: Any, seed: int = 0, **kwargs: Any) -> Params:
    """Random weights for `module`, of the size of fresh ones."""
    rng = np.random.default_rng(seed)
    one = lambda x: np.asarray(rng.normal(size=x.shape) / np.sqrt(x.shape[-1]), np.float32)
    return jax.tree.map(one, sharding.unbox(boxed(module, *args, **kwargs)))
