import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import compat, models, sharding
from jaxlm.decode import generate, prepare
from jaxlm.errors import UserError
from jaxlm.models import LM, flops
from jaxlm.nn import BlockConfig, Context, ElmanConfig, GRUConfig, LayersConfig, LSTMConfig, unstack
from jaxlm.objectives import NextToken
from jaxlm.ops import elman, gru, lstm
from jaxlm.optim import OptimizerConfig, columns
from jaxlm.sharding import Axes, MeshConfig
from tests import tiny
from tests.meshes import lies, name, on
from tests.train.test_step import take
from tests.weights import boxed, weights

B, T, D, Z = 4, 7, 8, 12
X = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
START = np.array([0, 2, 0, 1])  # left padding
POSITIONS = np.arange(T)[None] - START[:, None]
SEGMENTS = (POSITIONS >= 0).astype(np.int32)
CONTEXT = Context(POSITIONS, SEGMENTS)
CONFIGS = {
    "lstm": LSTMConfig(Z),
    "lstm blocks": LSTMConfig(Z, H=2, bias_out=True),
    "gru": GRUConfig(Z),
    "gru blocks": GRUConfig(Z, H=4),
    "gru bare": GRUConfig(Z, bias=False),
    "elman": ElmanConfig(Z),
}
ALL = pytest.mark.parametrize("c", CONFIGS.values(), ids=CONFIGS)


def built(c):
    return c.build(3, "mixer")


@ALL
def test_it_projects_and_recurs(c):
    p = weights(built(c), X, CONTEXT)
    x = np.einsum("btd,dnhk->btnhk", X, p["x"]) + p.get("bias", 0)
    if isinstance(c, LSTMConfig):
        h, state = lstm(x, p["h"], None, None, SEGMENTS)
    elif isinstance(c, ElmanConfig):
        h, state = elman(x, p["h"], None, None, SEGMENTS)
    else:
        bias = np.zeros((3, c.H, Z // c.H), np.float32)
        bias[2] = p.get("bias_h", 0)
        h, state = gru(x, p["h"], bias, None, SEGMENTS)
    y, found = jax.jit(lambda p: built(c).apply({"params": p}, X, CONTEXT))(p)
    np.testing.assert_allclose(y, np.einsum("bthk,hkd->btd", h, p["o"]) + p.get("o_bias", 0), atol=1e-5)
    chex.assert_trees_all_close(found.value, state, atol=1e-5)


@ALL
@pytest.mark.parametrize("new", [1, 3])
def test_a_past_is_as_good_as_the_whole_text(c, new):
    p = weights(built(c), X, CONTEXT)
    apply = jax.jit(lambda x, context, past: built(c).apply({"params": p}, x, context, past))
    cut = lambda at: (X[:, at], Context(POSITIONS[:, at], SEGMENTS[:, at]))
    whole, last = apply(X, CONTEXT, None)
    empty = c.init_cache(B, T, jnp.bfloat16)
    _, state = apply(*cut(slice(T - new)), empty)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, empty)
    y, state = apply(*cut(slice(T - new, T)), state)
    np.testing.assert_allclose(y, whole[:, T - new :], atol=1e-5)
    chex.assert_trees_all_close(state, last, atol=1e-5)


def test_the_state_has_one_size():
    shapes = lambda c, length: [x.shape for x in c.init_cache(5, length, jnp.float32).value]
    assert shapes(CONFIGS["lstm blocks"], 1) == shapes(CONFIGS["lstm blocks"], 10**6) == [(5, 2, 6)] * 2
    assert shapes(CONFIGS["gru"], 1) == [(5, 1, 12)]
    with on(MeshConfig(2, 2, 2)):
        assert lies(CONFIGS["gru blocks"].init_cache(8, 4, jnp.float32).value[0], "batch", "heads", None)


def test_names_shapes_and_axes_of_the_weights():
    assert sharding.axes_of(boxed(built(CONFIGS["lstm blocks"]), X, CONTEXT)) == {
        "x": Axes(("embed", None, "heads", None), (0,)),
        "h": Axes(("heads", None, None, None), (1,)),
        "bias": Axes((None, "heads", None)),
        "o": Axes(("heads", None, "embed"), (0, 1)),
        "o_bias": Axes((None,)),
    }
    tree = boxed(built(CONFIGS["gru"]), X, CONTEXT)
    assert sharding.axes_of(tree) == {
        "x": Axes(("embed", None, None, "heads"), (0,)),
        "h": Axes((None, "embed", None, None), (1,)),
        "bias": Axes((None, None, "heads")),
        "bias_h": Axes((None, "heads")),
        "o": Axes((None, "heads", "embed"), (0, 1)),
    }
    shapes = jax.tree.map(lambda x: x.shape, sharding.unbox(tree))
    assert shapes["x"] == (D, 3, 1, Z) and shapes["h"] == (1, Z, 3, Z) and shapes["o"] == (1, Z, D)
    assert columns(Axes(("layers", "heads", None, None, None), (2,))) == (3, 4)  # blocks are matrices of their own


def test_how_the_weights_begin():
    p = sharding.unbox(built(LSTMConfig(Z, H=2)).init(jax.random.key(0), X, CONTEXT)["params"])
    np.testing.assert_array_equal(p["bias"], np.broadcast_to(np.array([0, 1, 0, 0])[:, None, None], (4, 2, 6)))
    for h, n in np.ndindex(2, 4):
        np.testing.assert_allclose(p["h"][h, :, n] @ p["h"][h, :, n].T, np.eye(6), atol=1e-5)


def test_what_makes_no_sense():
    with pytest.raises(UserError, match="H=5 blocks must divide Z=12"):
        LSTMConfig(12, H=5)
    with pytest.raises(UserError, match="Z=0 must be at least 1"):
        GRUConfig(0)


# A language model of them --------------------------------------------------------------------------------------------

MODELS = {kind: tiny.model(D=16, layers=(LayersConfig((BlockConfig(c, None),), 2),)) for kind, c in CONFIGS.items()}


@functools.cache
def params(kind):
    return jax.tree.map(jnp.asarray, weights(LM(MODELS[kind]), jnp.zeros((1, 1), jnp.int32)))


@pytest.mark.parametrize("kind", ["lstm", "gru blocks"])
def test_generating_is_the_full_forward(kind):
    config, tree = prepare(MODELS[kind], params(kind))
    tokens = np.random.default_rng(0).integers(0, config.V, (2, 6)).astype(np.int32)
    mask = np.array([[0, 0, 1, 1, 1, 1], [1] * 6])
    new, logprobs = generate(config, tree, tokens, mask_BT=mask, max_new_tokens=9)
    text, mask = np.concatenate([tokens, new], 1), np.pad(mask, ((0, 0), (0, 9)), constant_values=1)
    positions = np.maximum(mask.cumsum(1) - 1, 0)
    logits = LM(config, stacked=False).apply({"params": unstack(params(kind))}, text, positions, mask)[:, 5:-1]
    np.testing.assert_array_equal(new, np.argmax(logits, -1))
    expected = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), new[..., None], -1)[..., 0]
    np.testing.assert_allclose(logprobs, expected, atol=1e-4)


