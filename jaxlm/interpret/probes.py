"""Probes: what can be read off a model's residual stream, by a matrix or by a small network.

A probe learns S answers at once, each one of C classes, from a vector: of Othello the 64 squares, each empty, mine or
yours (Li et al. 2023, arXiv:2210.13382; Nanda et al. 2023, arXiv:2309.00941). What it says of vectors it has not seen
shows what the model knows, and of a model of random weights what the probe itself can do.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.typing import ArrayLike

from jaxlm.axes import Array, Params
from jaxlm.errors import UserError
from jaxlm.models.lm import LM, LMConfig
from jaxlm.models.model import forward, layers
from jaxlm.nn.stack import unstack


def streams(config: LMConfig, params: Params, tokens_BT: Array, *args: Any) -> Array:
    """(N, B, T, D): the residual stream after each of N layers; `args` go on as in `models.LM.forward`."""
    places = {layer.path(stacked=False): layer.number for layer in layers(config)}
    seen: dict[int, Array] = {}

    def record(call, args, kwargs, context):
        out = call(*args, **kwargs)
        if context.method_name == "__call__" and context.module.path in places:
            seen[places[context.module.path]] = out[0]
        return out

    with nn.intercept_methods(record):
        forward(LM(config, stacked=False), unstack(params), tokens_BT, *args)
    return jnp.stack([seen[number] for number in sorted(seen)])


@struct.dataclass
class Probe:
    """x (n, D) -> scores (n, S, C): (x - mean) w + b, with `hidden` relu((x - mean) hidden + bias) in place of x."""

    mean_D: Array
    w: Array  # (D or F, S, C)
    b_SC: Array
    hidden: tuple[Array, Array] | None = None  # (D, F), (F,)

    def __call__(self, x_nD: ArrayLike) -> Array:
        x = jnp.asarray(x_nD, jnp.float32) - self.mean_D[None]
        if self.hidden is not None:
            x = jax.nn.relu(x @ self.hidden[0] + self.hidden[1][None])
        return jnp.einsum("nd,dsc->nsc", x, self.w) + self.b_SC[None]

    def accuracy(self, x_nD: ArrayLike, labels_nS: ArrayLike) -> Array:
        """The share of right answers, of each of S (S,)."""
        return jnp.mean(jnp.argmax(self(x_nD), -1) == jnp.asarray(labels_nS), 0)


def linear_probe(x_nD: ArrayLike, labels_nS: ArrayLike, classes: int, ridge: float = 1e-3) -> Probe:
    """Ridge regression onto one-hot answers in closed form: w = (X^T X + n r s I)^-1 X^T Y, X and Y without their
    means, s the mean variance of X. Raises UserError for labels that are none of the classes."""
    x, y_nSC = _given(x_nD, labels_nS, classes)
    mean_D, mean_SC = x.mean(0), y_nSC.mean(0)
    x = x - mean_D[None]
    gram_DD = x.T @ x
    D = len(gram_DD)
    gram_DD += ridge * jnp.trace(gram_DD) / D * jnp.eye(D)
    w = jnp.linalg.solve(gram_DD, x.T @ (y_nSC - mean_SC[None]).reshape(len(x), -1))
    return Probe(mean_D, w.reshape(D, *mean_SC.shape), mean_SC)


def nonlinear_probe(
    x_nD: ArrayLike,
    labels_nS: ArrayLike,
    classes: int,
    F: int = 128,
    steps: int = 500,
    batch: int = 512,
    rate: float = 1e-3,
    key: Array | None = None,
) -> Probe:
    """A network of one hidden layer, by Adam on the cross-entropy of `steps` batches. Raises as `linear_probe`."""
    x, y_nSC = _given(x_nD, labels_nS, classes)
    init_key, out_key, steps_key = jax.random.split(jax.random.key(0) if key is None else key, 3)
    (n, D), (S, C) = x.shape, y_nSC.shape[1:]
    scale = 1 / jnp.sqrt(jnp.mean(jnp.var(x, 0)) + 1e-12)  # so that the first layer sees numbers of size one
    first = jax.random.normal(init_key, (D, F)) * scale / jnp.sqrt(D), jnp.zeros(F)
    last = jax.random.normal(out_key, (F, S, C)) / jnp.sqrt(F), jnp.zeros((S, C))
    optimizer, mean_D = optax.adam(rate), x.mean(0)

    def loss(weights: Any, at: Array) -> Array:
        hidden, (w, b_SC) = weights
        return -jnp.sum(jax.nn.log_softmax(Probe(mean_D, w, b_SC, hidden)(x[at])) * y_nSC[at]) / len(at)

    def step(carry: Any, key: Array) -> tuple[Any, None]:
        weights, state = carry
        gradient = jax.grad(loss)(weights, jax.random.randint(key, (min(batch, n),), 0, n))
        updates, state = optimizer.update(gradient, state, weights)
        return (optax.apply_updates(weights, updates), state), None

    weights = first, last
    (hidden, (w, b_SC)), _ = jax.lax.scan(step, (weights, optimizer.init(weights)), jax.random.split(steps_key, steps))[
        0
    ]
    return Probe(mean_D, w, b_SC, hidden)


def _given(x_nD: ArrayLike, labels_nS: ArrayLike, classes: int) -> tuple[Array, Array]:
    """The vectors in float32, and the labels as one-hot vectors (n, S, classes)."""
    x, labels = jnp.asarray(x_nD, jnp.float32), jnp.asarray(labels_nS)
    if x.ndim != 2 or labels.ndim != 2 or len(x) != len(labels):
        raise UserError(f"a probe learns from (n, D) vectors and (n, S) labels, not {x.shape} and {labels.shape}")
    if jnp.min(labels) < 0 or jnp.max(labels) >= classes:
        raise UserError(f"a label is none of {classes} classes: they are numbered from 0 to {classes - 1}")
    return x, jax.nn.one_hot(labels, classes)
