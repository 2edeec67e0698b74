import jax
import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.nn import KVSlots, Memory, Recurrent
from jaxlm.sharding import MeshConfig
from tests.meshes import lies, on

RNG = np.random.default_rng(0)
N, B, S = 2, 4, 5
KINDS = {
    "slots": (KVSlots, ((2, S, 3), (S, 1))),  # of heads, and none
    "recurrent": (Recurrent, ((6,), (2, 3, 4))),
    "memory": (Memory, ((7, 2, 3), (7,))),
}


def filled(kind, rows=B, stacked=False):
    """A state of random numbers; of stacked periods each has its own."""
    make, shapes = KINDS[kind]
    random = lambda *lead: tuple(RNG.normal(size=(*lead, *shape)).astype(np.float32) for shape in shapes)
    return make(random(N, rows), axis=1) if stacked else make(random(rows))


def rows_of(state):
    """The rows in front."""
    return [np.moveaxis(np.asarray(x), state.axis, 0) for x in jax.tree.leaves(state)]


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_taken_and_put(kind, stacked):
    state, rows = filled(kind, stacked=stacked), np.array([2, 2, 0, 1, 3])
    found = jax.jit(type(state).take)(state, rows)
    assert type(found) is type(state) and found.axis == state.axis
    for x, y in zip(rows_of(found), rows_of(state), strict=True):
        np.testing.assert_array_equal(x, y[rows])
    other, rows = filled(kind, 2, stacked), np.array([3, 1])
    found = jax.jit(type(state).put)(state, other, rows)
    for x, y, z in zip(rows_of(found), rows_of(state), rows_of(other), strict=True):
        y = y.copy()
        y[rows] = z
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("explicit", [True, False])
def test_rows_on_meshes(explicit):
    state, rows = filled("slots", 8), np.array([3, 3, 1, 0, 7, 6, 5, 4])
    with on(MeshConfig(2, 2, 2, explicit=explicit)) as put:
        names = ("batch", "heads", None, None), ("batch", None, None)
        placed = KVSlots(tuple(put(x, *n) for x, n in zip(state.value, names)))
        taken = jax.jit(lambda state: state.take(rows))(placed)
        joined = jax.jit(lambda state, new: state.put(new, rows[1:]))(placed, filled("slots", 7))
        written = jax.jit(lambda state, new, end_B: state.write(new, end_B))(
            placed, KVSlots(tuple(x[..., :1, :] for x in placed.value)), put(np.arange(8), "batch")
        )
        if explicit:
            for found in (taken, joined, written):
                assert all(lies(x, *n) for x, n in zip(found.value, names))
    for x, y in zip(rows_of(taken), rows_of(state), strict=True):
        np.testing.assert_array_equal(x, y[rows])
    for x, y in zip(rows_of(written), rows_of(state), strict=True):
        for b in range(8):
            np.testing.assert_array_equal(x[b, ..., b % S, :], y[b, ..., 0, :])


def test_periods_are_stacked():
    state = filled("slots").stacked(3)
    assert state.axis == 1 and [x.shape[:2] for x in state.value] == [(3, B)] * 2


@pytest.mark.parametrize("stacked", [False, True])
def test_each_row_is_a_ring_of_its_own_newest_tokens(stacked):
    """Pieces of all lengths, after different numbers of earlier tokens, against lists."""
    state, end_B = filled("slots", stacked=stacked), np.array([0, 3, 4, 11])
    expected = [x.copy() for x in rows_of(state)]
    write = jax.jit(type(state).write)
    for T in (1, 2, 1, 9, 1, S):
        new = filled("slots", stacked=stacked)
        new = KVSlots(tuple(np.repeat(x[..., :1, :], T, -2) * np.arange(1, T + 1)[:, None] for x in new.value))
        state = write(state, new, end_B)
        assert state.axis == stacked
        for x, y in zip(expected, (np.moveaxis(y, int(stacked), 0) for y in new.value)):
            for b, t in np.ndindex(B, T):
                x[b, ..., (end_B[b] + t) % S, :] = y[b, ..., t, :]
        end_B = end_B + T
        for x, y in zip(rows_of(state), expected, strict=True):
            np.testing.assert_array_equal(x, y)


def test_a_recurrence_is_replaced_and_a_memory_kept():
    old, new = filled("recurrent", stacked=True), Recurrent(filled("recurrent").value)
    assert old.write(new, 3).value is new.value and old.write(new, 3).axis == 1
    first, second = filled("memory"), filled("memory")
    assert Memory().write(first, 0).value is first.value
    for new in (second, Memory()):
        assert first.write(new, 1) is first


def test_what_can_go_back():
    slots, recurrent, memory = map(filled, KINDS)
    assert slots.back(100) is slots and memory.back(100) is memory and recurrent.back(0) is recurrent
    ring = KVSlots(slots.value, ring=True)
    assert ring.back(1) is ring
    with pytest.raises(UserError, match="a window's cache is a ring that has overwritten what 2 tokens back was seen"):
        ring.back(2)
    with pytest.raises(UserError, match="a recurrence cannot go back: keep the state from before"):
        recurrent.back(1)
