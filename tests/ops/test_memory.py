"""The formulas of NTM and DNC against loops over rows and heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops import memory

B, H, M, K = 2, 3, 5, 4
RNG = np.random.default_rng(0)
ROWS, KEY = RNG.normal(size=(B, M, K)), RNG.normal(size=(B, H, K))
GATE = RNG.uniform(size=(B, H))
UNIT = RNG.uniform(size=(B, H, K))
WEIGHTS, OTHERS = RNG.dirichlet(np.ones(M), (2, B, H))
USED = RNG.uniform(size=(B, M))
f32 = lambda *xs: [jnp.asarray(x, jnp.float32) for x in xs]
close = lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5)
every = [(b, h) for b in range(B) for h in range(H)]


def test_content_is_the_softmax_of_cosines():
    found = memory.content_weights(*f32(ROWS, KEY, 5 * GATE))
    for b, h in every:
        cosine = [KEY[b, h] @ row / np.linalg.norm(KEY[b, h]) / np.linalg.norm(row) for row in ROWS[b]]
        e = np.exp(5 * GATE[b, h] * np.array(cosine))
        close(found[b, h], e / e.sum())


def test_interpolation_shift_and_sharpening():
    mixed = memory.interpolate(*f32(WEIGHTS, OTHERS, GATE))
    by = RNG.dirichlet(np.ones(3), (B, H))
    moved, sharp = memory.shift(*f32(WEIGHTS, by)), memory.sharpen(*f32(WEIGHTS, 1 + 3 * GATE))
    for b, h in every:
        close(mixed[b, h], GATE[b, h] * WEIGHTS[b, h] + (1 - GATE[b, h]) * OTHERS[b, h])
        close(moved[b, h], [sum(by[b, h, j + 1] * WEIGHTS[b, h, (m - j) % M] for j in (-1, 0, 1)) for m in range(M)])
        power = WEIGHTS[b, h] ** (1 + 3 * GATE[b, h])
        close(sharp[b, h], power / power.sum())
    forward = jnp.zeros((B, H, 3)).at[..., 2].set(1)
    close(memory.shift(jnp.asarray(WEIGHTS, jnp.float32), forward), np.roll(WEIGHTS, 1, -1))


def test_reading_erasing_and_adding():
    found = memory.read(*f32(ROWS, WEIGHTS))
    written = memory.erase_and_add(*f32(ROWS, WEIGHTS, UNIT, KEY))
    for b, h in every:
        close(found[b, h], sum(WEIGHTS[b, h, m] * ROWS[b, m] for m in range(M)))
    for b in range(B):
        for m in range(M):
            row = ROWS[b, m].copy()
            for h in range(H):
                row *= 1 - WEIGHTS[b, h, m] * UNIT[b, h]
            close(written[b, m], row + sum(WEIGHTS[b, h, m] * KEY[b, h] for h in range(H)))


def test_usage():
    wrote = WEIGHTS[:, 0]
    found = memory.usage(*f32(USED, wrote, OTHERS, GATE))
    for b in range(B):
        for m in range(M):
            kept = np.prod([1 - GATE[b, h] * OTHERS[b, h, m] for h in range(H)])
            close(found[b, m], (USED[b, m] + wrote[b, m] - USED[b, m] * wrote[b, m]) * kept)


@pytest.mark.parametrize("used", [USED, np.zeros((B, M)), np.ones((B, M)), np.round(USED)])
def test_allocation_goes_through_the_rows_by_usage(used):
    found = memory.allocation(*f32(used))
    for b in range(B):
        left, expected = 1.0, np.zeros(M)
        for m in sorted(range(M), key=lambda m: (used[b, m], m)):
            expected[m] = (1 - used[b, m]) * left
            left *= used[b, m]
        close(found[b], expected)


def test_allocation_has_a_gradient_where_rows_are_empty():
    assert np.isfinite(jax.grad(lambda u: memory.allocation(u)[0, 0])(jnp.zeros((1, M)))).all()


def test_links_follow_the_order_of_writing():
    links, last = np.zeros((B, M, M)), np.zeros((B, M))
    found = [jnp.zeros((B, M, M)), jnp.zeros((B, M))]
    for w in RNG.dirichlet(np.ones(M), (4, B)) * RNG.uniform(size=(4, B, 1)):
        found = memory.link(found[0], found[1], jnp.asarray(w, jnp.float32))
        for b in range(B):
            for i in range(M):
                for j in range(M):
                    new = (1 - w[b, i] - w[b, j]) * links[b, i, j] + w[b, i] * last[b, j]
                    links[b, i, j] = 0 if i == j else new
        last = (1 - w.sum(-1, keepdims=True)) * last + w
    close(found[0], links)
    close(found[1], last)
    after, before = memory.follow(found[0], jnp.asarray(WEIGHTS, jnp.float32))
    close(after, [[links[b] @ WEIGHTS[b, h] for h in range(H)] for b in range(B)])
    close(before, [[links[b].T @ WEIGHTS[b, h] for h in range(H)] for b in range(B)])
    sharp = [jnp.zeros((1, M, M)), jnp.zeros((1, M))]
    for row in (3, 0, 4):
        sharp = memory.link(sharp[0], sharp[1], jnp.eye(M)[None, row])
    after, before = memory.follow(sharp[0], jnp.eye(M)[None, None, 0])
    assert (int(after.argmax()), int(before.argmax())) == (4, 3)


def test_modes():
    mode = RNG.dirichlet(np.ones(3), (B, H))
    three = RNG.dirichlet(np.ones(M), (3, B, H))
    found = memory.read_mode(*f32(mode, *three))
    close(found, sum(mode[..., i, None] * three[i] for i in range(3)))
