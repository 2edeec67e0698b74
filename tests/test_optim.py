import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from jaxlm.errors import UserError
from jaxlm.optim import OptimizerConfig, decays, like_weights, make, muon_dimensions, schedule
from jaxlm.sharding import Axes, MeshConfig, make_mesh, shardings

AXES = {
    "table": Axes(("vocab", "embed")),
    "stack": {
        "q": Axes(("layers", "embed", "heads", None), (1,)),
        "out": Axes(("layers", "heads", None, "embed"), (1, 2)),
        "norm": Axes(("layers", None)),
        "bias": Axes(("layers", "mlp")),
    },
    "head": Axes(("embed", "vocab"), (0,)),
    "head_bias": Axes(("vocab",)),
}
SHAPES = {
    "table": (64, 16),
    "stack": {"q": (3, 16, 4, 8), "out": (3, 4, 8, 16), "norm": (3, 16), "bias": (3, 32)},
    "head": (16, 64),
    "head_bias": (64,),
}


def random_like(shapes, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32), shapes, is_leaf=lambda x: isinstance(x, tuple)
    )


@pytest.fixture(scope="module")
def params():
    return random_like(SHAPES, 0)


@pytest.fixture(scope="module")
def grads():
    return random_like(SHAPES, 1)


def values(config, steps):
    f = schedule(config, steps)
    return [float(f(i)) for i in range(steps + 1)]


def test_warmup_starts_above_zero_and_reaches_the_peak():
    v = values(OptimizerConfig(learning_rate=1.0, schedule="constant", warmup=3), 10)
    np.testing.assert_allclose(v, [0.25, 0.5, 0.75] + [1.0] * 8, rtol=1e-6)


@pytest.mark.parametrize("warmup", [0, 4])
def test_cosine_and_linear_end_at_the_final_fraction(warmup):
    config = OptimizerConfig(learning_rate=2.0, warmup=warmup, final=0.1)
    cosine = values(config, 20)
    linear = values(dataclasses.replace(config, schedule="linear"), 20)
    for v in (cosine, linear):
        assert v[warmup] == pytest.approx(2.0) and v[20] == pytest.approx(0.2)
        assert all(a > b for a, b in zip(v[warmup:], v[warmup + 1 :]))
    half = (warmup + 20) // 2
    assert cosine[half] == pytest.approx(1.1) and linear[half] == pytest.approx(1.1)
    assert cosine[half - 3] > linear[half - 3]


def test_wsd_is_constant_until_the_last_fraction():
    v = values(OptimizerConfig(learning_rate=1.0, schedule="wsd", warmup=2, decay=0.2, final=0.0), 20)
    np.testing.assert_allclose(v[2:17], 1.0, rtol=1e-6)
    np.testing.assert_allclose(v[16:], [1, 0.75, 0.5, 0.25, 0], atol=1e-6)


def test_noam_is_the_schedule_of_the_paper():
    D, warmup = 512, 4
    v = values(OptimizerConfig(learning_rate=(D * warmup) ** -0.5, schedule="noam", warmup=warmup), 20)
    np.testing.assert_allclose(v, [D**-0.5 * min(t**-0.5, t * warmup**-1.5) for t in range(1, 22)], rtol=1e-6)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"schedule": "cosin"}, "cosine"),
        ({"schedule": "noam"}, "set warmup"),
        ({"warmup": 10}, "warmup=10"),
        ({"warmup": -1}, "warmup=-1"),
        ({"schedule": "wsd", "warmup": 5, "decay": 0.9}, "decay=0.9"),
        ({"schedule": "wsd", "decay": 0.01}, "decay=0.01"),
    ],
)
def test_schedules_that_do_not_fit_are_refused(change, says):
    with pytest.raises(UserError, match=says):
        schedule(OptimizerConfig(**change), 10)


def test_what_decays():
    chex.assert_trees_all_equal(
        jax.tree.map(decays, AXES, is_leaf=lambda x: isinstance(x, Axes)),
        {
            "table": True,
            "stack": {"q": True, "out": True, "norm": False, "bias": False},
            "head": True,
            "head_bias": False,
        },
    )


FEW = {"muon": (("ns_steps", 1),)}  # iterations of Newton-Schulz: fewer compile faster


