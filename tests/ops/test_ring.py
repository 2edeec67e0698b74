"""Attention over divided positions, both ways: equal to one device's, balanced, and with the collectives it states."""

import collections
import dataclasses
import functools
import itertools
import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import compat, sharding
from jaxlm.errors import UserError
from jaxlm.ops import attention
from jaxlm.ops.blockwise import BLOCK
from jaxlm.ops.ring import _place
from jaxlm.ops.ring_schedule import schedule
from jaxlm.ops.rule import Extras, Rule
from jaxlm.sharding import MeshConfig
from tests.meshes import lies, name, on
from tests.ops.attention_cases import Case, reference

EIGHT = MeshConfig(1, context=8)
HALF = MeshConfig(2, context=4)
MIXED = MeshConfig(1, fsdp=2, tensor=2, context=2)
AUTO = dataclasses.replace(MIXED, explicit=False)
EVERYTHING = Case(T=16, window=12, chunk=9, softcap=0.9, sinks=True, biased=True, packed=True, J=5)

CASES = [
    (EIGHT, Case(T=32, H=8)),
    (EIGHT, Case(T=16, H=8, G=1, sinks=True, packed=True)),
    (EIGHT, Case(T=64, H=8, window=11, biased=True)),  # two hops
    (HALF, Case(T=20, packed=True, G=4)),  # an odd number of positions a device: in order
    (HALF, Case(T=16, causal=False, packed=True, sinks=True)),
    (HALF, Case(T=16, causal=False, window=4, biased=True, J=5)),  # three hops
    (HALF, Case(T=16, causal=False, window=11)),  # all
    (MIXED, EVERYTHING),
    (AUTO, EVERYTHING),
]
IDS = [f"{name(mesh)}-{case}" for mesh, case in CASES]


def run(case, config, implementation, **more):
    """Output and gradients as `attention_cases.with_gradients`, on the mesh."""
    *qkv, do, extras = case.arrays()
    heads = ("batch", "positions", "heads", None)

    @jax.jit
    def go(q, k, v, do, bias, sinks, segments, positions):
        entry = functools.partial(attention, **case.options(), implementation=implementation, **more)
        f = lambda q, k, v, b, s: entry(q, k, v, segments, positions, bias_HZ=b, sinks_H=s)
        o, pull = jax.vjp(f, q, k, v, bias, sinks)
        return o, pull(do)

    with on(config) as put:
        place = lambda x, *names: None if x is None else put(x, *names)
        rows = place(extras.segments_BT, "batch", "positions"), place(extras.positions_BT, "batch", "positions")
        learned = place(extras.bias_HZ, "heads", None), place(extras.sinks_H, "heads")
        found = go(*(put(x, *heads) for x in (*qkv, do)), *learned, *rows)
        if config is not None and config.explicit:
            assert lies(found[0], *heads)
        return jax.device_get(found)


