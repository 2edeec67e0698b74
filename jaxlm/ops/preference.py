"""Losses of preferences as pure functions of log probabilities, which are sums over a completion's tokens.

A pair is a chosen and a rejected completion of one prompt; the log ratio of a completion is log p(y | x) under the
policy less that under the reference. Everything is float32 (B,). Names are those of TRL.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlm.axes import Array
from jaxlm.errors import UserError, unknown

sigma, log_sigma = jax.nn.sigmoid, jax.nn.log_sigmoid


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Of B pairs the log probabilities under policy and reference, and the completions' lengths in tokens."""

    chosen_B: Array
    rejected_B: Array
    reference_chosen_B: Array
    reference_rejected_B: Array
    chosen_length_B: Array
    rejected_length_B: Array


def reverse_kl(ratio_B: Array) -> Array:
    return ratio_B


def forward_kl(ratio_B: Array) -> Array:
    return 1 - jnp.exp(-ratio_B)


def js_divergence(ratio_B: Array) -> Array:
    return jnp.log(2.0) + log_sigma(ratio_B)


def alpha_divergence(ratio_B: Array, alpha: float = 0.5) -> Array:
    """Of alpha 1 the limit, `reverse_kl`."""
    if abs(alpha - 1) < 1e-6:
        return ratio_B
    return (jnp.exp(jnp.minimum((alpha - 1) * ratio_B, 80.0)) - 1) / (alpha - 1)


# f'(t) at a log ratio log t (Wang et al. 2023, arXiv:2309.16240)
DIVERGENCES = {
    "reverse_kl": reverse_kl,
    "forward_kl": forward_kl,
    "js_divergence": js_divergence,
    "alpha_divergence": alpha_divergence,
}


class Scores(NamedTuple):
    """What the forms of DPO read: scores c and r of both completions, which are log ratios or f'(t) of them."""

    pairs: Pairs
    chosen_B: Array
    rejected_B: Array
    chosen_ratio_B: Array
    rejected_ratio_B: Array
    smoothing: float

    @property
    def delta_B(self) -> Array:
        return self.chosen_B - self.rejected_B

    @property
    def mean_delta_B(self) -> Array:
        """The difference of the scores per token."""
        one = lambda x_B, length_B: x_B / jnp.maximum(length_B, 1)
        return one(self.chosen_B, self.pairs.chosen_length_B) - one(self.rejected_B, self.pairs.rejected_length_B)


def _sigmoid(s: Scores, b: float) -> Array:
    return -log_sigma(b * s.delta_B)


def _conservative(s: Scores, b: float) -> Array:
    e = s.smoothing
    return -(1 - e) * log_sigma(b * s.delta_B) - e * log_sigma(-b * s.delta_B)


def _hinge(s: Scores, b: float) -> Array:
    return jax.nn.relu(1 - b * s.delta_B)


def _ipo(s: Scores, b: float) -> Array:
    return (s.mean_delta_B - 1 / (2 * b)) ** 2


def _exo(s: Scores, b: float) -> Array:
    e, x_B = s.smoothing or 1e-3, b * s.delta_B
    return sigma(x_B) * (log_sigma(x_B) - jnp.log1p(-e)) + sigma(-x_B) * (log_sigma(-x_B) - jnp.log(e))


def _nca(s: Scores, b: float) -> Array:
    c_B, r_B = b * s.chosen_ratio_B, b * s.rejected_ratio_B
    return -log_sigma(c_B) - 0.5 * log_sigma(-c_B) - 0.5 * log_sigma(-r_B)


def _robust(s: Scores, b: float) -> Array:
    e = s.smoothing
    return (-(1 - e) * log_sigma(b * s.delta_B) + e * log_sigma(-b * s.delta_B)) / (1 - 2 * e)


def _bco(s: Scores, b: float) -> Array:
    return -log_sigma(b * s.chosen_ratio_B) - log_sigma(-b * s.rejected_ratio_B)


def _sppo(s: Scores, b: float) -> Array:
    return (s.chosen_ratio_B - 0.5 / b) ** 2 + (s.rejected_ratio_B + 0.5 / b) ** 2


def _aligned(upper_B: Array, lower_B: Array, b: float, e: float) -> Array:
    delta_B = jnp.sort(upper_B) - jnp.sort(lower_B)
    return -(1 - e) * log_sigma(b * delta_B) - e * log_sigma(-b * delta_B)


def _aot(s: Scores, b: float) -> Array:
    p = s.pairs
    own_B, reference_B = p.chosen_B - p.rejected_B, p.reference_chosen_B - p.reference_rejected_B
    return _aligned(own_B, reference_B, b, s.smoothing)


def _aot_unpaired(s: Scores, b: float) -> Array:
    return _aligned(s.chosen_ratio_B, s.rejected_ratio_B, b, s.smoothing)


def _apo_zero(s: Scores, b: float) -> Array:
    return 1 - sigma(b * s.chosen_ratio_B) + sigma(b * s.rejected_ratio_B)


def _apo_down(s: Scores, b: float) -> Array:
    return sigma(b * s.chosen_ratio_B) + 1 - sigma(b * (s.chosen_ratio_B - s.rejected_ratio_B))


def _discopop(s: Scores, b: float) -> Array:
    x_B = b * s.delta_B
    share_B = sigma(x_B / 0.05)
    return -log_sigma(x_B) * (1 - share_B) + jnp.exp(-x_B) * share_B


def _sigmoid_norm(s: Scores, b: float) -> Array:
    return -log_sigma(b * s.mean_delta_B)


