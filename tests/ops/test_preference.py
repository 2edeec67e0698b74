"""Losses of preferences: equal to TRL's, and what must hold whatever the numbers."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.ops import preference

GOLDEN = np.load(Path(__file__).parents[1] / "goldens_preference/losses.npz")
NAMES = ("chosen", "rejected", "reference_chosen", "reference_rejected")
PAIRS = preference.Pairs(*(jnp.array(GOLDEN[name]) for name in NAMES), *jnp.array(GOLDEN["lengths"], jnp.float32))
MEANS = jnp.array(GOLDEN["mean_chosen"]), jnp.array(GOLDEN["mean_rejected"])
close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-6)
CASES = [name for name in GOLDEN.files if name.partition("/")[0] in ("dpo", "smooth", "divergence")]


@pytest.mark.parametrize("case", CASES)
def test_forms_of_dpo_as_trl_has_them(case):
    kind, _, name = case.partition("/")
    form, divergence = ("sigmoid", name) if kind == "divergence" else (name, "reverse_kl")
    close(preference.dpo(PAIRS, form, 0.1, 0.1 if kind == "smooth" else 0.0, divergence), GOLDEN[case])


def test_every_form_has_a_golden():
    there = {case.partition("/")[2] for case in CASES}
    assert set(preference.FORMS) - there == {"conservative"}  # TRL 1.16 has none: below
    assert set(preference.DIVERGENCES) - there == {"reverse_kl"}


def test_conservative_is_the_expected_sigmoid_of_labels_that_may_be_wrong():
    swapped = preference.Pairs(
        PAIRS.rejected_B,
        PAIRS.chosen_B,
        PAIRS.reference_rejected_B,
        PAIRS.reference_chosen_B,
        PAIRS.rejected_length_B,
        PAIRS.chosen_length_B,
    )
    wanted = 0.9 * preference.dpo(PAIRS) + 0.1 * preference.dpo(swapped)
    close(preference.dpo(PAIRS, "conservative", label_smoothing=0.1), wanted)


@pytest.mark.parametrize("kl", [0.0, 1.7])
def test_kto_as_trl_has_it(kl):
    p = PAIRS
    ratio_B = jnp.concatenate([p.chosen_B - p.reference_chosen_B, p.rejected_B - p.reference_rejected_B])
    wanted_B = jnp.repeat(jnp.array([1, 0]), 8)
    close(preference.kto(ratio_B, wanted_B, jnp.array(kl)), GOLDEN[f"kto/{kl}"])
    assert not jax.grad(lambda kl: preference.kto(ratio_B, wanted_B, kl).sum())(jnp.array(kl))


def test_losses_without_a_reference_as_trl_has_them():
    close(preference.orpo(*MEANS), GOLDEN["orpo"])
    close(preference.cpo(PAIRS.chosen_B, PAIRS.rejected_B, 0.1, 0.1), GOLDEN["cpo"])
    close(preference.simpo(*MEANS), GOLDEN["simpo"])


def test_a_policy_that_is_its_reference_has_the_loss_of_a_coin():
    same = preference.Pairs(PAIRS.chosen_B, PAIRS.rejected_B, PAIRS.chosen_B, PAIRS.rejected_B, *[jnp.ones(8)] * 2)
    close(preference.dpo(same), np.full(8, np.log(2)))
    close(preference.bradley_terry(MEANS[0], MEANS[0]), np.full(8, np.log(2)))


def test_bradley_terry():
    c, r = jnp.array([2.0, -1.0]), jnp.array([0.5, 0.0])
    wanted = np.log1p(np.exp(-(np.array([1.5, -1.0]) - 0.25))) + 0.1 * np.array([6.25, 1.0])
    close(preference.bradley_terry(c, r, 0.25, 0.1), wanted)


def test_what_cannot_be():
    with pytest.raises(UserError, match="unknown form of DPO 'sigmod': did you mean 'sigmoid'"):
        preference.dpo(PAIRS, "sigmod")
    with pytest.raises(UserError, match="unknown divergence 'kl'"):
        preference.dpo(PAIRS, divergence="kl")
    with pytest.raises(UserError, match=r"label_smoothing=0\.5 must be below 0.5"):
        preference.dpo(PAIRS, "robust", label_smoothing=0.5)
