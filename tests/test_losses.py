import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.losses import LEAST, TokenLoss, _chunks, _Tokens, chunk_tokens, cross_entropy, token_logprobs
from jaxlm.sharding import MeshConfig
from tests.meshes import MESHES, lies, name, on

B, T, D, V = 8, 6, 16, 24
RNG = np.random.default_rng(0)
HIDDEN = RNG.normal(size=(B, T, D)).astype(np.float32)
HEAD = RNG.normal(size=(V, D)).astype(np.float32)
LABELS = RNG.integers(0, V, (B, T)).astype(np.int32)
BIAS = RNG.normal(size=V).astype(np.float32)
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


def test_the_gradient_of_the_head_is_summed_in_the_dtype_asked_for():
    """Over chunks and devices; by default the hidden states', which costs it some of its digits and no more."""
    sums = lambda dtype: lambda *args: cross_entropy(*args, chunk=1, head_grad_dtype=dtype)
    head = lambda dtype, put=lambda x, *names: x: with_gradients(sums(dtype), put, jnp.bfloat16)[1][1]
    exact = head(jnp.float32)
    error = lambda found: np.linalg.norm(np.float32(found) - exact) / np.linalg.norm(exact)
    np.testing.assert_array_equal(head(None), head(jnp.bfloat16))
    assert 1e-4 < error(head(None)) < 1e-2
    with on(MESHES[4]) as put:
        assert error(head(jnp.float32, put)) < 1e-6 < error(head(None, put)) < 1e-2


LOSSES = [lambda *args: cross_entropy(*args, WEIGHTS).total, lambda *args: token_logprobs(*args)[0].sum()]


@pytest.mark.parametrize("total", LOSSES, ids=["cross_entropy", "token_logprobs"])
def test_sums_over_tokens_do_not_overflow_in_float16(total):
    """The head's gradient is 48 tokens' hidden states of 30,000 each, where float16 ends at 65,504."""
    hidden, labels = jnp.full((B, T, D), 3e4, jnp.float16), jnp.zeros((B, T), jnp.int32)
    dhead = jax.jit(jax.grad(lambda head: total(hidden, head, labels)))(jnp.zeros((V, D)))
    chex.assert_tree_all_finite(dhead)
    assert abs(dhead[0]).min() > 1e5


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


@pytest.mark.parametrize(
    "N, tokens, chunks",
    [(8192, 512, 16), (8192, 682, 16), (1000, 256, 4), (21, 100, 1), (96, 1, 96), (1, 1, 1)]
    + [(1021, 256, 4), (22, 5, 5), (11, 4, 3)],  # whose divisors are too small: not all pieces are full
)
def test_chunks_are_as_few_as_divide_the_tokens_or_nearly(N, tokens, chunks):
    assert _chunks(N, tokens) == chunks


UNEVEN = [None, MeshConfig(4, 2), MeshConfig(2, 2, stage=2), MeshConfig(4, tensor=2, explicit=False)]


@pytest.mark.parametrize("config", UNEVEN, ids=name)
def test_chunks_that_are_not_full(config):
    """Of 11 tokens, or 22 where two devices share a piece, on each device; 88 on one."""
    rng = np.random.default_rng(1)
    hidden, labels = rng.normal(size=(8, 11, D)).astype(np.float32), rng.integers(0, V, (8, 11)).astype(np.int32)
    weights = rng.normal(size=(8, 11)).astype(np.float32)

    def total(f):
        return jax.jit(jax.value_and_grad(lambda *args: f(*args, labels, weights), (0, 1)))

    logprobs = lambda x, h, y, w: (token_logprobs(x, h, y, chunk=4)[0] * w).sum()
    loss = lambda x, h, y, w: -cross_entropy(x, h, y, w, chunk=4).total
    expected = total(lambda x, h, y, w: (naive_logprobs(x, h, y)[0] * w).sum())(hidden, HEAD)
    with on(config) as put:
        placed = put(hidden, "batch", None, None), put(HEAD, "vocab", "embed")
        labels, weights = put(labels, "batch", None), put(weights, "batch", None)
        found = jax.device_get([total(f)(*placed) for f in (logprobs, loss)])
    chex.assert_trees_all_close(found, [expected] * 2, atol=1e-5, rtol=1e-5)


