"""What every recurrence over a row must be, whatever it computes: for the tests of each."""

import re
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

SEGMENTS = np.array([[0, 0, 1, 1, 1, 2, 2, 2, 2, 0], [1, 1, 1, 1, 1, 1, 1, 1, 1, 1], [3, 3, 1, 5, 5, 5, 2, 2, 0, 0]])
ROWS, T = SEGMENTS.shape
Op = Callable[..., tuple[Any, Any]]  # (xs, params, state, segments_BT, chunk) -> y_BT..., state


def _at(tree: Any, index: Any) -> Any:
    return jax.tree.map(lambda x: x[index], tree)


def _real(tree: Any) -> Any:
    """Complex arrays as two numbers each, whose gradients nobody can take for those of their conjugates."""
    return jax.tree.map(lambda x: jnp.stack([x.real, x.imag]) if jnp.iscomplexobj(x) else x, tree)


def _complex(tree: Any, like: Any) -> Any:
    return jax.tree.map(lambda x, y: x[0] + 1j * x[1] if jnp.iscomplexobj(y) else x, tree, like)


def _jitted(op: Op, chunk: int) -> Callable[..., tuple[Any, Any]]:
    return jax.jit(lambda xs, params, state, segments: op(xs, params, state, segments, chunk))


def alone(op: Op, xs: Any, params: Any, chunk: int) -> list[tuple[slice, int, Any, Any]]:
    """Each text of `SEGMENTS` in a row of its own: where it stands, y and the state behind it."""
    found, run = [], _jitted(op, chunk)
    for row in range(ROWS):
        for text in dict.fromkeys(SEGMENTS[row][SEGMENTS[row] > 0].tolist()):
            at = np.flatnonzero(SEGMENTS[row] == text)
            here = slice(int(at[0]), int(at[-1]) + 1)
            y, state = run(_at(xs, np.s_[row : row + 1, here]), params, None, None)
            found.append((here, row, y[0], _at(state, 0)))
    return found


def packed_texts_are_each_alone(op: Op, xs: Any, params: Any, chunk: int, atol: float = 1e-5) -> None:
    """Also those padded on the left and right; the state is the last one's."""
    y, state = _jitted(op, chunk)(xs, params, None, SEGMENTS)
    last = {}
    for here, row, wanted, behind in alone(op, xs, params, chunk):
        np.testing.assert_allclose(y[row, here], wanted, atol=atol)
        last[row] = behind
    for row, wanted in last.items():
        chex.assert_trees_all_close(_at(state, row), wanted, atol=atol)


def _scaled(tree: Any) -> Any:
    """Arrays of at most one."""
    return jax.tree.map(lambda x: np.asarray(x) / (1 + np.abs(np.asarray(x)).max()), tree)


def chunks_change_nothing(
    op: Op, xs: Any, params: Any, chunks: tuple[int, ...], tolerance: float = 1e-5, scaled: bool = False
) -> None:
    """The first is compared with all others: values, states and gradients, of packed rows that go on from a state;
    `scaled` arrays, where some numbers are large."""
    state = _jitted(op, T)(xs, params, None, None)[1]

    def loss(xs, params, state, chunk):
        y, last = op(xs, params, _complex(state, shapes), SEGMENTS, chunk)
        last = _real(last)
        real = jnp.asarray(SEGMENTS > 0).reshape(*SEGMENTS.shape, *(1,) * (y.ndim - 2))
        total = jnp.sum(jnp.sin(jnp.where(real, y, 0)))
        return total + sum(jnp.sum(jnp.cos(s)) for s in jax.tree.leaves(last)), (y, last)

    shapes, state = jax.eval_shape(lambda: state), _real(state)
    learn = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True), static_argnums=3)
    found = [learn(xs, params, state, chunk) for chunk in chunks]
    found = [_scaled(x) for x in found] if scaled else found
    for other in found[1:]:
        chex.assert_trees_all_close(other, found[0], atol=tolerance, rtol=tolerance)


def gradients_are_those_of(plain: Op, op: Op, xs: Any, params: Any, chunk: int, tolerance: float = 1e-5) -> None:
    """Our own gradient against jax's of the same equations, token by token; of arrays scaled to at most one."""

    def grads(f):
        def of(xs, params):
            y, last = f(xs, params, None, None, chunk)
            last = _real(last)
            return sum(jnp.sum(x * jnp.cos(jnp.arange(x.size)).reshape(x.shape)) for x in (y, *jax.tree.leaves(last)))

        return _scaled(jax.jit(jax.value_and_grad(of, (0, 1)))(xs, params))

    chex.assert_trees_all_close(grads(op), grads(plain), atol=tolerance)


