import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import sharding
from jaxlm.errors import UserError
from jaxlm.nn import Embed, LearnedConfig, SinusoidalConfig
from jaxlm.ops import sinusoidal
from jaxlm.sharding import Axes, MeshConfig
from tests.meshes import MESHES, lies, name, on
from tests.weights import boxed, weights

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 4, 16)).astype(np.float32)
ROW, ROWS = np.array([[0, 1, 2, 3]]), RNG.integers(0, 6, (8, 4))


def test_the_token_table():
    embed, ids = Embed(10, 4, jnp.dtype("bfloat16")), np.array([[1, 9, 1]])
    assert sharding.axes_of(boxed(embed, ids)) == {"table": Axes(("vocab", "embed"))}
    p = weights(embed, ids)
    x, table = embed.apply({"params": p}, ids)
    np.testing.assert_array_equal(x, jnp.asarray(p["table"], jnp.bfloat16)[ids])
    np.testing.assert_array_equal(table, p["table"])
    assert table.dtype == jnp.float32


@pytest.mark.parametrize("positions", [ROW, ROWS], ids=["one row", "rows"])
@pytest.mark.parametrize("config", [None, *MESHES[:6]], ids=name)
def test_learned_positions(config, positions):
    module = LearnedConfig(6).build("positions")
    assert sharding.axes_of(boxed(module, X, positions)) == {"table": Axes((None, "embed"))}
    p = weights(module, X, positions)
    with on(config) as put:
        table = {"table": put(p["table"], None, "embed")}
        x = put(X, "batch", "seq", None)
        y = module.apply({"params": table}, x, put(positions, "batch" if len(positions) > 1 else None, None))
        assert config is None or lies(y, "batch", "seq", None)
    np.testing.assert_allclose(y, X + p["table"][positions], atol=1e-6)


def test_learned_positions_refuse_longer_texts():
    with pytest.raises(UserError, match="4 tokens, but the model has learned positions for 3"):
        boxed(LearnedConfig(3).build("positions"), X, ROW)


@pytest.mark.parametrize("positions", [ROW, ROWS], ids=["one row", "rows"])
@pytest.mark.parametrize("config", [None, MeshConfig(2, 2, 2)], ids=name)
def test_sinusoids(config, positions):
    module = SinusoidalConfig(base=100.0).build("positions")
    assert module.init({}, X, positions) == {}
    with on(config) as put:
        x = put(X, "batch", "seq", None)
        y = module.apply({}, x, put(positions, "batch" if len(positions) > 1 else None, None))
    np.testing.assert_allclose(y, X + sinusoidal(positions, 16, 100.0), atol=1e-6)
    assert module.apply({}, X.astype(jnp.bfloat16), positions).dtype == jnp.bfloat16