def test_the_gradient_of_the_head_does_not_wait_for_the_layers():
    """It is there, summed over devices, when that of the hidden states goes on; unless nobody asks for it."""

    def gradients(which):
        return jax.grad(lambda *args: cross_entropy(*args, LABELS, WEIGHTS).total, which)

    eqns = jax.make_jaxpr(gradients((0, 1)))(HIDDEN, HEAD).eqns
    (barrier,) = (eqn for eqn in eqns if eqn.primitive.name == "optimization_barrier")
    assert [v.aval.shape for v in barrier.outvars] == [HIDDEN.shape, HEAD.shape]
    products = lambda which: jax.jit(gradients(which)).lower(HIDDEN, HEAD).compile().as_text().count(" dot(")
    assert (products((0, 1)), products(0)) == (3, 2)


# chunk_tokens ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shapes, tokens",
    [
        (dict(N=8192, V=512, D=192, dtype="float32"), 8192),  # all at once
        (dict(N=8193, V=512, D=192, dtype="float32"), 8192),  # 16 MiB of logits
        (dict(N=2048, V=4096, D=192, dtype="float32"), 1024),
        (dict(N=10**9, V=32_000, D=1024, dtype="float32"), 682),  # two thirds of the head's bytes
        (dict(N=10**9, V=262_144, D=1024, dtype="float32"), 682),  # whatever the vocabulary
        (dict(N=4096, V=128_256, D=4096, dtype="bfloat16"), 1365),
        (dict(N=1365, V=128_256, D=4096, dtype="bfloat16"), 1365),
        (dict(N=10**6, V=262_144, D=640, dtype="bfloat16"), LEAST),
        (dict(N=LEAST - 1, V=262_144, D=640, dtype="bfloat16"), LEAST),
    ],
    ids=str,
)
def test_the_size_of_a_chunk_follows_from_the_shapes(shapes, tokens):
    assert chunk_tokens(**shapes) == tokens


def test_a_chunk_is_counted_on_one_device():
    """Of its own tokens, and its own share of the vocabulary."""
    shape = lambda *shape, dtype="float32": jax.ShapeDtypeStruct(shape, dtype)
    chunks = lambda V: _Tokens.of(shape(8, 4096, 16), shape(V, 16), shape(8, 4096, dtype="int32"), None).chunks
    assert (chunks(16), chunks(64), chunks(256), chunks(2048)) == (1, 1, 2, 16)
    with on(MeshConfig(2, 2, 2)):
        assert (chunks(16), chunks(64), chunks(256), chunks(2048)) == (1, 1, 1, 2)


# token_logprobs -------------------------------------------------------------------------------------------------------

LOGPROBS = {"logprob": RNG.normal(size=(B, T)), "logsumexp": RNG.normal(size=(B, T))}  # cotangents, a number a token


def naive_logprobs(hidden, head, labels, softcap=None):
    l_BTV = jnp.einsum("btd,vd->btv", hidden, head)
    l_BTV = l_BTV if softcap is None else softcap * jnp.tanh(l_BTV / softcap)
    logp_BT = jnp.take_along_axis(jax.nn.log_softmax(l_BTV), labels[..., None], -1)[..., 0]
    return logp_BT, jax.nn.logsumexp(l_BTV, -1)


def pulled(f, put=lambda x, *names: x, dtype=jnp.float32):
    """The outputs, and the gradients of hidden states and head for other cotangents of every token and output."""

    @jax.jit
    def run(hidden, head, labels, cotangents):
        out, pull = jax.vjp(lambda hidden, head: f(hidden, head, labels), hidden, head)
        return out, pull(cotangents)

    hidden = put(jnp.asarray(HIDDEN, dtype), "batch", "seq", None)
    cotangents = tuple(put(np.float32(x), "batch", None) for x in LOGPROBS.values())
    return run(hidden, put(HEAD, "vocab", "embed"), put(LABELS, "batch", None), cotangents)


@pytest.mark.parametrize("chunk, softcap", [(None, None), (1, None), (16, 3.0), (47, None)])
def test_logprobs_equal_log_softmax_in_any_chunks(chunk, softcap):
    found = pulled(lambda *args: token_logprobs(*args, chunk=chunk, softcap=softcap))
    expected = pulled(lambda *args: naive_logprobs(*args, softcap=softcap))
    chex.assert_trees_all_equal_shapes_and_dtypes(found, expected)
    chex.assert_trees_all_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", MESHES, ids=name)
