"""Policy gradients of texts: advantages and losses as pure functions.

R completions of T tokens each, of which `mask_RT` is 1 on those that the policy wrote; completions of one prompt are a
group of G neighbours. A ratio is p(token) under the policy over that at the time of the rollout.
"""

import jax
import jax.numpy as jnp

from jaxlm.axes import Array
from jaxlm.errors import unknown

LEAST_STD = 1e-4  # added to a deviation before it divides
AGGREGATIONS = ("grpo", "bnpo", "dr_grpo", "dapo")
BASELINES = ("group", "batch", "none")


def group_advantages(rewards_R: Array, G: int, scale: str = "group") -> Array:
    """(r - mean) / (std + 1e-4) (R,), mean and unbiased deviation of the G rewards of a group (GRPO; Shao et al. 2024,
    arXiv:2402.03300); `scale` "batch" divides by the deviation of all, "none" by nothing (Dr. GRPO; Liu et al. 2025,
    arXiv:2503.20783).

    Rewards that agree to rounding have advantage 0: a deviation of rounding errors would blow them up.
    """
    if scale not in BASELINES:
        raise unknown("scale of advantages", scale, BASELINES)
    r_NG = rewards_R.astype(jnp.float32).reshape(-1, G)
    a_NG = r_NG - jnp.mean(r_NG, 1, keepdims=True)
    size = jnp.maximum(jnp.max(jnp.abs(r_NG), 1, keepdims=True), 1)
    a_NG = jnp.where(jnp.max(jnp.abs(a_NG), 1, keepdims=True) <= 1e-6 * size, 0, a_NG)
    if scale == "group":
        a_NG /= jnp.sqrt(jnp.sum(a_NG**2, 1, keepdims=True) / max(G - 1, 1)) + LEAST_STD
    elif scale == "batch":
        a_NG /= jnp.std(r_NG, ddof=1) + LEAST_STD
    return a_NG.reshape(-1)


def leave_one_out(rewards_R: Array, G: int) -> Array:
    """r less the mean of the others of its group, (R,) (RLOO; Ahmadian et al. 2024, arXiv:2402.14740)."""
    r_NG = rewards_R.astype(jnp.float32).reshape(-1, G)
    return ((r_NG - jnp.mean(r_NG, 1, keepdims=True)) * G / max(G - 1, 1)).reshape(-1)


def gae(
    rewards_RT: Array, values_RT: Array, mask_RT: Array, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Array, Array]:
    """Generalised advantage estimates and returns, (R, T) both (Schulman et al. 2015, arXiv:1506.02438):

        d_t = r_t + gamma v_{t+1} - v_t,   A_t = d_t + gamma lam A_{t+1},   returns = A + v

    where what follows the last token is worth 0.
    """
    values_RT = values_RT * mask_RT

    def back(carry: tuple[Array, Array], x: tuple[Array, Array, Array]) -> tuple[tuple[Array, Array], Array]:
        after_R, next_R = carry
        r_R, v_R, m_R = x
        a_R = m_R * (r_R + gamma * next_R - v_R + gamma * lam * after_R)
        keep = lambda new_R, old_R: jnp.where(m_R > 0, new_R, old_R)
        return (keep(a_R, after_R), keep(v_R, next_R)), a_R

    zero_R = jnp.zeros_like(values_RT[:, 0])
    time = lambda x_RT: jnp.moveaxis(x_RT, 1, 0)
    xs = time(rewards_RT), time(values_RT), time(mask_RT)
    _, a_TR = jax.lax.scan(back, (zero_R, zero_R), xs, reverse=True)
    a_RT = jnp.moveaxis(a_TR, 0, 1)
    return a_RT, (a_RT + values_RT) * mask_RT


def whiten(x_RT: Array, mask_RT: Array, shift_mean: bool = True) -> Array:
    """(x - mean) / sqrt(var + 1e-8) over what the mask has; without `shift_mean` the mean is added again."""
    count = jnp.maximum(jnp.sum(mask_RT), 1)
    mean = jnp.sum(x_RT * mask_RT) / count
    var = jnp.sum(mask_RT * (x_RT - mean) ** 2) / count
    return ((x_RT - mean) * jax.lax.rsqrt(var + 1e-8) + (0 if shift_mean else mean)) * mask_RT


