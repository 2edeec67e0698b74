"""Policy gradients: equal to TRL's, to slow references, and what must hold whatever the numbers."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.ops import policy

GOLDEN = np.load(Path(__file__).parents[1] / "goldens_preference/losses.npz")
NEW, OLD, REFERENCE, MASK = (jnp.array(GOLDEN[name]) for name in ("new", "old", "reference", "mask"))
REWARDS, G = jnp.array(GOLDEN["rewards"]), 4
KINDS = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "gspo")
close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


def loss(new_RT, kind="dapo", advantages_R=None, beta=0.04, mask_RT=MASK, old_RT=OLD, reference_RT=REFERENCE):
    advantages_R = policy.group_advantages(REWARDS, G) if advantages_R is None else advantages_R
    ratio_RT, a_RT = policy.ratios(new_RT, old_RT, mask_RT, kind == "gspo"), advantages_R[:, None]
    each_RT = policy.cispo(ratio_RT, a_RT, new_RT, 1.1) if kind == "cispo" else policy.clipped(ratio_RT, a_RT, 0.2, 0.3)
    if beta:
        each_RT += beta * policy.k3(new_RT, reference_RT)
    how = {"cispo": "dapo", "gspo": "grpo"}.get(kind, kind)
    total, weight = policy.aggregate(each_RT, mask_RT, how, mask_RT.shape[1])
    return total / weight


@pytest.mark.parametrize("kind", KINDS)
def test_variants_as_trl_has_them(kind):
    found, gradient = jax.value_and_grad(lambda new: loss(new, kind))(NEW)
    close(found, GOLDEN[f"policy/{kind}"])
    close(gradient, GOLDEN[f"policy_grad/{kind}"])


def test_advantages_of_groups():
    close(policy.group_advantages(REWARDS, G), GOLDEN["advantages"])
    plain = np.asarray(REWARDS).reshape(-1, G)
    close(policy.group_advantages(REWARDS, G, "none"), (plain - plain.mean(1, keepdims=True)).ravel())
    wanted = (plain - plain.mean(1, keepdims=True)).ravel() / (plain.std(ddof=1) + 1e-4)
    close(policy.group_advantages(REWARDS, G, "batch"), wanted)
    with pytest.raises(UserError, match="unknown scale of advantages 'grup': did you mean 'group'"):
        policy.group_advantages(REWARDS, G, "grup")


@pytest.mark.parametrize("kind", KINDS)
def test_equal_rewards_give_no_gradient(kind):
    for reward in (0.0, 1.0, 0.1, 1234.567):
        a_R = policy.group_advantages(jnp.full(8, reward), G)
        assert not np.any(jax.grad(lambda new, a_R=a_R: loss(new, kind, a_R, beta=0.0))(NEW))


@pytest.mark.parametrize("advantages", [policy.group_advantages, policy.leave_one_out])
def test_a_constant_changes_nothing_and_order_within_a_group_is_irrelevant(advantages):
    np.testing.assert_allclose(advantages(REWARDS + 8, G), advantages(REWARDS, G), atol=1e-5)
    order = np.array([2, 0, 3, 1, 5, 4, 7, 6])
    np.testing.assert_allclose(advantages(REWARDS[order], G), np.asarray(advantages(REWARDS, G))[order], atol=1e-6)


def test_leave_one_out_as_a_loop():
    r = np.asarray(REWARDS).reshape(-1, G)
    wanted = [[x[i] - np.delete(x, i).mean() for i in range(G)] for x in r]
    close(policy.leave_one_out(REWARDS, G), np.ravel(wanted))


def test_dapo_is_bnpo_of_one_part_and_order_of_rows_is_irrelevant():
    close(loss(NEW, "dapo"), loss(NEW, "bnpo"))
    a_R, order = policy.group_advantages(REWARDS, G), np.array([3, 1, 0, 2, 6, 7, 5, 4])
    moved = {"advantages_R": a_R[order], "mask_RT": MASK[order], "old_RT": OLD[order]}
    for kind in KINDS:
        close(loss(NEW[order], kind, reference_RT=REFERENCE[order], **moved), loss(NEW, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind):
    wide = lambda x, value: jnp.pad(x, ((0, 0), (0, 3)), constant_values=value)
    found = loss(wide(NEW, -5.0), kind, mask_RT=wide(MASK, 0), old_RT=wide(OLD, 9.0), reference_RT=wide(REFERENCE, 2.0))
    scale = 12 / 9 if kind == "dr_grpo" else 1  # divides by the room
    close(found * scale, loss(NEW, kind))


@pytest.mark.parametrize("gamma, lam", [(1.0, 0.95), (0.9, 1.0), (0.9, 0.0)])
def test_gae_as_a_sum(gamma, lam):
    rng = np.random.default_rng(3)
    r, v = rng.normal(size=(8, 9)), rng.normal(size=(8, 9))
    mask = np.asarray(MASK)
    a, returns = policy.gae(*(jnp.array(x, jnp.float32) for x in (r * mask, v, mask)), gamma, lam)
    for i in range(8):
        n = int(mask[i].sum())
        value = lambda t, i=i, n=n: v[i, t] if t < n else 0.0
        delta = [r[i, t] + gamma * value(t + 1) - value(t) for t in range(n)]
        wanted = [sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, n)) for t in range(n)]
        np.testing.assert_allclose(a[i, :n], wanted, atol=1e-5)
        np.testing.assert_allclose(returns[i, :n], np.add(wanted, v[i, :n]), atol=1e-5)
    assert not np.any(np.where(mask == 0, a, 0)) and not np.any(np.where(mask == 0, returns, 0))


def test_whitening_and_values():
    x = policy.whiten(NEW, MASK)
    real = np.asarray(x)[np.asarray(MASK) > 0]
    assert abs(real.mean()) < 1e-6 and abs(real.std() - 1) < 1e-5
    kept = np.asarray(policy.whiten(NEW, MASK, shift_mean=False))[np.asarray(MASK) > 0]
    close(kept.mean(), np.asarray(NEW)[np.asarray(MASK) > 0].mean())
    found = policy.value_loss(jnp.array([[1.0, 0.1]]), jnp.array([[0.0, 0.0]]), jnp.array([[2.0, 0.0]]))
    close(found, [[0.5 * 1.8**2, 0.5 * 0.01]])


def test_the_weight_of_a_penalty_follows_its_target():
    assert policy.adapted(0.1, 12.0, 6.0, 1000) > 0.1 > policy.adapted(0.1, 3.0, 6.0, 1000)
    assert policy.adapted(0.1, 6.0, 6.0, 1000) == 0.1


def test_unknown_aggregation():
    with pytest.raises(UserError, match="unknown loss 'dap': did you mean 'dapo'"):
        policy.aggregate(NEW, MASK, "dap")
