import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import sharding
from jaxlm.errors import UserError
from jaxlm.ops import attention, attention_with_past, blockwise_attention, reference_attention, visible
from jaxlm.ops.rule import Extras
from tests.meshes import MESHES, name, on
from tests.ops.attention_cases import CASES, EVERYTHING, Case, naive, reference, with_gradients


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_reference_is_the_formula(case):
    q, k, v, _, extras = case.arrays()
    o = naive(q, k, v, case.mask(), 0.3, case.softcap, case.bias(), extras.sinks_H)
    np.testing.assert_allclose(reference(case, scale=0.3)[0], o, atol=1e-5)


@pytest.mark.parametrize("sinks", [None, jnp.array([1.0, -1.0, 0.0, 5.0])])
def test_a_query_that_sees_nothing_gives_finite_numbers(sinks):
    case = Case(T=4)
    q, k, v, *_ = case.arrays()
    nothing = jnp.zeros((1, 4, 4), bool)
    heads_first = [x.swapaxes(1, 2) for x in (k, v)]
    for f in (
        lambda q: reference_attention(q, k, v, nothing, 1.0, sinks_H=sinks),
        lambda q: attention_with_past(q, *heads_first, *heads_first, nothing, nothing, sinks_H=sinks),
    ):
        o, pull = jax.vjp(jax.jit(f), q)
        chex.assert_tree_all_finite((o, pull(o)))
        assert sinks is None or not np.any(o)


@pytest.mark.parametrize("implementation", ["auto", "blockwise", "reference"])
@pytest.mark.parametrize("case, scale", [(Case(), None), (EVERYTHING, 0.7)], ids=str)
def test_the_entry_passes_everything_on(case, implementation, scale):
    f = functools.partial(attention, **case.options(), scale=scale, implementation=implementation)
    found = with_gradients(lambda q, k, v, e: f(q, k, v, *e[:2], bias_HZ=e[2], sinks_H=e[3]), case)
    chex.assert_trees_all_close(found, reference(case, scale=scale), atol=2e-5)


def test_limits_beyond_the_row_are_none():
    """So that a short text takes the plain program, and cuDNN."""
    case = Case(T=5)
    q, k, v, *_ = case.arrays()
    program = lambda **options: jax.make_jaxpr(functools.partial(attention, **options))(q, k, v)
    assert str(program(window=5, chunk=5)) == str(program()) != str(program(window=4))


def test_dropout_acts_where_a_key_is():
    q, k, v, *_ = Case(H=2).arrays()
    key, plain = jax.random.key(0), attention(q, k, v)
    np.testing.assert_array_equal(attention(q, k, v, dropout=0.5), plain)
    np.testing.assert_array_equal(attention(q, k, v, key=key), plain)
    rule = dataclasses.replace(Case().rule(), dropout=0.5)
    found = attention(q, k, v, dropout=0.5, key=key)
    np.testing.assert_array_equal(found, blockwise_attention(q, k, v, Extras(key=key), rule))
    assert np.any(found != plain)


def test_what_is_refused():
    q, k, v, *_ = Case().arrays()
    with pytest.raises(UserError, match=r"bias_HZ must be \(H, 2 T - 1\) = \(4, 25\), got \(4, 13\)"):
        attention(q, k, v, bias_HZ=jnp.zeros((4, 13)))
    with pytest.raises(UserError, match="'cudnn' cannot do softcap: use 'auto'"):
        attention(*(x.astype(jnp.bfloat16) for x in (q, k, v)), softcap=1.0, implementation="cudnn")
    with pytest.raises(UserError, match="'reference' cannot do dropout"):
        attention(q, k, v, dropout=0.5, key=jax.random.key(0), implementation="reference")
    attention(q, k, v, dropout=0.5, implementation="reference")  # without a key it is not asked


def test_an_unknown_implementation():
    q, k, v, *_ = Case().arrays()
    with pytest.raises(UserError, match="unknown attention implementation 'blokwise': did you mean 'blockwise'"):
        attention(q, k, v, implementation="blokwise")


@pytest.mark.parametrize("implementation", ["blockwise", "reference"])
@pytest.mark.parametrize("limits", [{}, {"window": 3}, {"chunk": 3, "biased": True, "sinks": True}], ids=str)
def test_no_gradient_flows_from_an_output_to_what_it_may_not_see(implementation, limits):
    case = Case(T=9, B=1, H=2, packed=True, **limits)
    q, k, v, _, extras = case.arrays()
    entry = functools.partial(attention, **case.options(), implementation=implementation)
    f = lambda k, v: entry(q, k, v, *extras[:2], bias_HZ=extras.bias_HZ, sinks_H=extras.sinks_H).sum((0, 2, 3))
    through = [np.abs(x).sum((1, 3, 4)) > 1e-7 for x in jax.jit(jax.jacobian(f, (0, 1)))(k, v)]
    mask = case.mask()[0]
    np.testing.assert_array_equal(through[1], mask)
    alone = mask.sum(-1, keepdims=True) == 1  # the one key of a query gets weight 1 whatever it is
    np.testing.assert_array_equal(through[0] | alone & mask, mask)