BATCH = tiny.batch(16)  # packed: two documents a row, and padding


OLD = pytest.mark.skipif(
    compat.older(0, 10), reason="on an explicit mesh this jax merges no dimensions where another one is 1"
)


def numbers(kind, mesh_config):
    """Loss and gradients."""

    def loss(params, batch):
        out, _ = NextToken().loss(MODELS[kind], params, batch)
        return out.total / out.weight

    axes, tree = models.abstract(MODELS[kind])[1], params(kind)
    with on(mesh_config) as put:
        p = jax.tree.map(lambda a, w: put(w, *a.names), axes, tree, is_leaf=lambda a: isinstance(a, Axes))
        return jax.device_get(
            jax.jit(jax.value_and_grad(loss))(p, {name: put(x, "batch", None) for name, x in BATCH.items()})
        )


@pytest.mark.parametrize(
    "kind, mesh",
    [
        ("lstm", MeshConfig(2, 2, 2)),
        ("lstm blocks", MeshConfig(2, 2, 2, explicit=False)),
        ("gru", MeshConfig(data=2, context=2, tensor=2)),
        ("gru blocks", MeshConfig(data=1, fsdp=2, tensor=4)),
        ("gru blocks", MeshConfig(data=2, stage=2, fsdp=2)),
        pytest.param("lstm", MeshConfig(data=2, stage=2, fsdp=2), marks=OLD),
    ],
    ids=lambda x: x if isinstance(x, str) else name(x) + "-stages" * (x.stage > 1),
)
def test_a_mesh_changes_no_number(kind, mesh):
    chex.assert_trees_all_close(numbers(kind, mesh), numbers(kind, None), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["lstm blocks", "gru"])
def test_it_learns(kind):
    """A batch by heart."""
    run = tiny.run(model=MODELS[kind], batch=16, optimizer=OptimizerConfig(learning_rate=3e-2, warmup=0), steps=12)
    _, metrics = take(run, [BATCH] * run.steps)
    assert metrics["loss"] < np.log(264) - 0.5


def test_what_it_costs():
    config = MODELS["lstm"]
    per_layer = 4 * 16 * Z + 4 * Z * Z + Z * 16
    assert flops.matmul_parameters(config) == 2 * per_layer + 264 * 16
    assert flops.train_flops(config, 10) == flops.train_flops(config, 1000) == 6 * flops.matmul_parameters(config)
