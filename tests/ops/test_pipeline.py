"""The pipeline against its layers one after the other, and what its programs send."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxlm import sharding
from jaxlm.ops.pipeline import merge, pipeline, split, ticks
from jaxlm.sharding import MeshConfig
from tests.meshes import on

N, D = 16, 8
RNG = np.random.default_rng(0)
W = (RNG.normal(size=(N, D, D)) / 4).astype(np.float32)
X = RNG.normal(size=(24, D)).astype(np.float32)
SHIFT = RNG.normal(size=24).astype(np.float32)  # of each row


def layer(w_DD, number, x_BD, shift_B):
    return x_BD + jnp.tanh(x_BD @ w_DD + shift_B[:, None]) * (number + 1) / N


def block(layers, x, shift):
    """Layers that know their number and read something of each row, with outs of each row and of all rows together."""

    def one(x, each):
        w, number = each
        y = layer(w, number, x, shift)
        return y, {"rows": y * x, "mean": jnp.square(y).mean(0)}

    return lax.scan(one, x, layers)


def loss(y, outs):
    return jnp.mean(y**2) + jnp.mean(jnp.sin(outs["rows"])) + jnp.mean(outs["mean"] * jnp.arange(D)[None])


@functools.cache
def plain():
    """Value and gradients, by Python's loop."""

    def f(w, x):
        rows, means = [], []
        for i in range(N):
            y = layer(w[i], i, x, SHIFT)
            rows.append(y * x)
            means.append(jnp.square(y).mean(0))
            x = y
        return loss(x, {"rows": jnp.stack(rows), "mean": jnp.stack(means)}), x

    return jax.jit(jax.value_and_grad(f, argnums=(0, 1), has_aux=True))(W, X)


def piped(w, x, shift, M, run=block, **how):
    layers = w, jnp.arange(N)
    y_M, outs = pipeline(run, layers, split(x, M), split(shift, M), **how)
    outs = {"rows": jax.vmap(merge, in_axes=1)(outs["rows"]), "mean": outs["mean"].mean(0)}
    return loss(merge(y_M), outs), merge(y_M)


def gradient(M, **how):
    return jax.jit(jax.value_and_grad(functools.partial(piped, M=M, **how), argnums=(0, 1), has_aux=True))


def placed(put):
    return put(W, "layers", None, None), put(X, "batch", None), put(SHIFT, "batch")


CASES = [  # stages, microbatches, rounds
    (2, 6, 1),
    (2, 3, 4),  # microbatches that the stages do not divide: the last go round alone
    (4, 2, 1),  # fewer than stages
    (4, 4, 2),  # each stage's blocks go to two others
    (8, 3, 1),
    (8, 8, 2),
]


@pytest.mark.parametrize("explicit", [True, False], ids=["explicit", "auto"])
@pytest.mark.parametrize("S, M, R", CASES)
def test_equals_the_layers_one_after_the_other(S, M, R, explicit):
    with on(MeshConfig(stage=S, explicit=explicit)) as put:
        found = gradient(M, rounds=R, remat=S != 4)(*placed(put))
    chex.assert_trees_all_close(found, plain(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("explicit", [True, False], ids=["explicit", "auto"])
def test_layers_may_have_collectives_of_their_own(explicit):
    """Rows and columns of x change places over data, and back; w is gathered, and what it gives is scattered."""

    def local(w_dD, x_bD):
        x_Bd = lax.all_to_all(x_bD, "data", 1, 0, tiled=True)
        w_DD = lax.all_gather(w_dD, "data", axis=0, tiled=True)
        part = w_DD.shape[0] // x_Bd.shape[1]
        w_dD = lax.dynamic_slice_in_dim(w_DD, lax.axis_index("data") * x_Bd.shape[1], D // part)
        return lax.psum_scatter(x_Bd @ w_dD, "data", scatter_dimension=0, tiled=True)

    def run(layers, x, shift):
        def one(x, each):
            w, number = each
            ins, out = [("batch", None), ("batch", None)], ("batch", None)
            y = sharding.shard_map(local, ins, out, w, x)
            y = x + jnp.tanh(y + shift[:, None]) * (number + 1) / N
            mean = sharding.constrain(jnp.square(y).mean(0), None)
            return y, {"rows": y * x, "mean": mean}

        return lax.scan(one, x, layers)

    with on(MeshConfig(data=4, stage=2, explicit=explicit)) as put:
        found = gradient(3, run=run)(*placed(put))
    chex.assert_trees_all_close(found, plain(), rtol=1e-5, atol=1e-5)


def test_rows_are_cut_and_put_together_again():
    x = jnp.asarray(X)
    np.testing.assert_array_equal(split(x, 4)[1], X[1::4])
    np.testing.assert_array_equal(merge(split(x, 4)), X)


def count(text: str, kind: str) -> int:
    """Exchanges of floats in a program, each loop once."""
    return len(re.findall(rf" = \(?f32\S* {kind}(?:-start)?\(", text))


@pytest.mark.parametrize("S, M, R", [(4, 6, 1), (4, 4, 2)])
def test_what_is_sent(S, M, R):
    """One permutation a tick each way; with rounds, as many to bring the weights and their gradients; the output and
    the input's gradient added up once; and a gather of each kind of outs, nothing else."""
    with on(MeshConfig(data=1, stage=S, fsdp=2)) as put:
        text = gradient(M, rounds=R).lower(*placed(put)).compile().as_text()
    assert text
    assert count(text, "collective-permute") == 2 + (2 * R if R > 1 else 0)
    assert count(text, "reduce-scatter") == count(text, "all-to-all") == 0
    weights = [line for line in text.splitlines() if "all-gather" in line and re.search(rf"\[\d+,{D},{D}\]", line)]
    assert weights == []
    loops = {int(n) for n in re.findall(r'"known_trip_count":{"n":"(\d+)"}', text)}
    assert ticks(S, M, R) in loops and ticks(S, M, R) == M * R + S - 1


@pytest.mark.parametrize("remat", [True, False])
def test_what_is_kept_for_the_backward_pass(remat):
    """With remat, of each tick its input alone; else what every layer of it keeps, too."""
    S, M = 4, 4
    with on(MeshConfig(data=1, stage=S, fsdp=2)) as put:
        w, x, shift = placed(put)
        f = lambda w: piped(w, x, shift, M, remat=remat)[1].sum()
        kept = jax.eval_shape(lambda w: jax.vjp(f, w)[1], w)
    sizes = [x.size for x in jax.tree.leaves(kept) if x.ndim > 1 and x.dtype == jnp.float32]
    inputs = S * ticks(S, M) * X.size // M  # of all stages
    assert sum(size == inputs for size in sizes) == 1 if remat else max(sizes) == inputs * N // S
    if remat:
        assert max(sizes) == inputs
