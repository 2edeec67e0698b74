import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.ops import linformer_attention
from tests.meshes import MESHES, name, on

RNG = np.random.default_rng(0)
B, T, H, G, K, L, S = 2, 5, 4, 2, 6, 3, 8
Q, K_, V = (RNG.normal(size=(B, T, heads, K)).astype(np.float32) for heads in (H, G, G))
E, F = (RNG.normal(size=(L, S)).astype(np.float32) for _ in range(2))
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], bool)


def test_it_is_the_formula_forward_and_backward():
    def loops(q, k, v, e, f):
        o = []
        for b, t, h in np.ndindex(B, T, H):
            seen = np.flatnonzero(MASK[b])
            mix = lambda w, x, b=b, h=h, seen=seen: jnp.stack(
                [sum(w[i, s] * x[b, s, h // 2] for s in seen) for i in range(L)]
            )
            o.append(jax.nn.softmax(0.3 * mix(e, k) @ q[b, t, h]) @ mix(f, v))
        return jnp.stack(o).reshape(q.shape)

    def both(f):
        o, pull = jax.vjp(f, Q, K_, V, E, F)
        return o, pull(Q)

    found = jax.jit(lambda: both(lambda *args: linformer_attention(*args, MASK, 0.3)))()
    chex.assert_trees_all_close(found, both(loops), atol=1e-4)


def test_without_a_mask_and_a_scale():
    found = linformer_attention(Q, K_, V, E, F)
    np.testing.assert_allclose(found, linformer_attention(Q, K_, V, E, F, np.ones_like(MASK), K**-0.5), atol=1e-6)


def test_cost_is_linear_in_the_length():
    def cost(T):
        shape = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
        compiled = jax.jit(linformer_attention).lower(*[shape(1, T, 1, 16)] * 3, *[shape(8, T)] * 2).compile()
        return np.array([compiled.cost_analysis()["flops"], compiled.memory_analysis().temp_size_in_bytes])

    np.testing.assert_array_less(cost(4096), 4.4 * cost(1024))


def test_a_text_that_is_too_long():
    with pytest.raises(UserError, match="a text of 5 tokens, and projections for at most 4"):
        linformer_attention(Q, K_, V, E[:, :4], F[:, :4])


@pytest.mark.parametrize("config", MESHES[4:6], ids=name)
def test_on_meshes(config):
    rows = [np.concatenate([x] * 2) for x in (Q, K_, V)]
    mask = np.concatenate([MASK] * 2)
    f = jax.jit(lambda q, k, v, mask: linformer_attention(q, k, v, E, F, mask))
    expected = f(*rows, mask)
    with on(config) as put:
        found = f(*[put(x, "batch", None, "heads", None) for x in rows], put(mask, "batch", None))
        np.testing.assert_allclose(found, expected, atol=1e-5)
