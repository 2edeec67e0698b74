import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.decode import Choice, Timestamps
from jaxlm.errors import UserError

V, END, FIRST = 24, 10, 13  # text below 10, 10 ends it, 11 special, 12 "no timestamps"
RNG = np.random.default_rng(0)


def allowed(z, ids, latest):
    """The rules, one token at a time."""
    z, stamp = z.copy(), lambda i: i >= FIRST
    z[FIRST - 1] = -np.inf
    if not ids:
        z[:FIRST] = -np.inf
        z[FIRST + latest + 1 :] = -np.inf
        return z
    if stamp(ids[-1]):
        if len(ids) == 1 or stamp(ids[-2]):
            z[FIRST:] = -np.inf
        else:
            z[:END] = -np.inf
    stamps = [i for i in ids if stamp(i)]
    opens = stamp(ids[-1]) and len(ids) > 1 and not stamp(ids[-2])
    z[FIRST : stamps[-1] + (not opens)] = -np.inf
    if np.exp(z[FIRST:]).sum() > np.exp(z[:FIRST].max()):
        z[:FIRST] = -np.inf
    return z


def test_it_follows_the_rules():
    sampler, B, latest = Timestamps(FIRST, END, 3), 40, 3
    state = sampler.start(jnp.zeros((B, 2), jnp.int32), jnp.ones((B, 2)), V)
    texts = [[] for _ in range(B)]
    for step in range(8):
        z = RNG.normal(size=(B, V)).astype(np.float32)
        found = np.asarray(jax.jit(sampler.filter)(z, state))
        wanted = np.stack([allowed(row, ids, latest) for row, ids in zip(z, texts)])
        np.testing.assert_array_equal(found, wanted, err_msg=f"step {step}")
        token_B = np.argmax(found + RNG.gumbel(size=found.shape), 1)
        for ids, token in zip(texts, token_B):
            ids.append(int(token))
        state = sampler.after(state, Choice(jnp.asarray(token_B)))
    assert all(ids[0] in range(FIRST, FIRST + latest + 1) for ids in texts)
    assert len({tuple(i >= FIRST for i in ids) for ids in texts}) > 5


def test_numbers_below_zero():
    with pytest.raises(UserError, match="first must be"):
        Timestamps(-1, 2)
