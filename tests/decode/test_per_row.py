import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.decode import (
    CountPenalty,
    Epsilon,
    Eta,
    Greedy,
    LogitBias,
    MinLength,
    MinP,
    Mirostat,
    NoRepeatNgram,
    PerRow,
    RepetitionPenalty,
    Sampler,
    Temperature,
    TopK,
    TopP,
    Typical,
    in_order,
)
from jaxlm.decode.sampling import links
from jaxlm.errors import UserError

RNG = np.random.default_rng(0)
V, T, STEPS = 30, 6, 4
TEMPLATE = PerRow(
    in_order(
        *(LogitBias({}), RepetitionPenalty(1), CountPenalty(), MinLength(0, (2, 3)), Temperature(1), TopK(1), TopP(1)),
        *(MinP(0), Typical(1), Epsilon(0), Eta(0), Mirostat()),
    )
)
ROWS = [
    Sampler(),
    Greedy(),
    Temperature(0.5) | TopK(5),
    TopP(0.7),
    MinP(0.1) | Greedy(),
    LogitBias({4: 3.0, 5: -np.inf}) | RepetitionPenalty(1.5),
    CountPenalty(2.0, 1.0) | Typical(0.8),
    MinLength(3, (2, 3)) | Epsilon(0.02),
    Eta(0.05),
    Mirostat(1.5, 0.5),
]
B = len(ROWS)
TOKENS, MASK = jnp.asarray(RNG.integers(0, V, (B, T))), jnp.asarray(np.arange(T)[None] >= np.arange(B)[:, None] // 2)
LOGITS = jnp.asarray(RNG.normal(size=(STEPS, B, V)) * 3, jnp.float32)


def steps(sampler, state, keys, logits):
    """What is chosen in each step, and the logits that it is drawn from."""
    found = []
    for t, logits_BV in enumerate(logits):
        choice = sampler.choose(logits_BV, state, jax.vmap(jax.random.fold_in, (0, None))(keys, t))
        found.append((choice.token_B, sampler.filter(logits_BV, state)))
        state = sampler.after(state, choice)
    return jax.tree.map(lambda *xs: jnp.stack(xs), *found)


def test_each_row_is_as_if_alone_and_nothing_is_compiled_anew():
    traced, keys = [], jax.random.split(jax.random.key(1), B)

    @jax.jit
    def run(state, logits):
        traced.append(1)
        return steps(TEMPLATE, state, keys, logits)

    for order in (np.arange(B), np.arange(B)[::-1]):
        state = TEMPLATE.begin([ROWS[b] for b in order], TOKENS[order], MASK[order], V)
        tokens_TB, logits_TBV = run(state, LOGITS[:, order])
        if order[0]:
            continue
        for b, sampler in enumerate(ROWS):
            own = in_order(sampler)
            alone = own.start(TOKENS[b, None], MASK[b, None], V)
            expected = jax.jit(steps, static_argnums=0)(own, alone, keys[b, None], LOGITS[:, b, None])
            np.testing.assert_array_equal(tokens_TB[:, b], expected[0][:, 0], err_msg=str(sampler))
            if not isinstance(links(own)[-1], Greedy):
                np.testing.assert_allclose(logits_TBV[:, b], expected[1][:, 0], rtol=1e-5, err_msg=str(sampler))
    assert len(traced) == 1


def test_links_that_change_nothing_change_nothing():
    for template in (TEMPLATE, PerRow(TopK(2**30) | TopP(1))):
        state = template.begin([Sampler()] * B, TOKENS, MASK, V)
        np.testing.assert_array_equal(template.filter(LOGITS[0], state), LOGITS[0])
    state = PerRow(TopK(3)).start(TOKENS, MASK, V)
    assert (np.isfinite(PerRow(TopK(3)).filter(LOGITS[0], state)).sum(1) == 3).all()


def test_order_is_that_of_the_field():
    mixed = [Mirostat(), TopP(0.9), Temperature(2), RepetitionPenalty(2), TopK(3), LogitBias({1: 1}), NoRepeatNgram(2)]
    expected = [LogitBias, RepetitionPenalty, NoRepeatNgram, Temperature, TopK, TopP, Mirostat]
    assert [type(part) for part in links(in_order(*mixed))] == expected
    assert in_order(TopK(3)) == TopK(3) and in_order(TopP(0.5) | TopK(3)) == TopK(3) | TopP(0.5)


@pytest.mark.parametrize(
    "sampler, message",
    [
        (NoRepeatNgram(2), "NoRepeatNgram is not among the samplers that rows may have here"),
        (TopK(2) | TopK(3), "TopK stands twice in the sampler of a row"),
        ("x", "a sampler must be one of jaxlm's"),
    ],
)
def test_mistakes(sampler, message):
    with pytest.raises(UserError, match=message):
        TEMPLATE.begin([sampler], TOKENS[:1], MASK[:1], V)
