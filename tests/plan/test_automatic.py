"""Layouts that types do not tell, against those that XLA's partitioner gives the results of the compiled program."""

import jax
import jax.numpy as jnp
import pytest
from jax import P
from jax.sharding import AxisType

from jaxlm.plan import automatic, graph

lay = jax.lax.with_sharding_constraint
ANY = jax.P.UNCONSTRAINED


def projected(x_BTD, w_DF):
    return lay(x_BTD, P("data")) @ lay(w_DF, P(None, "tensor"))


def summed_away(x_BTD, w_DF):
    y_BTF = projected(x_BTD, w_DF)
    return jnp.tanh(y_BTF).sum(1), y_BTF.max(2)


def attended(x_BTD, w_DF):
    q_BTHK = projected(x_BTD, w_DF).reshape(8, 16, 4, 8)
    return jnp.einsum("bthk,bshk->bhts", q_BTHK, q_BTHK), q_BTHK.transpose(2, 0, 1, 3)


def merged(x_BTD, w_DF):
    x_BTD = lay(x_BTD, P("data"))
    return (
        x_BTD.reshape(128, 32),
        x_BTD[:, :, None] * jnp.ones((8, 16, 3, 32)),
        jnp.stack([x_BTD, x_BTD], 1),
        *jnp.unstack(x_BTD, axis=1)[:2],
    )


def picked(x_BTD, w_DF):
    return lay(x_BTD, P(None, "data", "tensor"))[jnp.array([3, 1, 1])], lay(w_DF, P(None, "data"))[4:6]


def scanned(x_BTD, w_DF):
    """What stands over the layers, and what is carried from one to the next."""
    w_NDF = lay(jnp.stack([w_DF, w_DF, w_DF]), P(None, None, "tensor"))
    layer = lambda x, w: (jnp.sin(x) + (x @ w) @ w.T, x @ w)
    return jax.lax.scan(layer, lay(x_BTD, P("data")), w_NDF)


def accumulated(x_BTD, w_DF):
    """Gradients that start as zeros, and lie as they are asked for in the end."""
    add = lambda g, x_TD: (g + jax.grad(lambda w: jnp.sin(x_TD @ w).sum())(w_DF), None)
    g_DF, _ = jax.lax.scan(add, jnp.zeros_like(w_DF), lay(x_BTD, P(None, "data")))
    return lay(g_DF * 2, P("tensor", ANY))


def called_twice(x_BTD, w_DF):
    step = jax.checkpoint(jax.jit(lambda x: jax.nn.silu(x) + 1))
    return step(step(lay(x_BTD, P("data", None, "tensor"))))


def one_axis_once(x_BTD, w_DF):
    return lay(x_BTD, P("data")) @ lay(w_DF, P("data", "tensor"))


def halfway(x_BTD, w_DF):
    """Manual over one axis, automatic over the other."""
    f = jax.shard_map(lambda x: jnp.cos(x), in_specs=P("data"), out_specs=P("data"), axis_names={"data"})
    return f(lay(x_BTD, P("data", None, "tensor")))


CASES = [projected, summed_away, attended, merged, picked, scanned, accumulated, called_twice, one_axis_once, halfway]


@pytest.mark.parametrize("f", CASES, ids=lambda f: f.__name__)
def test_layouts_are_those_of_the_partitioner(f):
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        traced = jax.jit(f).trace(jnp.ones((8, 16, 32)), jnp.ones((32, 32)))
        given = jax.tree.leaves(traced.lower().compile().output_shardings)
    closed = traced.jaxpr
    found = automatic.layouts(closed.jaxpr, mesh)
    for v, where in zip(closed.jaxpr.outvars, given, strict=True):
        entries = [*where.spec, *[None] * (v.aval.ndim - len(where.spec))]
        assert found.get(v) == tuple(graph.axes(entry, mesh) for entry in entries), v.aval