def ratios(new_RT: Array, old_RT: Array, mask_RT: Array, sequence: bool = False) -> Array:
    """exp(new - old), a token; of a `sequence` the mean of its tokens' log ratios counts for all of them, (R, 1) (GSPO;
    Zheng et al. 2025, arXiv:2507.18071)."""
    log_RT = (new_RT - old_RT) * mask_RT
    if sequence:
        log_RT = jnp.sum(log_RT, 1, keepdims=True) / jnp.maximum(jnp.sum(mask_RT, 1, keepdims=True), 1)
    return jnp.exp(log_RT)


def clipped(ratio_RT: Array, advantages_RT: Array, low: float = 0.2, high: float = 0.2) -> Array:
    """-min(ratio A, clip(ratio, 1 - low, 1 + high) A) (PPO; Schulman et al. 2017, arXiv:1707.06347; `high` apart from
    `low` is DAPO's clip-higher, Yu et al. 2025, arXiv:2503.14476)."""
    return -jnp.minimum(ratio_RT * advantages_RT, jnp.clip(ratio_RT, 1 - low, 1 + high) * advantages_RT)


def cispo(ratio_RT: Array, advantages_RT: Array, new_RT: Array, high: float = 0.2) -> Array:
    """-min(ratio, high) A log p, no gradient through the ratio (MiniMax-M1; arXiv:2506.13585); `high` is the bound
    itself."""
    return -jax.lax.stop_gradient(jnp.minimum(ratio_RT, high)) * advantages_RT * new_RT


def value_loss(values_RT: Array, old_RT: Array, returns_RT: Array, clip: float = 0.2) -> Array:
    """max((v - R)^2, (clip(v, old - clip, old + clip) - R)^2) / 2, a token."""
    near_RT = jnp.clip(values_RT, old_RT - clip, old_RT + clip)
    return 0.5 * jnp.maximum((values_RT - returns_RT) ** 2, (near_RT - returns_RT) ** 2)


def k3(new_RT: Array, reference_RT: Array) -> Array:
    """exp(ref - new) - (ref - new) - 1, a token: an estimate of KL(policy | reference) that is never below 0 (Schulman
    2020)."""
    d_RT = reference_RT - new_RT
    return jnp.exp(d_RT) - d_RT - 1


def aggregate(loss_RT: Array, mask_RT: Array, how: str = "dapo", longest: int = 1) -> tuple[Array, Array]:
    """The sum of tokens' losses and what it is divided by, both of which may be added over parts of a batch:

    | how | loss | |
    |---|---|---|
    | grpo | mean over completions of the mean of their tokens | sum of means, R |
    | dapo | mean over all tokens | sum, tokens |
    | bnpo | the same of each part, and the mean of parts | mean, 1 |
    | dr_grpo | sum over R times `longest`, whatever the lengths are | sum / longest, R |
    """
    if how not in AGGREGATIONS:
        raise unknown("loss", how, AGGREGATIONS)
    tokens = jnp.maximum(jnp.sum(mask_RT), 1)
    each_R, length_R = jnp.sum(loss_RT * mask_RT, 1), jnp.sum(mask_RT, 1)
    rows = jnp.asarray(len(mask_RT), jnp.float32)
    if how == "grpo":
        return jnp.sum(each_R / jnp.maximum(length_R, 1)), rows
    if how == "dr_grpo":
        return jnp.sum(each_R) / longest, rows
    if how == "bnpo":
        return jnp.sum(each_R) / tokens, jnp.ones(())
    return jnp.sum(each_R), tokens


def adapted(beta: Array | float, kl: Array | float, target: float, rows: int, horizon: int = 10_000) -> Array | float:
    """The weight of the KL penalty after so many rows with that KL, which leads it to `target` (Ziegler et al. 2019,
    arXiv:1909.08593): beta (1 + clip(kl / target - 1, -0.2, 0.2) rows / horizon)."""
    error = min(max(float(kl) / target - 1, -0.2), 0.2)
    return beta * (1 + error * rows / horizon)