def training_bytes(op: Op, xs: Any, params: Any, chunk: int) -> int:
    """Temporary memory of the gradient, by compilation."""
    grad = jax.jit(jax.grad(lambda xs, params: jnp.sum(op(xs, params, None, None, chunk)[0]), (0, 1)))
    return grad.lower(xs, params).compile().memory_analysis().temp_size_in_bytes  # pyright: ignore


def memory_is_linear(op: Op, xs_of: Callable[[int], Any], params: Any, chunk: int) -> None:
    """Four times the positions take no more than four times the memory (and a tenth)."""
    short, long = (training_bytes(op, xs_of(T), params, chunk) for T in (1024, 4096))
    assert long <= 4.4 * short, (short, long)


def no_square(op: Op, xs: Any, params: Any, chunk: int) -> None:
    """No array of the compiled gradient is T x T."""
    grad = jax.jit(jax.grad(lambda xs, params: jnp.sum(op(xs, params, None, None, chunk)[0]), (0, 1)))
    T = jax.tree.leaves(xs)[0].shape[1]
    shapes = re.findall(r"\[([\d,]+)\]", grad.lower(xs, params).compile().as_text())
    assert str(T) in ",".join(shapes).split(",") and chunk < T
    assert not [shape for shape in shapes if sum(int(n) >= T for n in shape.split(",")) > 1]


def sixteen_bits(op: Op, plain: Op, xs: Any, params: Any, chunk: int) -> None:
    """Values and gradients of bfloat16 are those of the same numbers in float32, token by token."""
    y, state = op(xs, params, None, None, chunk)
    assert y.dtype == jnp.bfloat16 and all(s.dtype == jnp.float32 for s in jax.tree.leaves(state))
    exact = jax.tree.map(lambda x: np.asarray(x, np.float32), xs)
    wanted = np.asarray(plain(exact, params, None, None, 1)[0])
    np.testing.assert_allclose(np.asarray(y, np.float32), wanted, rtol=2e-2, atol=2e-2)
    turn = np.cos(np.arange(wanted.size)).reshape(wanted.shape).astype(np.float32)
    of = lambda f: lambda xs: jnp.sum(f(xs, params, None, None, chunk)[0].astype(jnp.float32) * turn)
    for found, wanted in zip(jax.jit(jax.grad(of(op)))(xs), jax.jit(jax.grad(of(plain)))(exact)):
        size = 1 + np.abs(np.asarray(wanted)).max()
        np.testing.assert_allclose(np.asarray(found, np.float32) / size, wanted / size, atol=2e-2)


def it_goes_on(op: Op, xs: Any, params: Any, at: int, chunk: int) -> None:
    """The state behind some tokens is all that the others need."""
    run = _jitted(op, chunk)
    whole, last = run(xs, params, None, None)
    _, state = run(_at(xs, np.s_[:, :at]), params, None, None)
    y, end = run(_at(xs, np.s_[:, at:]), params, state, None)
    np.testing.assert_allclose(y, whole[:, at:], atol=1e-5)
    chex.assert_trees_all_close(end, last, atol=1e-5)


def half_is_close(op: Op, xs: Any, params: Any, chunk: int) -> None:
    """bfloat16 in and out, float32 states: forward and gradient as from the same numbers in float32, to 2e-2."""
    half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), xs)

    def learn(xs):
        def loss(xs):
            y, last = op(xs, params, None, None, chunk)
            return jnp.sum(jnp.sin(y.astype(jnp.float32))), (y, last)

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(xs)

    (_, (y, last)), grads = learn(half)
    assert y.dtype == jnp.bfloat16 and all(s.dtype != jnp.bfloat16 for s in jax.tree.leaves(last))
    (_, (wanted, _)), wanted_grads = learn(jax.tree.map(lambda x: x.astype(jnp.float32), half))
    for found, exact in zip(jax.tree.leaves((y, grads)), jax.tree.leaves((wanted, wanted_grads))):
        scale = max(1.0, float(jnp.abs(exact).max()))
        np.testing.assert_allclose(found.astype(np.float32), exact, rtol=2e-2, atol=2e-2 * scale)
