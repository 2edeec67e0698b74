"""Networks with a memory of their own beside an LSTM that steers it: NTM and DNC, as values, and the module."""

import abc
import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.errors import UserError
from jaxlm.nn import init
from jaxlm.ops import memory
from jaxlm.sharding import weight

State = dict[str, Array]
EMPTY = 1e-6  # what an NTM's rows hold at first: all alike, so that it learns to write before it reads


@dataclasses.dataclass(frozen=True)
class MemoryUnitConfig(abc.ABC):
    """A memory of M rows of K numbers with H reading heads, and how the controller's words become reads and writes."""

    M: int = 32
    K: int = 16
    H: int = 1

    def __post_init__(self):
        check(self, M=">= 2", K=">= 1", H=">= 1")

    @property
    @abc.abstractmethod
    def words(self) -> dict[str, tuple[int, ...]]:
        """What the controller says at each step, and its shape."""

    @abc.abstractmethod
    def start(self, B: int) -> State:
        """Before the first token; "reads" (B, H, K) is what the controller sees of it."""

    @abc.abstractmethod
    def step(self, state: State, said: State) -> State:
        """Writes, then reads."""


def _zeros(*shape: int) -> Array:
    return jnp.zeros(shape, out_sharding=sharding.out_sharding("batch", *(None,) * (len(shape) - 1)))


@dataclasses.dataclass(frozen=True)
class NTMConfig(MemoryUnitConfig):
    """Neural Turing machine (Graves et al. 2014, arXiv:1410.5401): rows are found by content or next to the last ones.

    H heads read and as many write; each moves by up to W // 2 rows a step.
    """

    W: int = 3  # rows that a head may move to: those next to where it is

    def __post_init__(self):
        super().__post_init__()
        if self.W % 2 == 0 or not 1 <= self.W <= self.M:
            raise UserError(f"W={self.W} must be odd and at most M={self.M}: a head stays or moves to either side")

    @property
    def words(self) -> dict[str, tuple[int, ...]]:
        n, H = 2 * self.H, self.H  # the first H heads read, the others write
        heads = {"key": (n, self.K), "strength": (n,), "gate": (n,), "shift": (n, self.W), "power": (n,)}
        return heads | {"erase": (H, self.K), "add": (H, self.K)}

    def start(self, B: int) -> State:
        weights = _zeros(B, 2 * self.H, self.M).at[..., 0].set(1)
        return {"memory": _zeros(B, self.M, self.K) + EMPTY, "weights": weights, "reads": _zeros(B, self.H, self.K)}

    def step(self, state: State, said: State) -> State:
        softplus, sigmoid = jax.nn.softplus, jax.nn.sigmoid
        w = memory.content_weights(state["memory"], jnp.tanh(said["key"]), softplus(said["strength"]))
        w = memory.interpolate(w, state["weights"], sigmoid(said["gate"]))
        w = memory.shift(w, jax.nn.softmax(said["shift"], -1))
        w = memory.sharpen(w, 1 + softplus(said["power"]))
        erase, add = sigmoid(said["erase"]), jnp.tanh(said["add"])
        rows = memory.erase_and_add(state["memory"], w[:, self.H :], erase, add)
        return {"memory": rows, "weights": w, "reads": memory.read(rows, w[:, : self.H])}


