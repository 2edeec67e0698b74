import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.ops import attention, attention_with_past, reference_attention, visible
from tests.meshes import MESHES, name, on
from tests.ops.attention_cases import CASES, Case, naive, reference, with_gradients


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_reference_is_the_formula(case):
    q, k, v, _, segments = case.arrays()
    mask = case.mask(segments)
    o = reference_attention(q, k, v, mask, 0.3)
    np.testing.assert_allclose(o, naive(q, k, v, mask, 0.3), atol=1e-5)


def test_a_query_that_sees_nothing_gives_finite_numbers():
    case = Case(T=4)
    q, k, v, *_ = case.arrays()
    nothing = jnp.zeros((1, 4, 4), bool)
    f = lambda q: reference_attention(q, k, v, nothing, 1.0).sum()
    chex.assert_tree_all_finite(jax.jit(jax.value_and_grad(f))(q))


@pytest.mark.parametrize("implementation", ["auto", "blockwise", "reference"])
@pytest.mark.parametrize("case, scale", [(Case(), None), (Case(causal=False, window=3, packed=True), 0.7)])
def test_the_entry_passes_everything_on(case, implementation, scale):
    f = lambda q, k, v, s: attention(
        q, k, v, s, causal=case.causal, window=case.window, scale=scale, implementation=implementation
    )
    chex.assert_trees_all_close(with_gradients(f, case), reference(case, scale=scale), atol=2e-5)


def test_an_unknown_implementation():
    q, k, v, *_ = Case().arrays()
    with pytest.raises(UserError, match="unknown attention implementation 'blokwise': did you mean 'blockwise'"):
        attention(q, k, v, implementation="blokwise")


@pytest.mark.parametrize("implementation", ["blockwise", "reference"])
@pytest.mark.parametrize("window", [None, 3])
def test_no_gradient_flows_from_an_output_to_what_it_may_not_see(implementation, window):
    case = Case(T=9, B=1, H=2, window=window, packed=True)
    q, k, v, _, segments = case.arrays()
    f = lambda k, v: attention(q, k, v, segments, window=window, implementation=implementation).sum((0, 2, 3))
    through = [np.abs(x).sum((1, 3, 4)) > 1e-7 for x in jax.jit(jax.jacobian(f, (0, 1)))(k, v)]
    mask = np.asarray(case.mask(segments)[0])
    np.testing.assert_array_equal(through[1], mask)
    alone = mask.sum(-1, keepdims=True) == 1  # the one key of a query gets weight 1 whatever it is
    np.testing.assert_array_equal(through[0] | alone & mask, mask)


@pytest.mark.parametrize("config", MESHES[2:6], ids=name)
@pytest.mark.parametrize("implementation", ["blockwise", "reference"])
def test_on_meshes(config, implementation):
    case = Case(T=6, B=8, packed=False, window=4)
    q, k, v, do, _ = case.arrays()
    segments = np.array([[1, 1, 1, 2, 2, 0]] * 8, np.int32)
    heads, rows = ("batch", None, "heads", None), ("batch", None)

    @jax.jit
    def run(q, k, v, do, segments):
        f = lambda q, k, v: attention(q, k, v, segments, window=4, implementation=implementation)
        o, pull = jax.vjp(f, q, k, v)
        return o, pull(do)

    expected = run(q, k, v, do, segments)
    with on(config) as put:
        args = [put(x, *heads) for x in (q, k, v, do)]
        chex.assert_trees_all_close(run(*args, put(segments, *rows)), expected, atol=1e-5)


@pytest.mark.parametrize("G, T, window", [(1, 1, None), (2, 1, 4), (2, 3, None), (4, 3, 4)])
def test_a_past_is_as_good_as_the_whole_text(G, T, window):
    """The last T of 11 tokens, the others in a cache whose slots are shuffled and partly empty."""
    case = Case(T=11, G=G, window=window, packed=True)
    q, k, v, _, segments = case.arrays()
    whole = reference_attention(q, k, v, case.mask(segments), 0.4)[:, -T:]
    rng = np.random.default_rng(1)
    order = rng.permutation(14)  # slots 11 - T and above are empty
    nonsense = lambda x: 1e3 * jnp.ones((2, 3 + T, *x.shape[2:]))
    past = lambda x: jnp.concatenate([x[:, : 11 - T], nonsense(x)], 1)[:, order].swapaxes(1, 2)
    empty = jnp.full((2, 3 + T), -1)
    slot_segments = jnp.concatenate([segments[:, : 11 - T], empty], 1)[:, order]
    now = jnp.arange(11 - T, 11)[None], segments[:, -T:]
    see = lambda at, segment: visible(now[0], at, now[1], segment, window=window)
    masks = see(order[None], slot_segments), see(*now)
    f = jax.jit(functools.partial(attention_with_past, scale=0.4))
    new = lambda x: x[:, -T:].swapaxes(1, 2)
    o = f(q[:, -T:], new(k), new(v), past(k), past(v), *masks)
    real = np.asarray(segments[:, -T:] > 0)
    np.testing.assert_allclose(np.asarray(o)[real], np.asarray(whole)[real], atol=1e-5)


def test_a_past_in_another_dtype_and_the_usual_scale():
    case = Case(T=6)
    q, k, v, *_ = case.arrays()
    half = lambda x: x.astype(jnp.bfloat16)
    mask = case.mask(None)
    k_BGTK, v_BGTK = k.swapaxes(1, 2), v.swapaxes(1, 2)
    past = half(k_BGTK[:, :, :5]), half(v_BGTK[:, :, :5])
    o = attention_with_past(q[:, 5:], k_BGTK[:, :, 5:], v_BGTK[:, :, 5:], *past, mask[:, 5:, :5], mask[:, 5:, 5:])
    assert o.dtype == jnp.float32
    whole = reference_attention(q, k, v, mask, case.K**-0.5)[:, 5:]
    np.testing.assert_allclose(o, whole, atol=2e-2)
