"""What every mixer with a state of one size must be, whatever it computes: for the tests of each."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxlm import models, sharding
from jaxlm.decode import generate, prepare
from jaxlm.models import LM, LMConfig
from jaxlm.nn import Context, LayerConfig, LayersConfig, MixerConfig, unstack
from jaxlm.objectives import NextToken
from jaxlm.optim import OptimizerConfig
from jaxlm.sharding import Axes, MeshConfig
from tests import tiny
from tests.meshes import on
from tests.train.test_step import take
from tests.weights import weights

B, T, D = 4, 7, 8
X = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
START = np.array([0, 2, 0, 1])  # left padding
POSITIONS = np.arange(T)[None] - START[:, None]
SEGMENTS = (POSITIONS >= 0).astype(np.int32)
CONTEXT = Context(POSITIONS, SEGMENTS)


def initial(c: MixerConfig) -> Any:
    """Parameters as they begin."""
    return sharding.unbox(c.build(3, "mixer").init(jax.random.key(0), X, CONTEXT)["params"])


def a_past_is_the_whole_text(c: MixerConfig, new: int) -> None:
    p = initial(c)
    apply = jax.jit(lambda x, context, past: c.build(3, "mixer").apply({"params": p}, x, context, past))
    cut = lambda at: (X[:, at], Context(POSITIONS[:, at], SEGMENTS[:, at]))
    whole, last = apply(X, CONTEXT, None)
    empty = c.init_cache(B, T, jnp.bfloat16)
    _, state = apply(*cut(slice(T - new)), empty)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, empty)
    y, state = apply(*cut(slice(T - new, T)), state)
    np.testing.assert_allclose(y, whole[:, T - new :], atol=1e-5)
    chex.assert_trees_all_close(state, last, atol=1e-5)


def the_state_has_one_size(c: MixerConfig) -> None:
    shapes = lambda length: [x.shape for x in jax.tree.leaves(c.init_cache(5, length, jnp.float32))]
    assert shapes(1) == shapes(10**6)


def model(layer: LayerConfig, **changes: Any) -> LMConfig:
    return tiny.model(D=16, layers=(LayersConfig((layer,), 2),), **changes)


def params(config: LMConfig) -> Any:
    return sharding.unbox(jax.jit(models.init_boxed, static_argnums=0)(config, jax.random.key(0)))


def generating_is_the_full_forward(config: LMConfig) -> None:
    """With prompts of different lengths, padded on the left."""
    stacked = params(config)
    decoded, tree = prepare(config, stacked)
    tokens = np.random.default_rng(0).integers(0, config.V, (2, 6)).astype(np.int32)
    mask = np.array([[0, 0, 1, 1, 1, 1], [1] * 6])
    new, logprobs = generate(decoded, tree, tokens, mask_BT=mask, max_new_tokens=9)
    text, mask = np.concatenate([tokens, new], 1), np.pad(mask, ((0, 0), (0, 9)), constant_values=1)
    positions = np.maximum(mask.cumsum(1) - 1, 0)
    logits = LM(decoded, stacked=False).apply({"params": unstack(stacked)}, text, positions, mask)[:, 5:-1]
    np.testing.assert_array_equal(new, np.argmax(logits, -1))
    expected = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), new[..., None], -1)[..., 0]
    np.testing.assert_allclose(logprobs, expected, atol=1e-4)


BATCH = tiny.batch(16)  # packed: two documents a row, and padding


def _numbers(config: LMConfig, mesh: MeshConfig | None) -> Any:
    """Loss and gradients."""

    def loss(params, batch):
        out, _ = NextToken().loss(config, params, batch)
        return out.total / out.weight

    axes, tree = models.abstract(config)[1], params(config)
    with on(mesh) as put:
        p = jax.tree.map(lambda a, w: put(w, *a.names), axes, tree, is_leaf=lambda a: isinstance(a, Axes))
        batch = {name: put(x, "batch", None) for name, x in BATCH.items()}
        return jax.device_get(jax.jit(jax.value_and_grad(loss))(p, batch))


def a_mesh_changes_no_number(config: LMConfig, mesh: MeshConfig) -> None:
    chex.assert_trees_all_close(_numbers(config, mesh), _numbers(config, None), rtol=1e-4, atol=1e-5)


def it_learns(config: LMConfig) -> None:
    """A batch by heart."""
    run = tiny.run(model=config, batch=16, optimizer=OptimizerConfig(learning_rate=3e-2, warmup=0), steps=12)
    _, metrics = take(run, [BATCH] * run.steps)
    assert metrics["loss"] < np.log(264) - 0.5


def written(x: Any) -> np.ndarray:
    return np.asarray(x, np.float64)


def softplus(x: Any) -> Any:
    return np.logaddexp(0, x)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def silu(x: Any) -> Any:
    return x * sigmoid(x)


def perturbed(c: MixerConfig) -> Any:
    """Parameters as they begin and some noise, so that none is zero or one."""
    noise = weights(c.build(3, "mixer"), X, CONTEXT)
    return jax.tree.map(lambda p, n: p + 0.3 * n, initial(c), noise)