@dataclasses.dataclass(frozen=True)
class DNCConfig(MemoryUnitConfig):
    """Differentiable neural computer (Graves et al. 2016, Nature 538): one head writes where there is room or by
    content, H read by content or in the order of writing."""

    @property
    def words(self) -> dict[str, tuple[int, ...]]:
        H, K = self.H, self.K
        reading = {"key": (H, K), "strength": (H,), "free": (H,), "mode": (H, 3)}
        writing = {"write_key": (1, K), "write_strength": (1,), "erase": (1, K), "add": (1, K)}
        return reading | writing | {"allocate": (1,), "write": (1,)}

    def start(self, B: int) -> State:
        M, reads = self.M, (B, self.H)
        state = {"memory": (B, M, self.K), "usage": (B, M), "links": (B, M, M), "last": (B, M), "wrote": (B, M)}
        return {name: _zeros(*shape) for name, shape in state.items()} | {
            "saw": _zeros(*reads, M),
            "reads": _zeros(*reads, self.K),
        }

    def step(self, state: State, said: State) -> State:
        oneplus, sigmoid = lambda x: 1 + jax.nn.softplus(x), jax.nn.sigmoid
        rows, saw = state["memory"], state["saw"]
        used = memory.usage(state["usage"], state["wrote"], saw, sigmoid(said["free"]))
        content = memory.content_weights(rows, said["write_key"], oneplus(said["write_strength"]))
        w = memory.interpolate(memory.allocation(used)[:, None], content, sigmoid(said["allocate"]))
        w *= sigmoid(said["write"])[..., None]
        rows = memory.erase_and_add(rows, w, sigmoid(said["erase"]), said["add"])
        links, last = memory.link(state["links"], state["last"], w[:, 0])
        after, before = memory.follow(links, saw)
        content = memory.content_weights(rows, said["key"], oneplus(said["strength"]))
        saw = memory.read_mode(jax.nn.softmax(said["mode"], -1), before, content, after)
        found = {"memory": rows, "usage": used, "links": links, "last": last, "wrote": w[:, 0], "saw": saw}
        return found | {"reads": memory.read(rows, saw)}


class MemoryNetwork(nn.Module):
    """x_BTD, segments_BT -> y_BTD: an LSTM of Z units sees a token and what was read before and steers the memory; what
    it and the reads say together comes out. Every text begins with an empty memory. float32."""

    c: MemoryUnitConfig
    Z: int

    @nn.compact
    def __call__(self, x_BTD: Array, segments_BT: Array | None = None) -> Array:
        c, (B, _, D), Z = self.c, x_BTD.shape, self.Z
        sizes = {name: math.prod(shape) for name, shape in c.words.items()}
        matrix = lambda name, rows, columns: weight(self, name, (rows, columns), (None, None), init.fan_in((0,)), (0,))
        width = D + c.H * c.K + Z
        w_x4Z, b_4Z = matrix("lstm", width, 4 * Z), weight(self, "lstm_bias", (4, Z), (None, None), _open)
        count = sum(sizes.values())
        w_words, b_words = matrix("words", Z, count), weight(self, "words_bias", (count,), (None,))
        w_out = matrix("out", Z + c.H * c.K, D)
        ends = [sum([*sizes.values()][: i + 1]) for i in range(len(sizes) - 1)]
        zero = c.start(B) | {"h": _zeros(B, Z), "c": _zeros(B, Z)}

        def step(state: State, at: tuple[Array, Array]) -> tuple[State, Array]:
            x_BD, fresh_B = at
            mark = lambda x: fresh_B.reshape(B, *(1,) * (x.ndim - 1))
            state = jax.tree.map(lambda a, b: jnp.where(mark(a), b, a), state, zero)
            seen = jnp.concatenate([x_BD, state["reads"].reshape(B, -1), state["h"]], 1)
            i, f, g, o = jnp.moveaxis((seen @ w_x4Z).reshape(B, 4, Z) + b_4Z[None], 1, 0)
            cell = jax.nn.sigmoid(f) * state["c"] + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(cell)
            words = jnp.split(h @ w_words + b_words[None], ends, 1)
            said = {name: x.reshape(B, *shape) for (name, shape), x in zip(c.words.items(), words, strict=True)}
            state = c.step({k: x for k, x in state.items() if k not in "hc"}, said) | {"h": h, "c": cell}
            return state, jnp.concatenate([h, state["reads"].reshape(B, -1)], 1)

        x_BTD = sharding.constrain(x_BTD, "batch", None, None).astype(jnp.float32)
        if segments_BT is None:
            fresh_BT = jnp.zeros_like(x_BTD[..., 0], bool)
        else:
            segments_BT = sharding.replicated(segments_BT, 1)
            before_BT = jnp.concatenate([segments_BT[:, :1], segments_BT[:, :-1]], 1)
            fresh_BT = segments_BT != before_BT
        _, y = lax.scan(step, zero, (jnp.moveaxis(x_BTD, 1, 0), jnp.moveaxis(fresh_BT, 1, 0)))
        return jnp.moveaxis(y, 0, 1) @ w_out


def _open(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """The forget gate begins open."""
    return jnp.zeros(shape, dtype).at[1].set(1)
