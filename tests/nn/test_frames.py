import jax
import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.nn import FramesConfig
from tests.meshes import MESHES, name, on
from tests.weights import weights

B, S, M, D = 8, 6, 5, 16
MEL = np.random.default_rng(0).normal(size=(B, S, M)).astype(np.float32)
CONFIG = FramesConfig(M, 4)
MODULE = CONFIG.build(D, "frames")


def slow(p, mel):
    """Two convolutions of width 3, written as loops."""
    for conv, stride in (("conv1", 1), ("conv2", 2)):
        n = len(mel)
        at = lambda i, mel=mel, n=n: mel[i] if 0 <= i < n else np.zeros_like(mel[0])
        rows = [sum(at(t + w - 1) @ p[conv][w] for w in range(3)) for t in range(0, n, stride)]
        mel = np.asarray(jax.nn.gelu(np.stack(rows) + p[f"{conv}_bias"][None], approximate=False))
    return mel + p["positions"][: len(mel)]


@pytest.mark.parametrize("config", [None, *MESHES[:6:2]], ids=name)
def test_it_is_two_convolutions(config):
    p = weights(MODULE, MEL, np.float32)
    with on(config) as put:
        mel = put(MEL, "batch", None, None)
        y = jax.jit(lambda mel: MODULE.apply({"params": p}, mel, np.float32))(mel)
    assert y.shape == (B, S // 2, D)
    np.testing.assert_allclose(y, np.stack([slow(p, row) for row in MEL]), atol=1e-5)


def test_positions_begin_as_sinusoids():
    table = MODULE.init(jax.random.key(0), MEL, np.float32)["params"]["positions"].value
    angles = 3 * np.array([1e4 ** (-i / 7) for i in range(8)])
    np.testing.assert_allclose(table[3], np.concatenate([np.sin(angles), np.cos(angles)]), atol=1e-6)


def test_bad_input():
    p = weights(MODULE, MEL, np.float32)
    for mel, said in ((MEL[..., :4], "5 mel bands each"), (np.zeros((1, 10, M)), "10 frames, but the model has")):
        with pytest.raises(UserError, match=said):
            MODULE.apply({"params": p}, mel, np.float32)
    with pytest.raises(UserError, match="activation"):
        FramesConfig(M, 4, "gelo")
