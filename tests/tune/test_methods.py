"""GPTQ, AWQ and SmoothQuant: better than rounding on what was seen, and what slow numpy finds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.models import by_layer, forward, layers
from jaxlm.ops.leaves import Grouped, Int8, Rescaled, dense
from jaxlm.sharding import Axes
from jaxlm.tune import calibrated
from jaxlm.tune.gptq import gptq
from jaxlm.tune.quantize import stored
from jaxlm.tune.seen import Matrix, Seen
from tests import tiny
from tests.weights import weights

MODEL = tiny.model()
RNG = np.random.default_rng(0)
BATCHES = [RNG.integers(0, 256, (4, 32)) for _ in range(3)]
PARAMS = weights(MODEL.build(), BATCHES[0])


def outliers(params):
    """The same with a few loud channels where layers read."""
    norms = {name: {"scale": x["scale"].copy()} for name, x in block(params).items() if "norm" in name}
    for x in norms.values():
        x["scale"][:, [3, 17]] *= 30
    return by_layer._put(params, ("segment_0", "periods", "block_0"), {**block(params), **norms})


def block(params):
    return params["segment_0"]["periods"]["block_0"]


def matrix(w):
    return Matrix(jnp.asarray(w), "w", Axes((None, None), (0,)))


def slow_gptq(w_IO, h_II, group, order_I, fixed):
    """Column by column, the inverse Hessian made anew each time: no Cholesky, no blocks."""
    w, h = w_IO[order_I].astype(np.float64), h_II[np.ix_(order_I, order_I)].astype(np.float64)
    h += np.eye(len(h)) * 0.01 * h.diagonal().mean()
    scale_of = lambda rows: np.abs(rows).max(0) / 7
    found = np.zeros_like(w)
    for i in range(len(w)):
        if fixed:
            g = order_I[i] // group
            scale = scale_of(w_IO[g * group : (g + 1) * group])
        elif i % group == 0:
            scale = scale_of(w[i : i + group])
        inverse = np.linalg.inv(h[i:, i:])
        found[i] = np.clip(np.round(w[i] / scale), -8, 7) * scale
        w[i:] -= np.outer(inverse[:, 0] / inverse[0, 0], w[i] - found[i])
    undone = np.zeros_like(found)
    undone[order_I] = found
    return undone


@pytest.mark.parametrize("act_order", [True, False])
def test_gptq_is_what_slow_numpy_finds(act_order):
    w_IO, x_NI = RNG.normal(size=(16, 6)), RNG.normal(size=(80, 16)) * np.linspace(0.2, 3, 16)
    x_NI = x_NI @ (np.eye(16) + 0.3 * RNG.normal(size=(16, 16)))
    seen = Seen.of(jnp.asarray(x_NI))
    order_I = np.argsort(-np.diag(seen.hessian_II)) if act_order else np.arange(16)
    expected = slow_gptq(w_IO.astype(np.float32), np.asarray(seen.hessian_II), 8, order_I, act_order)
    found = gptq([matrix(w_IO.astype(np.float32))], seen, "int4", 8, act_order)[0].dense()
    np.testing.assert_allclose(found, expected, atol=2e-4)
    error = lambda w: np.square(x_NI @ (w - w_IO)).sum()
    plain = stored(jnp.asarray(w_IO), Axes((None, None), (0,)), "w", "int4", 8).dense()
    assert error(found) < 0.8 * error(plain)
    eight = gptq([matrix(w_IO.astype(np.float32))], seen, "int8")[0]
    assert isinstance(eight, Int8) and error(eight.dense()) < 0.8 * error(Int8.of(jnp.asarray(w_IO), (0,)).dense())


@pytest.mark.parametrize(("method", "kind"), [("gptq4", Grouped), ("awq4", Rescaled)])
def test_no_layer_is_worse_than_rounded(method, kind):
    params = outliers(PARAMS)
    found, rows = calibrated(MODEL, params, method, BATCHES, 8)
    assert {type(x) for x in jax.tree.leaves(block(found), is_leaf=lambda x: isinstance(x, kind))} >= {kind}
    names = ("mixer.q", "mixer.k", "mixer.v", "mixer.o", "ffn.gate", "ffn.up", "ffn.down")
    assert sorted((row.layer, row.matrix) for row in rows) == sorted((n, name) for n in range(2) for name in names)
    for row in rows:
        loud = method != "awq4" or row.matrix not in ("mixer.o", "ffn.down")
        assert row.error > 0 and (row.error < row.nearest if loud else row.error <= 1.001 * row.nearest), row
    out = lambda params: forward(MODEL.build(), params, BATCHES[0]).hidden_BTD
    np.testing.assert_allclose(out(found), out(dense(found)), atol=2e-4)


def test_smoothquant_on_loud_channels():
    found, rows = calibrated(MODEL, outliers(PARAMS), "smoothquant", BATCHES)
    for row in rows:
        if row.matrix not in ("mixer.o", "ffn.down"):
            assert row.error < 0.5 * row.nearest, row
    out = lambda params: forward(MODEL.build(), params, BATCHES[0]).hidden_BTD
    plain = out(outliers(PARAMS))
    assert 1e-4 < np.abs(out(found) - plain).max() / np.abs(plain).max() < 0.1


def test_layers_in_turn_are_the_model():
    """The layers one by one compute what all do, and each was seen with those before it changed."""
    (x, context) = jax.jit(lambda p: by_layer.entries(MODEL, p, BATCHES[0]))(PARAMS)[()]
    for layer in layers(MODEL):
        x, context = by_layer.apply(layer, 2, by_layer.weights(PARAMS, layer), x, context)
    states = forward(MODEL.build(), PARAMS, BATCHES[0]).hidden_BTD
    norm = x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6) * PARAMS["norm"]["scale"][None, None]
    np.testing.assert_allclose(norm, states, atol=1e-4)


def test_padding_is_not_seen():
    batch = {"tokens": BATCHES[0], "positions": np.broadcast_to(np.arange(32), (4, 32))}
    whole = batch | {"segments": np.ones((4, 32), np.int32)}
    half = {name: x.copy() for name, x in whole.items()}
    half["segments"][:, 16:] = 0
    half["tokens"][:, 16:] = 5
    short = {name: x[:, :16] for name, x in whole.items()}
    rows = lambda batch: [row.error for row in calibrated(MODEL, PARAMS, "gptq4", [batch])[1]]
    np.testing.assert_allclose(rows(half), rows(short), rtol=1e-2)


def test_what_cannot_be():
    with pytest.raises(UserError, match="unknown method of quantisation 'gptq5'"):
        calibrated(MODEL, PARAMS, "gptq5", BATCHES)
    with pytest.raises(UserError, match="calibration has no text"):
        calibrated(MODEL, PARAMS, "gptq4", [])
    with pytest.raises(UserError, match=r"mixer\.q has 32 inputs: groups of 24 do not divide"):
        calibrated(MODEL, PARAMS, "gptq4", BATCHES, group=24)
    with pytest.raises(UserError, match=r"group=8 is of weights in 4 bits"):
        calibrated(MODEL, PARAMS, "smoothquant", BATCHES, group=8)
