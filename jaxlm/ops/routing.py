"""Routing of a mixture of experts: which ones a token goes to, how much each counts, and how evenly they are used.

Logits are float32 (B, T, E). Every token chooses A of E experts: ids_BTA, with weights_BTA. Nothing here looks at
other tokens, but for the statistics.
"""

import jax
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array


def scores(logits_BTE: Array, kind: str) -> Array:
    """What the router thinks of each expert, in [0, 1]: "softmax" over all of them, or "sigmoid" of each alone."""
    return jax.nn.softmax(logits_BTE) if kind == "softmax" else jax.nn.sigmoid(logits_BTE)


def route(
    logits_BTE: Array,
    A: int,
    *,
    score: str = "softmax",
    norm_topk_prob: bool = True,
    scale: float = 1.0,
    balance_E: Array | None = None,
    groups: int = 1,
    topk_group: int = 1,
    group_score: str = "max",
) -> tuple[Array, Array]:
    """Top-k routing: weights_BTA and ids_BTA of the A experts of highest score, best first.

    A weight is the expert's score, divided by the sum of the chosen ones with `norm_topk_prob` (of a softmax that is
    the softmax over the chosen logits, as in Mixtral, arXiv:2401.04088), times `scale`. `balance_E` is added to the
    scores for choosing only (DeepSeek V3, arXiv:2412.19437): it changes no weight and gets no gradient. With `groups`
    of equally many experts only those of the best `topk_group` may be chosen (see `keep_groups`).
    """
    scores_BTE = scores(logits_BTE, score)
    # Scores that nothing is added to are ordered as the logits are, which do not become equal where scores saturate.
    choice_BTE = logits_BTE if groups == 1 else scores_BTE
    if balance_E is not None:
        choice_BTE = scores_BTE + balance_E[None, None]
    choice_BTE = jax.lax.stop_gradient(choice_BTE)
    if groups > 1:
        choice_BTE = keep_groups(choice_BTE, groups, topk_group, group_score)
    ids_BTA = jax.lax.top_k(choice_BTE, A)[1]
    weights_BTA = jnp.where(one_hot(ids_BTA, scores_BTE.shape[-1]), scores_BTE[:, :, None], 0).sum(-1)
    if norm_topk_prob:
        weights_BTA /= weights_BTA.sum(-1, keepdims=True) + 1e-20
    return weights_BTA * scale, ids_BTA


def sparse_mixer(logits_BTE: Array, A: int, jitter: float = 0.01) -> tuple[Array, Array]:
    """SparseMixer's choice without its noise (Liu et al. 2023, arXiv:2310.00811; Phi-3.5-MoE): weights_BTA and ids_BTA.

    A times, the best expert that is left, weighed by a softmax over those left whose logit l is near its own, m:
    (m - l) / max(|l|, m) <= 2 jitter.
    """
    left_BTE, weights, ids = logits_BTE, [], []
    for _ in range(A):
        best_BT1 = jax.lax.stop_gradient(left_BTE.max(-1, keepdims=True))
        far_BTE = (best_BT1 - logits_BTE) / jnp.maximum(jnp.abs(logits_BTE), best_BT1) > 2 * jitter
        chosen_BT1 = jnp.argmax(left_BTE, -1, keepdims=True)
        is_BTE = jnp.arange(logits_BTE.shape[-1])[None, None] == chosen_BT1
        near_BTE = jax.nn.softmax(jnp.where(jax.lax.stop_gradient(far_BTE), -jnp.inf, left_BTE))
        weights.append(jnp.where(is_BTE, near_BTE, 0).sum(-1))
        ids.append(chosen_BT1[..., 0])
        left_BTE = jnp.where(is_BTE, -jnp.inf, left_BTE)
    return jnp.stack(weights, -1), jnp.stack(ids, -1)


def one_hot(ids_BTA: Array, E: int) -> Array:
    """Booleans (B, T, A, E). Summing over them is quicker than gathers of single numbers and their gradients."""
    return ids_BTA[..., None] == jnp.arange(E, dtype=ids_BTA.dtype)[None, None, None]


def within(ids_BTA: Array, E: int, capacity: int) -> Array:
    """Whether a choice is among the first `capacity` ones of its row that fell on its expert (Switch; Fedus et al.
    2021, arXiv:2101.03961), bool (B, T, A)."""
    chosen_BTAE = one_hot(sharding.replicated(ids_BTA, 1), E)
    place_BTE = jnp.cumsum(chosen_BTAE.sum(2), 1)
    first_BTAE = place_BTE[:, :, None] <= capacity
    return (chosen_BTAE & first_BTAE).any(-1)


def keep_groups(choice_BTE: Array, groups: int, kept: int, group_score: str) -> Array:
    """-inf for all experts but those of the best `kept` groups.

    A group counts as its best expert ("max"; DeepSeek V2, arXiv:2405.04434) or as the sum of its best two ("top2";
    DeepSeek V3, arXiv:2412.19437).
    """
    B, T, E = choice_BTE.shape
    members = choice_BTE.reshape(B, T, groups, E // groups)
    score = jax.lax.top_k(members, {"max": 1, "top2": 2}[group_score])[0].sum(-1)
    best = jax.lax.top_k(score, kept)[1]
    keep = one_hot(best, groups).any(-2)
    return jnp.where(keep[..., None], members, -jnp.inf).reshape(B, T, E)


def statistics(logits_BTE: Array, ids_BTA: Array, score: str, slots: int | None = None) -> dict[str, Array]:
    """How a batch uses the experts, over all devices; float32.

    - load (E,): fraction f_e of all choices that fell on an expert; sums to 1.
    - importance (E,): mean P_e of its score, divided by the token's sum of scores; sums to 1.
    - balance_loss: E sum_e f_e P_e, 1 when even (Fedus et al. 2021, arXiv:2101.03961; f counts all A choices).
    - z_loss: mean of logsumexp(logits)^2 (Zoph et al. 2022, arXiv:2202.08906).
    - dropped: fraction of choices beyond the `slots` that an expert has on each device; 0 for None.
    """
    B, T, E = logits_BTE.shape
    rows, positions, _ = sharding.rows(T)
    X, Y = sharding.mesh_size(rows), sharding.mesh_size(positions)
    counts_BTE = one_hot(ids_BTA, E).astype(jnp.float32).sum(2)
    where = sharding.out_sharding(rows, None, positions, None, None)
    counts_XYE = counts_BTE.reshape(X, B // X, Y, T // Y, E, out_sharding=where).sum((1, 3))  # of each device
    load_E = counts_XYE.sum((0, 1)) / ids_BTA.size
    scores_BTE = scores(logits_BTE, score)
    importance_E = (scores_BTE / (scores_BTE.sum(-1, keepdims=True) + 1e-20)).mean((0, 1))
    beyond = jnp.zeros(()) if slots is None else jnp.maximum(counts_XYE - slots, 0).sum() / ids_BTA.size
    return {
        "load": load_E,
        "importance": importance_E,
        "balance_loss": E * jnp.sum(load_E * importance_E),
        "z_loss": jnp.mean(jnp.square(jax.nn.logsumexp(logits_BTE, -1))),
        "dropped": beyond,
    }


def mean_of(parts: dict[str, Array]) -> dict[str, Array]:
    """The statistics of a batch from those of equal parts of it, which stand on a leading axis; `dropped` as the parts
    had it."""
    mean = {name: x.mean(0) for name, x in parts.items()}
    if "load" in mean:  # a mean of products is no product of means
        mean["balance_loss"] = mean["load"].shape[-1] * jnp.sum(mean["load"] * mean["importance"], -1)
    return mean
