import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.losses import TokenLoss, _chunks, cross_entropy
from tests.meshes import MESHES, lies, name, on

B, T, D, V = 8, 6, 16, 24
RNG = np.random.default_rng(0)
HIDDEN = RNG.normal(size=(B, T, D)).astype(np.float32)
HEAD = RNG.normal(size=(V, D)).astype(np.float32)
LABELS = RNG.integers(0, V, (B, T)).astype(np.int32)
WEIGHTS = (RNG.uniform(0, 2, (B, T)) * (RNG.uniform(size=(B, T)) > 0.3)).astype(np.float32)  # a third count nothing


def naive(hidden, head, labels, weights, label_smoothing=0.0, z_loss=0.0, softcap=None) -> TokenLoss:
    """All logits at once, and the definitions of the books."""
    l_BTV = jnp.einsum("btd,vd->btv", hidden, head)
    l_BTV = l_BTV if softcap is None else softcap * jnp.tanh(l_BTV / softcap)
    logp_BTV, onehot_BTV = jax.nn.log_softmax(l_BTV), jax.nn.one_hot(labels, V)
    target_BTV = (1 - label_smoothing) * onehot_BTV + label_smoothing / V
    loss_BT = -jnp.sum(target_BTV * logp_BTV, -1) + z_loss * jnp.square(jax.nn.logsumexp(l_BTV, -1))
    nll_BT = -jnp.sum(onehot_BTV * logp_BTV, -1)
    return TokenLoss(jnp.sum(loss_BT * weights), jnp.sum(nll_BT * weights), jnp.sum(weights))


def with_gradients(f, put=lambda x, *names: x, dtype=jnp.float32, head_dtype=jnp.float32):
    """The sums, and the gradients of the mean loss with respect to hidden states and head."""

    @jax.jit
    def run(hidden, head, labels, weights):
        def mean(hidden, head):
            out = f(hidden, head, labels, weights)
            return out.total / out.weight, out

        grads, out = jax.grad(mean, (0, 1), has_aux=True)(hidden, head)
        return out, grads

    hidden = put(jnp.asarray(HIDDEN, dtype), "batch", "seq", None)
    head = put(jnp.asarray(HEAD, head_dtype), "vocab", "embed")
    return run(hidden, head, put(LABELS, "batch", None), put(WEIGHTS, "batch", None))


SMOOTHING, Z_LOSS, SOFTCAP = {"label_smoothing": 0.2}, {"z_loss": 0.05}, {"softcap": 3.0}


@pytest.mark.parametrize(
    "chunk, how",
    [
        *(
            (None, {}),
            (1, {}),
            (16, {}),
            (16, SMOOTHING),
            (16, Z_LOSS),
            (8, SMOOTHING | Z_LOSS),
            (47, SMOOTHING | Z_LOSS),
        ),
        *((None, SOFTCAP), (16, SMOOTHING | Z_LOSS | SOFTCAP)),
    ],
    ids=str,
)
def test_equals_the_formula_in_any_chunks(chunk, how):
    found = with_gradients(lambda *args: cross_entropy(*args, chunk=chunk, **how))
    chex.assert_trees_all_close(found, with_gradients(lambda *args: naive(*args, **how)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", MESHES, ids=name)
def test_equals_the_formula_on_meshes(config):
    how = SMOOTHING | Z_LOSS | SOFTCAP
    expected = with_gradients(lambda *args: naive(*args, **how))
    with on(config) as put:
        found = with_gradients(lambda *args: cross_entropy(*args, chunk=2, **how), put)
        if config.explicit:
            assert lies(found[1][1], "vocab", "embed")
    chex.assert_trees_all_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("head_dtype", [jnp.float32, jnp.bfloat16])
def test_bfloat16(head_dtype):
    f = lambda *args: cross_entropy(*args, chunk=16)
    out, (dhidden, dhead) = with_gradients(f, dtype=jnp.bfloat16, head_dtype=head_dtype)
    expected = with_gradients(naive)
    assert (dhidden.dtype, dhead.dtype) == (jnp.bfloat16, head_dtype)
    chex.assert_trees_all_close(out, expected[0], rtol=1e-2)
    chex.assert_trees_all_close((np.float32(dhidden), np.float32(dhead)), expected[1], atol=3e-3)


def test_sums_of_parts_add_up():
    f = jax.jit(cross_entropy)
    part = lambda a, b: f(HIDDEN[a:b], HEAD, LABELS[a:b], WEIGHTS[a:b])
    chex.assert_trees_all_close(part(0, 4) + part(4, 8), part(0, 8), rtol=1e-5)


def test_a_token_of_weight_0_does_nothing_even_with_a_label_outside():
    labels = np.where(WEIGHTS == 0, -1, LABELS)
    hidden = np.where(WEIGHTS[..., None] == 0, 1e4, HIDDEN).astype(np.float32)
    f = lambda hidden, labels: jax.value_and_grad(
        lambda head: cross_entropy(hidden, head, labels, WEIGHTS, chunk=16).total
    )(jnp.asarray(HEAD))
    chex.assert_trees_all_close(jax.jit(f)(hidden, labels), jax.jit(f)(HIDDEN, LABELS), rtol=1e-5, atol=1e-5)


def test_large_logits_do_not_overflow():
    f = lambda hidden: cross_entropy(1e3 * hidden, jnp.asarray(HEAD), LABELS, WEIGHTS, z_loss=1e-4).total
    chex.assert_tree_all_finite(jax.jit(jax.value_and_grad(f))(jnp.asarray(HIDDEN)))


@pytest.mark.parametrize("N, tokens", [(8192, 512), (1000, 256), (21, 100), (96, 1), (4, 1), (1, 1)])
def test_chunks_divide_the_tokens_and_are_the_largest_allowed(N, tokens):
    n = _chunks(N, tokens)
    assert N % n == 0 and N // n <= tokens
    assert all(N // m > tokens for m in range(1, n) if N % m == 0)


def test_the_gradient_of_the_head_does_not_wait_for_the_layers():
    """It is there, summed over devices, when that of the hidden states goes on; unless nobody asks for it."""

    def gradients(which):
        return jax.grad(lambda *args: cross_entropy(*args, LABELS, WEIGHTS).total, which)

    eqns = jax.make_jaxpr(gradients((0, 1)))(HIDDEN, HEAD).eqns
    (barrier,) = (eqn for eqn in eqns if eqn.primitive.name == "optimization_barrier")
    assert [v.aval.shape for v in barrier.outvars] == [HIDDEN.shape, HEAD.shape]
    products = lambda which: jax.jit(gradients(which)).lower(HIDDEN, HEAD).compile().as_text().count(" dot(")
    assert (products((0, 1)), products(0)) == (3, 2)