@pytest.mark.parametrize("config", MESHES[2:6], ids=name)
@pytest.mark.parametrize("implementation", ["blockwise", "reference"])
def test_on_meshes(config, implementation):
    case = dataclasses.replace(EVERYTHING, T=6, B=8, packed=False)
    q, k, v, do, extras = case.arrays()
    segments = np.array([[1, 1, 1, 2, 2, 0]] * 8, np.int32)
    positions = np.array([[0, 1, 2, 0, 1, 0]], np.int32)
    heads, rows = ("batch", None, "heads", None), ("batch", None)
    dropped = {"dropout": 0.3, "key": jax.random.key(0)} if implementation == "blockwise" else {}

    @jax.jit
    def run(q, k, v, bias, sinks, do, segments, positions):
        entry = functools.partial(attention, **case.options(), **dropped, implementation=implementation)
        f = lambda q, k, v, b, s: entry(q, k, v, segments, positions, bias_HZ=b, sinks_H=s)
        o, pull = jax.vjp(f, q, k, v, bias, sinks)
        return o, pull(do)

    expected = run(q, k, v, *extras[2:4], do, segments, positions)
    with on(config) as put:
        q, k, v, do = (put(x, *heads) for x in (q, k, v, do))
        args = q, k, v, put(extras.bias_HZ, "heads", None), put(extras.sinks_H, None), do
        found = run(*args, put(segments, *rows), put(positions, None, None))
        chex.assert_trees_all_close(found, expected, atol=1e-5)


PASTS = [
    Case(T=11, G=1, packed=True),
    Case(T=11, window=4, packed=True),
    Case(T=11, G=4, window=4, packed=True),
    dataclasses.replace(EVERYTHING, T=11),
    Case(T=11, chunk=4, J=3, sinks=True, packed=True),
]


@pytest.mark.parametrize("T", [1, 3])
@pytest.mark.parametrize("case", PASTS, ids=str)
def test_a_past_is_as_good_as_the_whole_text(T, case):
    """The last T of 11 tokens, the others in a cache whose slots are shuffled and partly empty."""
    q, k, v, _, extras = case.arrays()
    whole = reference(case, scale=0.4)[0][:, -T:]
    rng = np.random.default_rng(1)
    order = rng.permutation(14)  # slots 11 - T and above are empty
    nonsense = lambda x: 1e3 * jnp.ones((2, 3 + T, *x.shape[2:]))
    past = lambda x: jnp.concatenate([x[:, : 11 - T], nonsense(x)], 1)[:, order].swapaxes(1, 2)
    empty = jnp.full((2, 3 + T), -1)
    fill = lambda x: jnp.concatenate([x[:, : 11 - T], empty], 1)[:, order]
    now = extras.positions_BT[:, -T:], extras.segments_BT[:, -T:]
    see = lambda at, segment: visible(now[0], at, now[1], segment, window=case.window, chunk=case.chunk)
    masks = see(fill(extras.positions_BT), fill(extras.segments_BT)), see(*now)
    options = {"scale": 0.4, "softcap": case.softcap, "sinks_H": extras.sinks_H}
    if case.biased:
        bias = case.bias()[:, :, -T:]
        slots = np.pad(bias[..., : 11 - T], ((0, 0),) * 3 + ((0, 3 + T),), constant_values=1e3)[..., order]
        options |= {"bias_BHTS": slots, "bias_BHTT": bias[..., -T:]}
    new = lambda x: x[:, -T:].swapaxes(1, 2)
    args = q[:, -T:], new(k), new(v), past(k), past(v), *masks
    o = jax.jit(lambda *args: attention_with_past(*args, **options))(*args)
    real = np.asarray(extras.segments_BT[:, -T:] > 0)
    np.testing.assert_allclose(np.asarray(o)[real], np.asarray(whole)[real], atol=1e-5)


def test_a_past_in_another_dtype_and_the_usual_scale():
    case = Case(T=6)
    q, k, v, *_ = case.arrays()
    half = lambda x: x.astype(jnp.bfloat16)
    mask = jnp.asarray(case.mask())
    k_BGTK, v_BGTK = k.swapaxes(1, 2), v.swapaxes(1, 2)
    past = half(k_BGTK[:, :, :5]), half(v_BGTK[:, :, :5])
    o = attention_with_past(q[:, 5:], k_BGTK[:, :, 5:], v_BGTK[:, :, 5:], *past, mask[:, 5:, :5], mask[:, 5:, 5:])
    assert o.dtype == jnp.float32
    np.testing.assert_allclose(o, reference(case)[0][:, 5:], atol=2e-2)


def test_one_query_of_one_key_head_on_tpus(monkeypatch):
    """Where its product has two rows: with softcap, bias and sinks, which belong to heads."""
    case = Case(T=6, H=2, G=2)
    q, k, v, *_ = case.arrays()
    k_BGTK, v_BGTK = k.swapaxes(1, 2), v.swapaxes(1, 2)
    mask, bias = jnp.asarray(case.mask()), jnp.arange(12.0).reshape(1, 2, 1, 6) / 6
    options = {"softcap": 5.0, "sinks_H": jnp.array([1.0, -1.0])}
    options |= {"bias_BHTS": bias[..., :5], "bias_BHTT": bias[..., 5:]}
    past, new = (k_BGTK[:, :, :5], v_BGTK[:, :, :5]), (k_BGTK[:, :, 5:], v_BGTK[:, :, 5:])
    f = lambda q: attention_with_past(q, *new, *past, mask[:, 5:, :5], mask[:, 5:, 5:], **options)
    expected = f(q[:, 5:])
    monkeypatch.setattr(sharding, "platform", lambda: "tpu")
    np.testing.assert_allclose(f(q[:, 5:]), expected, rtol=1e-5, atol=1e-6)
    rows = [v.aval.shape[3:] for eqn in jax.make_jaxpr(f)(q[:, 5:]).eqns for v in eqn.outvars if v.aval.ndim == 5]
    assert (2, case.arrays()[0].shape[-1]) in rows
