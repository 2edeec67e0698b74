import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.data.text_pairs import pairs_row
from jaxlm.errors import UserError
from jaxlm.objectives import SequenceToSequence
from tests.models import test_rnn_seq2seq as rnn
from tests.models import test_seq2seq as transformer
from tests.tiny import model as tiny_model
from tests.weights import weights

RNG = np.random.default_rng(0)
PAIRS = [tuple(RNG.integers(3, 20, n).astype(np.int32) for n in sizes) for sizes in ((4, 2), (3, 5), (1, 1))]
BAHDANAU = rnn.MODELS["bahdanau"]
MODELS = {
    "transformer": (transformer.MODEL, transformer.PARAMS),
    "bahdanau": (BAHDANAU, weights(BAHDANAU.build(), rnn.START, **rnn.MORE)),
}


def losses(model, params):
    """Of rows of pairs, the sums of each row."""
    one = jax.jit(lambda params, batch: SequenceToSequence().loss(model, params, batch)[0])

    def run(*rows):
        batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        return jax.device_get(one(params, batch))

    return run


@pytest.mark.parametrize("model, params", MODELS.values(), ids=MODELS)
def test_packed_pairs_lose_what_each_loses_alone(model, params):
    """And one of them does not see what the others are."""
    run, row = losses(model, params), lambda pairs: pairs_row(pairs, 1, 2, 12)
    alone = [run(row([pair])) for pair in PAIRS]
    together = run(row(PAIRS))
    assert together.weight == sum(one.weight for one in alone) == 3 + 6 + 2
    np.testing.assert_allclose(together.total, sum(one.total for one in alone), rtol=1e-5)
    first = row([PAIRS[0], *[(source[::-1] + 1, target + 1) for source, target in PAIRS[1:]]])
    first["weights"] *= first["segments"] == 1
    np.testing.assert_allclose(run(first).total, alone[0].total, rtol=1e-5)


def test_smoothing_is_of_training_only():
    model, params = MODELS["transformer"]
    batch = {name: x[None] for name, x in pairs_row(PAIRS, 1, 2, 12).items()}
    found = jax.jit(lambda p, batch, key: SequenceToSequence(0.1).loss(model, p, batch, key)[0])
    trained, rated = found(params, batch, jax.random.key(0)), found(params, batch, None)
    np.testing.assert_allclose(rated.total, rated.shown["nll"], rtol=1e-6)
    np.testing.assert_allclose(trained.shown["nll"], rated.total, rtol=1e-6)
    out = model.build().apply(
        {"params": params},
        jnp.asarray(batch["tokens"]),
        batch["positions"],
        batch["segments"],
        source_BS=jnp.asarray(batch["source"]),
        source_segments_BS=batch["source_segments"],
        source_positions_BS=batch["source_positions"],
    )
    flat = -jax.nn.log_softmax(out).mean(-1)  # the loss where all tokens are alike
    wanted = 0.9 * rated.total + 0.1 * (flat * batch["weights"]).sum()
    np.testing.assert_allclose(trained.total, wanted, rtol=1e-5)


def test_what_cannot_be():
    with pytest.raises(UserError, match="it reads no source"):
        SequenceToSequence().check(tiny_model())
    with pytest.raises(UserError, match="label_smoothing"):
        dataclasses.replace(SequenceToSequence(), label_smoothing=1.0)
