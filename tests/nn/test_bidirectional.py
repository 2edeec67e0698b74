import jax
import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.nn import AttentionConfig, BidirectionalConfig, Context, GRUConfig
from tests.meshes import MESHES, name, on
from tests.weights import weights

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 6, 8)).astype(np.float32)
POSITIONS, SEGMENTS = np.arange(6)[None], np.array([[1, 1, 1, 2, 2, 0]] * 4)
GRU = GRUConfig(8)
MODULE = BidirectionalConfig(GRU).build(2, "mixer")
PARAMS = weights(MODULE, X, Context(POSITIONS))


def test_it_is_one_forwards_and_one_backwards_of_each_text():
    y, _ = jax.jit(lambda x: MODULE.apply({"params": PARAMS}, x, Context(POSITIONS, SEGMENTS)))(X)
    one = lambda way, x: GRU.build(2, "mixer").apply({"params": PARAMS[way]}, x, Context(POSITIONS[:, : x.shape[1]]))[0]
    for at in (slice(0, 3), slice(3, 5)):
        wanted = one("forwards", X[:, at]) + one("backwards", X[:, at][:, ::-1])[:, ::-1]
        np.testing.assert_allclose(y[:, at], wanted, atol=1e-5)


@pytest.mark.parametrize("mesh", MESHES[4:6], ids=name)
def test_on_meshes(mesh):
    run = jax.jit(lambda x, segments: MODULE.apply({"params": PARAMS}, x, Context(POSITIONS, segments))[0])
    with on(mesh) as put:
        found = run(put(X, "batch", "seq", None), put(SEGMENTS, "batch", None))
    np.testing.assert_allclose(found, run(X, SEGMENTS), atol=1e-5)


def test_what_cannot_be():
    with pytest.raises(UserError, match="sees both directions already"):
        BidirectionalConfig(AttentionConfig(H=1, K=2, causal=False))
    with pytest.raises(UserError, match="cannot decode token by token"):
        BidirectionalConfig(GRU).init_cache(1, 2, None)