@pytest.mark.parametrize("implementation", ["ring", "ulysses"])
@pytest.mark.parametrize("config, case", CASES, ids=IDS)
def test_equals_one_device(config, case, implementation):
    chex.assert_trees_all_close(
        run(case, config, implementation), jax.device_get(reference(case)), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("implementation", ["ring", "ulysses"])
def test_dropout_is_that_of_one_device(implementation):
    case = Case(T=32, H=4, packed=True)
    more = {"dropout": 0.4, "key": jax.random.key(3)}
    expected = run(case, None, "blockwise", **more)
    assert np.abs(expected[0] - jax.device_get(reference(case)[0])).max() > 0.1
    chex.assert_trees_all_close(run(case, HALF, implementation, **more), expected, atol=1e-5, rtol=1e-5)


# Who meets whom


def pairs(plan):
    """How often query t meets key s, (T, T), and the products of every device at every hop, (n, hops)."""
    met = np.zeros((plan.n * plan.T,) * 2, int)
    work = np.zeros((plan.n, len(plan.hops)))
    for me, (i, tasks) in itertools.product(range(plan.n), enumerate(plan.hops)):
        source = (me - plan.first - i) % plan.n
        half = 0 if source < me else plan.T // 2
        for task in tasks:
            q, k = (half if start is None else start for start in (task.q, task.k))
            at, of = int(_place(me, q, plan)), int(_place(source, k, plan))
            met[at : at + task.Q, of : of + task.K] += 1
            work[me, i] += task.Q * task.K / (1 + task.diagonal)
    return met, work


RULES = [Rule(causal, window) for causal in (True, False) for window in (None, 1, 5, 9, 12, 30)]


@pytest.mark.parametrize("n, T", [(2, 4), (3, 8), (4, 8), (8, 4), (4, 5)])
def test_every_visible_pair_meets_once(n, T):
    at = np.arange(n * T)[None]
    for rule in RULES:
        met, _ = pairs(schedule(n, T, rule, 2))
        seen = np.asarray(rule.visible(at, at, Extras(), Extras())[0])
        assert (met <= 1).all() and (met[seen] == 1).all(), rule


@pytest.mark.parametrize("n, T", [(2, 4), (3, 8), (8, 4)])
def test_causal_work_is_half_and_the_same_on_all_devices_at_every_hop(n, T):
    plan = schedule(n, T, Rule(), 2)
    assert plan.zigzag and len(plan.hops) == n
    met, work = pairs(plan)
    np.testing.assert_array_equal(work, np.full((n, n), T * T / 2))
    later = np.triu(np.ones_like(met), T // 2)  # masked pairs meet on the diagonal only
    assert not (met & later.astype(bool)).any()


def test_hops_out_of_reach_are_left_out():
    hops = lambda causal, window: schedule(8, 16, Rule(causal, window), 4).hops
    assert [len(hops(True, w)) for w in (1, 2, 17, 18, 33, 64, 65)] == [1, 2, 2, 3, 3, 5, 8]
    assert [len(hops(False, w)) for w in (1, 2, 17, 18, 49, 50)] == [1, 3, 3, 5, 7, 8]
    assert [(task.q, task.Q, task.k, task.K) for task in hops(True, 6)[1]] == [(0, 8, 8, 8)]
    assert [(task.q, task.Q, task.k, task.K) for task in hops(False, 6)[0]] == [(8, 8, 0, 8)]


# What is compiled


def program(implementation, T, G=8, grad=True, **options):
    def both(q, k, v, do):
        o, pull = jax.vjp(functools.partial(attention, implementation=implementation, **options), q, k, v)
        return (o, pull(do)) if grad else o

    with on(EIGHT):
        where = jax.sharding.NamedSharding(compat.concrete_mesh(), sharding.spec("batch", "positions", "heads", None))
        make = lambda heads: jax.ShapeDtypeStruct((1, T, heads, 8), jnp.float32, sharding=where)
        return jax.jit(both).lower(make(8), make(G), make(G), make(8)).compile()


def collectives(compiled):
    kinds = r"all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
    return collections.Counter(re.findall(rf" ({kinds})(?:-start)?\(", compiled.as_text()))


def test_the_ring_sends_to_neighbours_only():
    """Forward: three arrays and the result, of two halves, change places; keys and values go on at the first hop and in
    the loop over the others. Backward: seven arrays, the sums of dO O among them, and their gradients."""
    assert collectives(program("ring", 64, grad=False)) == {"collective-permute": 2 * (3 + 1) + 2 * 2}
    assert collectives(program("ring", 64)) == {"collective-permute": 12 + 2 * (5 + 3) + 2}
    assert collectives(program("ring", 64, window=5, grad=False)) == {"collective-permute": 2}


def test_heads_are_exchanged_by_four_all_to_alls_each_way():
    assert collectives(program("ulysses", 64, grad=False)) == {"all-to-all": 4}
    assert collectives(program("auto", 64, G=1)) == {"all-to-all": 8}


def test_memory_is_linear_and_no_scores_are_held():
    temp = lambda compiled: compiled.memory_analysis().temp_size_in_bytes
    short, long = program("ring", 4096), program("ring", 32768)
    assert temp(long) <= 8 * temp(short)
    sizes = [math.prod(map(int, dims.split(","))) for dims in re.findall(r"f32\[([\d,]+)\]", long.as_text())]
    assert max(sizes) <= 8 * 2048 * BLOCK  # heads, keys of a piece, queries of a block


# Which is taken


def test_auto_takes_the_all_to_all_where_heads_divide_and_else_the_ring():
    assert "all-to-all" in collectives(program("auto", 16))
    case = Case(T=16)  # 4 heads on 8 devices
    chex.assert_trees_all_close(run(case, EIGHT, "auto"), jax.device_get(reference(case)), atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match=r"'blockwise' cannot do 4 heads on mesh context=8 \(it takes multiples of 8\)"):
        run(case, EIGHT, "blockwise")


@pytest.mark.parametrize("implementation", ["ring", "ulysses"])
def test_rows_that_are_whole_are_attended_to_as_ever(implementation):
    case = Case(T=13)  # which no mesh divides
    expected = jax.device_get(reference(case))
    chex.assert_trees_all_close(run(case, None, implementation), expected, atol=1e-5, rtol=1e-5)
    args = (jnp.zeros((2, 13, 4, 8)),) * 3
    with on(HALF):
        jaxpr = str(jax.make_jaxpr(functools.partial(attention, implementation=implementation))(*args))
    assert "ppermute" not in jaxpr and "all_to_all" not in jaxpr