def test_logprobs_equal_log_softmax_on_meshes(config):
    expected = pulled(lambda *args: naive_logprobs(*args, softcap=3.0))
    with on(config) as put:
        found = pulled(lambda *args: token_logprobs(*args, chunk=2, softcap=3.0), put)
        if config.explicit:
            assert lies(found[0][0], "batch", None) and lies(found[1][1], "vocab", "embed")
    chex.assert_trees_all_close(found, expected, atol=1e-5, rtol=1e-5)


def test_logprobs_in_bfloat16():
    """Float32 of it, whatever the inputs are."""
    out, (dhidden, dhead) = pulled(lambda *args: token_logprobs(*args, chunk=16), dtype=jnp.bfloat16)
    expected = pulled(naive_logprobs)
    assert {x.dtype for x in out} == {jnp.dtype("float32")} and (dhidden.dtype, dhead.dtype) == ("bfloat16", "float32")
    chex.assert_trees_all_close(out, expected[0], atol=0.05)
    chex.assert_trees_all_close((np.float32(dhidden), dhead), expected[1], atol=0.15)


def test_logprobs_make_the_loss():
    found = jax.jit(token_logprobs)(HIDDEN, HEAD, LABELS)[0]
    np.testing.assert_allclose(-(found * WEIGHTS).sum(), cross_entropy(HIDDEN, HEAD, LABELS, WEIGHTS).nll, rtol=1e-5)


def test_large_logits_have_finite_logprobs():
    f = lambda hidden: token_logprobs(1e3 * hidden, jnp.asarray(HEAD), LABELS)[0].sum()
    chex.assert_tree_all_finite(jax.jit(jax.value_and_grad(f))(jnp.asarray(HIDDEN)))


def test_logprobs_alone_compute_no_gradient():
    """One product; with gradients the same one twice, and one each for hidden states and head."""
    f = lambda *args: token_logprobs(*args, LABELS, chunk=16)[0].sum()
    products = lambda f: jax.jit(f).lower(HIDDEN, HEAD).compile().as_text().count(" dot(")
    counts = [products(g) for g in (f, jax.value_and_grad(f), jax.value_and_grad(f, (0, 1)))]
    assert counts == [1, 3, 4]


@pytest.mark.parametrize("config", [None, *MESHES[4:6]], ids=name)
def test_a_bias_of_the_logits(config):
    """It is a column of the head that multiplies ones."""
    how = SMOOTHING | Z_LOSS | SOFTCAP

    def slow(head, bias, hidden):
        wide = jnp.concatenate([hidden, jnp.ones((B, T, 1))], -1), jnp.concatenate([head, bias[:, None]], 1)
        return naive(*wide, LABELS, WEIGHTS, **how).total

    def fast(head, bias, hidden, labels, weights):
        return cross_entropy(hidden, head, labels, weights, bias_V=bias, chunk=4, **how).total

    expected = jax.value_and_grad(slow, (0, 1, 2))(HEAD, BIAS, HIDDEN)
    with on(config) as put:
        args = put(HEAD, "vocab", "embed"), put(BIAS, "vocab"), put(HIDDEN, "batch", "seq", None)
        rows = put(LABELS, "batch", None), put(WEIGHTS, "batch", None)
        found = jax.jit(jax.value_and_grad(fast, (0, 1, 2)))(*args, *rows)
        chex.assert_trees_all_close(found, expected, atol=1e-4, rtol=1e-5)


def test_logprobs_with_a_bias_are_those_of_the_biased_logits():
    rng = np.random.default_rng(5)
    h, w, b = (rng.normal(size=s).astype(np.float32) for s in ((2, 3, 4), (7, 4), (7,)))
    labels = rng.integers(0, 7, (2, 3))
    found, _ = token_logprobs(h, w, labels, bias_V=b)
    wanted = jax.nn.log_softmax(h @ w.T + b)
    np.testing.assert_allclose(found, np.take_along_axis(np.asarray(wanted), labels[..., None], -1)[..., 0], atol=1e-5)