@pytest.mark.parametrize("name", ["adamw", "lion", "muon"])
def test_weight_decay_touches_only_what_decays(name, params, grads):
    def update(weight_decay):
        config = OptimizerConfig(
            name=name,
            learning_rate=0.5,
            schedule="constant",
            weight_decay=weight_decay,
            options=FEW.get(name, ()),
        )
        optimizer = make(config, AXES, 10)
        return jax.jit(optimizer.update)(grads, optimizer.init(params), params)[0]

    difference = jax.tree.map(lambda a, b: a - b, update(0.1), update(0.0))
    matrix = ("q", "out") if name == "muon" else ("q", "out", "table", "head")  # muon's Adam has its own decay
    for (path, d), p in zip(jax.tree_util.tree_leaves_with_path(difference), jax.tree.leaves(params)):
        np.testing.assert_allclose(d, -0.05 * p if path[-1].key in matrix else 0 * p, atol=1e-6, err_msg=str(path))


def test_default_is_clipped_adamw_with_its_options(params, grads):
    config = OptimizerConfig(learning_rate=0.1, options=(("b2", 0.95), ("mu_dtype", "bfloat16")))
    mask = jax.tree.map(decays, AXES, is_leaf=lambda x: isinstance(x, Axes))
    expected = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule(config, 10), b2=0.95, mu_dtype=jnp.bfloat16, weight_decay=0.1, mask=mask),
    )
    updates = []
    for optimizer in (make(config, AXES, 10), expected):
        state, p = optimizer.init(params), params
        for _ in range(3):
            u, state = jax.jit(optimizer.update)(grads, state, p)
            p = optax.apply_updates(p, u)
        updates.append(p)
    chex.assert_trees_all_equal(*updates)


def test_clip(params, grads):
    def update(clip):
        config = OptimizerConfig(name="sgd", learning_rate=1.0, schedule="constant", weight_decay=0.0, clip=clip)
        optimizer = make(config, AXES, 10)
        return jax.jit(optimizer.update)(grads, optimizer.init(params), params)[0]

    assert float(optax.tree.norm(update(0.5))) == pytest.approx(0.5, rel=1e-5)
    chex.assert_trees_all_close(update(None), jax.tree.map(lambda g: -g, grads))


def test_muon_orthogonalises_every_layer_as_its_flat_matrix(params, grads):
    config = OptimizerConfig(name="muon", learning_rate=0.1, schedule="constant", weight_decay=0.0, clip=None)
    optimizer = make(config, AXES, 10)
    updates = jax.jit(optimizer.update)(grads, optimizer.init(params), params)[0]

    def flat(g_MN):
        plain = optax.contrib.muon(0.1)  # its default: every 2-D array is a matrix from rows to columns
        return plain.update({"w": g_MN}, plain.init({"w": g_MN}), {"w": g_MN})[0]["w"]

    for n in range(3):
        q, out = grads["stack"]["q"][n], grads["stack"]["out"][n]
        np.testing.assert_allclose(updates["stack"]["q"][n], flat(q.reshape(16, 32)).reshape(16, 4, 8), atol=1e-6)
        np.testing.assert_allclose(updates["stack"]["out"][n], flat(out.reshape(32, 16)).reshape(4, 8, 16), atol=1e-6)
        singular = np.linalg.svd(np.asarray(updates["stack"]["q"][n]).reshape(16, 32), compute_uv=False)
        assert singular.max() / singular.min() < 2.5  # Newton-Schulz brings them near one, times rate and scale
    adam = optax.adamw(0.1, weight_decay=0.0, nesterov=True)
    for name in ("table", "head", "head_bias"):
        expected = adam.update(grads[name], adam.init(params[name]), params[name])[0]
        np.testing.assert_allclose(updates[name], expected, rtol=1e-6)


def test_muon_dimensions():
    numbers = optax.contrib.MuonDimensionNumbers
    assert muon_dimensions(Axes(("layers", "experts", "embed", "mlp"), (2,))) == numbers((2,), (3,))
    assert muon_dimensions(Axes(("layers", "embed", "experts"), (1,))) == numbers((1,), (2,))
    assert muon_dimensions(Axes(("layers", "heads", None, "embed"), (1, 2))) == numbers((1, 2), (3,))
    assert muon_dimensions(Axes(("embed", "vocab"), (0,))) is None
    assert muon_dimensions(Axes(("layers", "embed"))) is None
    assert muon_dimensions(Axes(("layers", "embed"), (1,))) is None  # a row has no matrix


