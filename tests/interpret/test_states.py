import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.interpret import plot_curves, plot_selectivity, selectivity, state_kernel, state_norms
from jaxlm.models import forward
from jaxlm.nn import (
    AttentionConfig,
    BlockConfig,
    Context,
    H3Config,
    LSTMConfig,
    MambaConfig,
    MLPConfig,
    S4Config,
    unstack,
)
from tests.nn import mixers

FFN = MLPConfig(24)
TOKENS = np.random.default_rng(0).integers(0, 264, (2, 7)).astype(np.int32)


@pytest.mark.parametrize("mixer", [S4Config(16, 4), S4Config(16, 4, "inv"), H3Config(16, 4, W=3)])
def test_the_kernel_is_what_an_impulse_leaves(mixer):
    """In H3 with products that pass the impulse on; the skip is no part of it."""
    config = mixers.model(BlockConfig(mixer, FFN))
    params, T = mixers.params(config), 6
    found = state_kernel(config, params, 1, T)
    p = unstack(params)["segment_0"]["1"]["block_0"]["mixer"]
    p = {**p, "skip": jnp.zeros_like(p["skip"])}
    impulse = np.zeros((1, T, 16), np.float32)
    impulse[:, 0] = 1
    context = Context(jnp.arange(T)[None])
    if isinstance(mixer, H3Config):
        one = {"shift": jnp.zeros((3, 16)).at[-1].set(1), **dict.fromkeys("kvo", jnp.eye(16))}
        for t in range(T):  # q is one everywhere, read at each output alone
            q = np.zeros((1, T, 16), np.float32)
            q[:, t] = 1
            both = jnp.asarray(np.concatenate([impulse, q], -1))
            lead = {name: jnp.concatenate([w, 0 * w]) for name, w in {"k": one["k"], "v": one["v"]}.items()}
            lead["q"] = jnp.concatenate([jnp.zeros((16, 16)), jnp.eye(16)])
            y, _ = mixer.build(2, "mixer").apply({"params": {**p, **one, **lead, "o": jnp.eye(16, 32)}}, both, context)
            np.testing.assert_allclose(y[0, t, :16], found[t], atol=1e-5)
        return
    gelu = lambda x: jax.nn.gelu(x, approximate=False)
    p |= {"o": jnp.eye(16), "o_gate": jnp.zeros((16, 16))}
    y, _ = mixer.build(2, "mixer").apply({"params": p}, jnp.asarray(impulse), context)
    np.testing.assert_allclose(2 * y[0], gelu(found), atol=1e-5)


def test_selectivity_is_what_the_scan_takes():
    """A layer whose steps are zero but for some tokens sees these only; and it is no matter what the others are."""
    config = mixers.model(BlockConfig(MambaConfig(32), None))
    params = mixers.params(config)
    found = selectivity(config, params, jnp.asarray(TOKENS), 0)
    assert found.shape == (2, 7, 32)
    p = jax.tree.map(np.asarray, unstack(params)["segment_0"]["0"]["block_0"])
    embedded = np.asarray(params["embed"]["table"])[TOKENS]
    x = embedded / np.sqrt(np.mean(embedded**2, -1, keepdims=True) + 1e-6) * p["norm1"]["scale"]
    x = np.pad(x @ p["mixer"]["x"], ((0, 0), (3, 0), (0, 0)))
    x = mixers.silu(sum(p["mixer"]["conv"][w] * x[:, w : w + 7] for w in range(4)) + p["mixer"]["conv_bias"])
    wanted = mixers.softplus(x @ p["mixer"]["dt_in"] @ p["mixer"]["dt"] + p["mixer"]["dt_bias"])
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_norms_of_states_are_those_of_the_forward_pass():
    """Behind each token the state is that of the text so far; attention has none."""
    blocks = BlockConfig(LSTMConfig(8), FFN), BlockConfig(AttentionConfig(H=2, K=8), FFN)
    config = mixers.model(blocks[0])
    config = config.__class__(**{**vars(config), "layers": (config.layers[0].__class__(blocks, 1),)})
    params = mixers.params(config)
    found = state_norms(config, params, jnp.asarray(TOKENS))
    assert found.shape == (1, 2, 7)
    for t in (1, 7):
        states = forward(config.build(), params, jnp.asarray(TOKENS[:, :t])).states
        h = jax.tree.leaves(states)[0].reshape(2, -1)
        np.testing.assert_allclose(found[0, :, t - 1], np.linalg.norm(h, axis=1), atol=1e-5)


def test_pictures(tmp_path):
    plot_curves(np.random.default_rng(0).normal(size=(3, 40)), tmp_path / "curves.png", "Kernels", "K")
    plot_selectivity(np.exp(np.random.default_rng(0).normal(size=(4, 9))), list("ab c"), tmp_path / "steps.png")
    assert all((tmp_path / name).read_bytes()[:4] == b"\x89PNG" for name in ("curves.png", "steps.png"))
    with pytest.raises(UserError, match="3 tokens are not as many as there are step sizes: 4"):
        plot_selectivity(np.ones((4, 9)), list("abc"), tmp_path / "steps.png")


def test_layers_of_another_kind():
    config = mixers.model(BlockConfig(AttentionConfig(H=2, K=8), FFN))
    with pytest.raises(UserError, match="layer 0 has no S4 or H3, but AttentionConfig"):
        state_kernel(config, mixers.params(config), 0, 4)
    with pytest.raises(UserError, match="layer 2 is not there"):
        selectivity(config, {}, jnp.asarray(TOKENS), 2)
    with pytest.raises(UserError, match="no layer of the model is recurrent"):
        state_norms(config, mixers.params(config), jnp.asarray(TOKENS))
