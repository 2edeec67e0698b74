import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxlm import compat, models, sharding
from jaxlm.errors import UserError
from jaxlm.losses import cross_entropy
from jaxlm.models import LM, LMConfig
from jaxlm.nn import AttentionConfig, BlockConfig, LayersConfig, MLPConfig
from jaxlm.sharding import Axes, MeshConfig, Named, make_mesh
from tests.meshes import MESHES, lies, name, on

P = PartitionSpec


# The mesh


@pytest.mark.parametrize("kwargs", [{"data": 0}, {"fsdp": -2}, {"data": -1, "tensor": -1}])
def test_sizes_that_make_no_sense(kwargs):
    with pytest.raises(UserError, match="mesh axes must be positive, at most one of them -1"):
        MeshConfig(**kwargs)


@pytest.mark.parametrize(
    "config, words",
    [
        (MeshConfig(3, 1, 1), "mesh data=3 does not match the 8 devices"),
        (MeshConfig(4, 4, 1), "mesh data=4, fsdp=4 does not match the 8 devices"),
        (MeshConfig(-1, 3, 1), "mesh data=-1, fsdp=3 does not match the 8 devices"),
        (MeshConfig(1, 1, 1), "mesh of one device does not match the 8 devices"),
    ],
)
def test_a_shape_that_does_not_match_the_devices(config, words):
    with pytest.raises(UserError, match=words):
        make_mesh(config)


def test_minus_one_takes_the_rest_and_every_axis_exists():
    assert dict(make_mesh().shape) == {"data": 8, "fsdp": 1, "tensor": 1, "expert": 1, "context": 1, "stage": 1}
    mesh = make_mesh(MeshConfig(2, -1, 2, explicit=False))
    assert [mesh.shape[axis] for axis in ("data", "fsdp", "tensor", "stage")] == [2, 2, 2, 1]
    assert set(mesh.axis_types) == {AxisType.Auto}
    assert set(make_mesh().axis_types) == {AxisType.Explicit}
    assert make_mesh(devices=jax.devices()[:3]).shape["data"] == 3


# Logical names


def test_specs_leave_out_axes_that_divide_nothing():
    with on(MeshConfig(2, 2, 2)):
        assert sharding.spec("batch", "heads", None) == P(("data", "fsdp"), "tensor", None)
        assert sharding.spec("layers", "embed", "vocab") == P(None, "fsdp", "tensor")
        assert [sharding.mesh_size(n) for n in ("batch", "seq", "embed", "layers")] == [4, 2, 2, 1]
    with on(MeshConfig(8, 1, 1)):
        assert sharding.spec("batch", "heads", "embed") == P("data", None, None)
        assert [sharding.mesh_size(n) for n in ("batch", "seq", "embed")] == [8, 1, 1]
    assert sharding.spec("embed", mesh=make_mesh(MeshConfig(1, 8, 1))) == P("fsdp")
    assert sharding.mesh_size("batch") == 1
    with pytest.raises(KeyError):
        sharding.spec("bach")


def test_the_stream_is_divided_over_positions_where_they_divide():
    with on(MeshConfig(2, 2, 2)):
        assert sharding.stream(6) == ("batch", "seq", None)
        assert sharding.stream(7) == ("batch", "positions", None)
    assert sharding.stream(7) == ("batch", "seq", None)  # no mesh: the name means nothing


@pytest.mark.parametrize("config", [None, *MESHES[4:6]], ids=name)
def test_helpers_compute_the_same_on_any_mesh(config):
    x, w = np.random.default_rng(0).normal(size=(2, 8, 8)).astype(np.float32)

    @jax.jit
    def run(x, w):
        y = sharding.constrain(x, "heads", "batch")
        z = sharding.einsum("bf,fd->bd", x, w, out=("batch", None), dtype=jnp.float32)
        part = lambda i: sharding.partial_einsum("bf,bd->fd", x, x * i, over="batch", out=("heads", None))
        start = sharding.partial_zeros((8, 8), over="batch", out=("heads", None))
        total = jax.lax.scan(lambda total, i: (total + part(i), None), start, jnp.arange(3.0))[0]
        return y, z, sharding.constrain(total, "heads", "embed")

    with on(config) as put:
        found = run(put(x, "batch", "mlp"), put(w, "mlp", "embed"))
        if config is not None:
            names = ("heads", "batch"), ("batch", None), ("heads", "embed")
            assert all(lies(x, *n) for x, n in zip(found, names))
    chex.assert_trees_all_close(found, (x, x @ w, 3 * x.T @ x), atol=1e-5)


@pytest.mark.parametrize("config", [None, *MESHES[4:6]], ids=name)
def test_per_device_sees_its_own_part(config):
    def f(x, nothing, y):
        assert nothing is None
        assert x.shape == y.shape == ((8, 6) if config is None else (2, 3))
        return sharding.constrain(x, None, "batch") + y  # inside, the helpers do nothing

    x = np.arange(48.0).reshape(8, 6)
    ins = [("batch", "heads"), ("batch", None), ("batch", "heads")]
    with on(config) as put:
        run = jax.jit(lambda x, y: sharding.shard_map(f, ins, ("batch", "heads"), x, None, y))
        np.testing.assert_array_equal(run(put(x, "batch", "heads"), put(x, None, None)), 2 * x)


def test_creation_names_a_spec_only_where_it_may():
    assert sharding.out_sharding("batch") is None
    with on(MeshConfig(8, explicit=False)):
        assert sharding.out_sharding("batch") is None
    with on(MeshConfig(8)):
        assert sharding.out_sharding("batch") == P("data")


# Weights