@pytest.mark.parametrize("name, explicit", [("muon", True), ("muon", False), ("adafactor", True)])
def test_sharded_update_equals_single_device(name, explicit, params, grads):
    if jax.device_count() < 8:
        pytest.skip("needs 8 devices")
    optimizer = make(OptimizerConfig(name=name, weight_decay=0.0, options=FEW.get(name, ())), AXES, 10)
    expected = jax.jit(optimizer.update)(grads, optimizer.init(params), params)[0]
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2, explicit=explicit))
    layout = shardings(AXES, params, mesh)
    p, g = jax.device_put(params, layout), jax.device_put(grads, layout)
    with jax.set_mesh(mesh):
        updates = jax.jit(optimizer.update)(g, jax.jit(optimizer.init)(p), p)[0]
    chex.assert_trees_all_close(jax.device_get(updates), jax.device_get(expected), atol=1e-6)
    for u, sharding in zip(jax.tree.leaves(updates), jax.tree.leaves(layout)):
        assert u.sharding.is_equivalent_to(sharding, u.ndim)


@pytest.mark.parametrize("name", ["adamw", "muon", "adafactor"])
def test_the_state_is_kept_in_half_precision(name, params, grads):
    """Rounded after a step, computed in float32: the first update is the same, the state is half."""
    config = OptimizerConfig(name=name, weight_decay=0.0, options=FEW.get(name, ()))
    whole, half = (make(dataclasses.replace(config, state_dtype=dtype), AXES, 10) for dtype in ("float32", "bfloat16"))
    expected, state = whole.update(grads, whole.init(params), params)
    found, halved = half.update(grads, half.init(params), params)
    chex.assert_trees_all_close(found, expected, rtol=1e-6)
    like = jax.tree.leaves(like_weights(state, params, jax.tree.map(lambda x: "bfloat16", params), ""))
    for x, y, dtype in zip(jax.tree.leaves(state), jax.tree.leaves(halved), like, strict=True):
        np.testing.assert_array_equal(y, x.astype(dtype or x.dtype), strict=True)


@pytest.mark.parametrize("name", ["adamw", "muon", "adafactor"])
def test_like_weights(name, params):
    optimizer = make(OptimizerConfig(name=name, weight_decay=0.0), AXES, 10)
    shapes = jax.eval_shape(optimizer.init, params)
    paths = jax.tree_util.tree_map_with_path(lambda path, x: jax.tree_util.keystr(path), params)
    found = like_weights(shapes, params, paths, "other")
    assert jax.tree.structure(found) == jax.tree.structure(shapes)
    matched = set()
    for path, entry in jax.tree_util.tree_leaves_with_path(found):
        if entry != "other":
            assert jax.tree_util.keystr(path).endswith(entry)
            matched.add(entry)
    assert matched == set(jax.tree.leaves(paths))
    if name == "adamw":
        assert jax.tree.leaves(found).count("other") == 2  # the counts of adam and of the schedule
    if name == "adafactor":
        assert set(jax.tree.leaves(found[1][0].v_row)) == {"other"}


@pytest.mark.parametrize(
    "change, says",
    [
        ({"name": "adam_w"}, "did you mean 'adamw'"),
        ({"name": "scale_by_adam"}, "unknown optimizer"),
        ({"state_dtype": "float16"}, "state_dtype='float16' must be float32 or bfloat16"),
        ({"name": "lbfgs", "weight_decay": 0.0}, "unknown optimizer"),
        ({"options": (("beta2", 0.95),)}, "unknown option of optimizer adamw 'beta2'.*b1, b2"),
        ({"options": (("weight_decay", 0.95),)}, "field of its own"),
        ({"name": "sgd"}, "sgd has no weight decay"),
        ({"name": "adafactor"}, "adafactor has no weight decay"),
        ({"name": "novograd"}, "norm scales"),
        ({"name": "sm3", "weight_decay": 0.0}, "schedule=constant"),
        ({"name": "dpsgd", "weight_decay": 0.0}, "needs the options l2_norm_clip, noise_multiplier, seed"),
    ],
)
def test_mistakes_are_explained(change, says):
    with pytest.raises(UserError, match=says):
        make(OptimizerConfig(**change), AXES, 10)