# The paper of each; where several readings exist, the one of TRL 1.16.
FORMS: dict[str, Callable[[Scores, float], Array]] = {
    "sigmoid": _sigmoid,  # Rafailov et al. 2023, arXiv:2305.18290
    "conservative": _conservative,  # cDPO: sigmoid of labels that are wrong with probability `label_smoothing`
    "hinge": _hinge,  # Zhao et al. 2023, arXiv:2305.10425
    "ipo": _ipo,  # Azar et al. 2023, arXiv:2310.12036, per token
    "exo_pair": _exo,  # Ji et al. 2024, arXiv:2402.00856
    "nca_pair": _nca,  # Chen et al. 2024, arXiv:2402.05369
    "robust": _robust,  # Chowdhury et al. 2024, arXiv:2403.00409
    "bco_pair": _bco,  # Jung et al. 2024, arXiv:2404.04656
    "sppo_hard": _sppo,  # Wu et al. 2024, arXiv:2405.00675
    "aot": _aot,  # Melnyk et al. 2024, arXiv:2406.05882
    "aot_unpaired": _aot_unpaired,
    "apo_zero": _apo_zero,  # D'Oosterlinck et al. 2024, arXiv:2408.06266
    "apo_down": _apo_down,
    "discopop": _discopop,  # Lu et al. 2024, arXiv:2406.08414
    "sigmoid_norm": _sigmoid_norm,  # Lambert et al. 2024 (Tulu 3), arXiv:2411.15124: per token
}


def dpo(
    pairs: Pairs, form: str = "sigmoid", beta: float = 0.1, label_smoothing: float = 0.0, divergence: str = "reverse_kl"
) -> Array:
    """The loss (B,) of direct preference optimisation in one of its `FORMS`; the first, of log ratios c and r, is

        -log sigmoid(beta (c - r))

    `label_smoothing` counts in conservative, robust, exo_pair and aot. Raises UserError for an unknown form or
    divergence, and for robust at a smoothing of one half."""
    if form not in FORMS:
        raise unknown("form of DPO", form, FORMS)
    if divergence not in DIVERGENCES:
        raise unknown("divergence", divergence, DIVERGENCES)
    if form == "robust" and label_smoothing >= 0.5:
        raise UserError(f"label_smoothing={label_smoothing} must be below 0.5: of robust half of the labels are right")
    c_B, r_B = pairs.chosen_B - pairs.reference_chosen_B, pairs.rejected_B - pairs.reference_rejected_B
    f = DIVERGENCES[divergence]
    return FORMS[form](Scores(pairs, f(c_B), f(r_B), c_B, r_B, label_smoothing), beta)


def kto(ratio_B: Array, desirable_B: Array, kl: Array, beta: float = 0.1) -> Array:
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv:2402.01306) of single completions with their log
    ratios, (B,): 1 - sigmoid(beta (ratio - kl)) of those that are wanted, 1 - sigmoid(beta (kl - ratio)) of the others.

    `kl` >= 0 is an estimate of KL(policy | reference), the mean log ratio of completions of other prompts; no gradient
    flows through it."""
    kl = jax.lax.stop_gradient(jnp.maximum(kl, 0))
    return 1 - sigma(beta * jnp.where(desirable_B > 0, ratio_B - kl, kl - ratio_B))


def log_odds(mean_chosen_B: Array, mean_rejected_B: Array) -> Array:
    """log (odds of chosen / odds of rejected), odds p / (1 - p), of mean log probabilities per token."""
    log_not = lambda x_B: jnp.log(-jnp.expm1(jnp.minimum(x_B, -1e-7)))  # of 1 - p
    return mean_chosen_B - mean_rejected_B - (log_not(mean_chosen_B) - log_not(mean_rejected_B))


def orpo(mean_chosen_B: Array, mean_rejected_B: Array, beta: float = 0.1) -> Array:
    """What odds ratio preference optimisation adds to the chosen text's negative log-likelihood, (B,): -beta
    log sigmoid(log odds ratio), of mean log probabilities per token (Hong et al. 2024, arXiv:2403.07691)."""
    return -beta * log_sigma(log_odds(mean_chosen_B, mean_rejected_B))


def cpo(chosen_B: Array, rejected_B: Array, beta: float = 0.1, label_smoothing: float = 0.0) -> Array:
    """Contrastive preference optimisation, (B,): DPO's sigmoid without a reference, to which the chosen completions'
    negative log-likelihood is added (Xu et al. 2024, arXiv:2401.08417)."""
    x_B = beta * (chosen_B - rejected_B)
    return -(1 - label_smoothing) * log_sigma(x_B) - label_smoothing * log_sigma(-x_B)


def simpo(
    mean_chosen_B: Array, mean_rejected_B: Array, beta: float = 2.0, gamma: float = 1.0, label_smoothing: float = 0.0
) -> Array:
    """-log sigmoid(beta (c - r) - gamma) of mean log probabilities per token, (B,) (Meng et al. 2024,
    arXiv:2405.14734)."""
    return cpo(mean_chosen_B - gamma / beta, mean_rejected_B, beta, label_smoothing)


def bradley_terry(chosen_B: Array, rejected_B: Array, margin_B: Array | float = 0.0, centring: float = 0.0) -> Array:
    """-log sigmoid(c - r - margin) + centring (c + r)^2 of the rewards of pairs, (B,) (Bradley and Terry 1952; the
    margin Touvron et al. 2023, arXiv:2307.09288; the centring Eisenstein et al. 2023, arXiv:2312.09244)."""
    return -log_sigma(chosen_B - rejected_B - margin_B) + centring * (chosen_B + rejected_B) ** 2