class Scaled(nn.Module):
    """Two named weights."""

    @nn.compact
    def __call__(self, x, _=None):
        w = sharding.weight(self, "w", (4, 6), ("embed", "mlp"), nn.initializers.ones_init(), (0,))
        return x * w.sum() + sharding.weight(self, "b", (1,), (None,))[0], None


def test_a_weight_is_boxed_with_its_axes():
    boxed = Scaled().init(jax.random.key(0), 1.0)["params"]
    assert sharding.axes_of(boxed) == {"w": Axes(("embed", "mlp"), (0,)), "b": Axes((None,))}
    params = sharding.unbox(boxed)
    np.testing.assert_array_equal(params["w"], np.ones((4, 6)))
    np.testing.assert_array_equal(params["b"], np.zeros(1))
    assert Scaled().apply({"params": params}, 1.0)[0] == Scaled().apply({"params": boxed}, 1.0)[0] == 24


def test_a_scan_adds_the_axis_of_layers():
    scan = nn.scan(Scaled, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
    boxed = scan().init(jax.random.key(0), 1.0, None)["params"]
    assert sharding.axes_of(boxed) == {"w": Axes(("layers", "embed", "mlp"), (1,)), "b": Axes(("layers", None))}
    assert sharding.unbox(boxed)["w"].shape == (3, 4, 6)
    assert scan().apply({"params": boxed}, 1.0, None)[0] == 24**3


@pytest.mark.parametrize("index", [0, 1, 2])
def test_removing_an_axis_undoes_adding_it(index):
    named = Named(jnp.zeros((2, 3)), Axes(("embed", "heads"), (0, 1)))
    added = named.add_axis(index, {})
    assert added.axes.names[index] == "layers"
    assert [added.axes.names[i] for i in added.axes.inputs] == ["embed", "heads"]
    assert added.remove_axis(index, {}).axes == named.axes
    assert named.replace_boxed(1).unbox() == 1


def test_shardings_and_the_weight_that_does_not_divide():
    axes = {"table": Axes(("vocab", "embed")), "norm": {"scale": Axes((None,))}}
    shapes = {"table": jax.ShapeDtypeStruct((12, 6), jnp.float32), "norm": {"scale": jax.ShapeDtypeStruct((6,), "f4")}}
    mesh = make_mesh(MeshConfig(2, 2, 2))
    expected = {"table": P("tensor", "fsdp"), "norm": {"scale": P(None)}}
    assert sharding.shardings(axes, shapes, mesh) == jax.tree.map(lambda s: NamedSharding(mesh, s), expected)
    words = r"mesh fsdp=4 does not divide the 'embed' axis of \['table'\], which has size 6: the nearest that does is 3"
    with pytest.raises(UserError, match=words):
        sharding.shardings(axes, shapes, make_mesh(MeshConfig(1, 4, 2)))


# The whole model


BLOCK = BlockConfig(AttentionConfig(H=8, K=4, G=4, window=3), MLPConfig(F=32))
MODEL = LMConfig(V=32, D=16, layers=(LayersConfig((BLOCK,), 2),), remat="attention")
SEGMENTS = np.array([[0, 1, 1, 1, 2, 2, 2, 2], [1, 1, 1, 1, 1, 1, 0, 0]] * 4, np.int32)
POSITIONS = np.array([[0, 0, 1, 2, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5, 0, 0]] * 4, np.int32)


@functools.cache
def parameters():
    return sharding.unbox(jax.jit(lambda: models.init_boxed(MODEL, jax.random.key(0)))())


@jax.jit
def loss_and_gradients(params, tokens, positions, segments):
    def loss(params):
        out = LM(MODEL).apply({"params": params}, tokens, positions, segments, method="forward")
        out = cross_entropy(out.hidden_BTD, out.head_VD, tokens, (segments > 0).astype(jnp.float32), chunk=4)
        return out.total / out.weight

    return jax.value_and_grad(loss)(params)


def batch(T):
    tokens = np.random.default_rng(0).integers(0, MODEL.V, (8, T)).astype(np.int32)
    return tokens, POSITIONS[:, :T], SEGMENTS[:, :T]


@functools.cache
def on_one_device(T):
    return loss_and_gradients(parameters(), *batch(T))


WHOLE = [(config, 8) for config in [*MESHES, MeshConfig(1, 2, 4)]] + [(config, 7) for config in MESHES[4:6]]


@pytest.mark.parametrize("config, T", WHOLE, ids=[f"{name(config)}-T{T}" for config, T in WHOLE])
def test_a_model_has_the_same_loss_and_gradients_on_any_mesh(config, T):
    params, expected = parameters(), on_one_device(T)
    with on(config) as put:
        mesh, axes = compat.concrete_mesh(), models.abstract(MODEL)[1]
        placed = jax.device_put(params, sharding.shardings(axes, params, mesh))
        found = loss_and_gradients(placed, *(put(x, "batch", None) for x in batch(T)))
        if config.explicit:
            same = jax.tree.map(lambda g, p: g.sharding.is_equivalent_to(p.sharding, g.ndim), found[1], placed)
            assert jax.tree.all(same), same
    chex.assert_trees_all_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_platform_is_that_of_the_mesh():
    """Not of this machine, where the program is only traced."""
    assert sharding.platform() == jax.default_backend()
    there = compat.abstract_device("TPU v5", "tpu")
    mesh = jax.sharding.AbstractMesh((1,), ("data",), abstract_device=there)
    with jax.sharding.use_abstract_mesh(mesh):
        assert sharding.platform() == "tpu"
    assert sharding.platform() == jax.default_backend()
