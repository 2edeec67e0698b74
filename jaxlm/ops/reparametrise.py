"""Virtual tokens computed from an embedding by a network that is left behind after training."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxlm.axes import Array
from jaxlm.ops.leaves import Leaf
from jaxlm.ops.rnn import lstm

KINDS = ("mlp", "lstm")


@struct.dataclass
class Reparametrised(Leaf):
    """n virtual tokens f(embedding), (n, ...); the weights of f are trained too.

    "prefix": tanh(e W1 + b1) W2 + b2 (Li & Liang 2021, arXiv:2101.00190). "mlp": two hidden layers with relu; "lstm":
    two layers of a bidirectional LSTM, then one hidden layer with relu (P-tuning; Liu et al. 2021, arXiv:2103.10385).
    """

    embedding: Array  # (n, D)
    weights: dict[str, Any]
    kind: str = struct.field(pytree_node=False)

    def dense(self) -> Array:
        w, x = self.weights, self.embedding
        layer = lambda x, name: jnp.tensordot(x, w[name], 1) + w[f"{name}_bias"][None]
        if self.kind == "prefix":
            return layer(jnp.tanh(layer(x, "first")), "last")
        if self.kind == "mlp":
            return layer(jax.nn.relu(layer(jax.nn.relu(layer(x, "first")), "second")), "last")
        for i in range(2):
            x = jnp.concatenate([_read(x, w[f"ahead_{i}"]), _read(x[::-1], w[f"back_{i}"])[::-1]], -1)
        return layer(jax.nn.relu(layer(x, "second")), "last")


def _read(x_nD: Array, w: dict[str, Array]) -> Array:
    """The states (n, K) of an LSTM."""
    x_n4K = jnp.einsum("nd,dgk->ngk", x_nD, w["x"]) + w["bias"][None]
    return lstm(x_n4K[None, :, :, None], w["h"][None])[0][0, :, 0]


def fresh(key: Array, kind: str, D: int, hidden: int, shape: tuple[int, ...]) -> Reparametrised:
    """For `shape` (n, ...): weights as PyTorch draws them, uniform within +-inputs^-0.5 (an LSTM's +-hidden^-0.5), and
    a normal embedding of width D."""
    keys = iter(jax.random.split(key, 32))
    uniform = lambda bound, *shape: jax.random.uniform(next(keys), shape, minval=-bound, maxval=bound)
    weights: dict[str, Any] = {}

    def layer(name: str, ins: int, *outs: int) -> None:
        weights[name], weights[f"{name}_bias"] = uniform(ins**-0.5, ins, *outs), uniform(ins**-0.5, *outs)

    wide = 2 * hidden if kind == "lstm" else hidden
    if kind == "lstm":
        for i, ins in enumerate((D, wide)):
            for name in (f"ahead_{i}", f"back_{i}"):
                sizes = {"x": (ins, 4, hidden), "h": (hidden, 4, hidden), "bias": (4, hidden)}
                weights[name] = {part: uniform(hidden**-0.5, *size) for part, size in sizes.items()}
    else:
        layer("first", D, hidden)
    if kind != "prefix":
        layer("second", wide, wide)
    layer("last", wide, *shape[1:])
    return Reparametrised(jax.random.normal(next(keys), (shape[0], D)), weights, kind)
